#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Looks at the machine code of the attention kernels for compute capability 9.0, in the build of scripts/build-cuda.cjs: of each loop over blocks
// of keys its instructions, how often numbers are moved to uniform registers (operands of products that are made anew in each step), and
// whether the softmax still runs beside a product.
//
//   node scripts/check-sass.cjs [object file ...]       needs cuobjdump and nvdisasm of the CUDA toolkit, in PATH or $CUDA_PATH/bin
//
// Fails if a loop makes too many operands anew, or if the compiler moved a wait for products before the exponentials. Exits with 2 without cuobjdump.
'use strict';
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const OBJECTS = path.join(root, 'cuda/build/CMakeFiles/kernels_hopper.dir');
/** Of head dim 256, whose operands do not all fit into uniform registers; with none known to be uniform there are about 50. */
const MOST_MOVES = 24;

const places = [process.env.CUDA_PATH, process.env.CUDA_HOME, '/usr/local/cuda', '/opt/cuda'].filter(Boolean);
const env = { ...process.env, PATH: [process.env.PATH, ...places.map((each) => path.join(each, 'bin'))].join(':') };

function disassembled(object) {
  const { status, stdout, stderr, error } = spawnSync('cuobjdump', ['--dump-sass', object], {
    encoding: 'utf8',
    env,
    maxBuffer: 1 << 30,
  });
  if (error?.code === 'ENOENT') {
    console.error(
      'check-sass: expected cuobjdump, of the CUDA toolkit, in PATH or $CUDA_PATH/bin, got none: nothing was checked',
    );
    process.exit(2);
  }
  if (status !== 0) throw new Error(`cuobjdump ${object}: ${stderr}`);
  return stdout;
}

/** The instructions of a function: address, name without its suffixes, and whole text. */
function instructionsOf(text) {
  return [...text.matchAll(/\/\*([0-9a-f]{4,5})\*\/\s+(.*?);/g)].map(([, address, whole]) => {
    const name = whole.replace(/^@!?U?P\w+\s+/, '').split(/\s/)[0];
    return { address: parseInt(address, 16), name, text: whole };
  });
}

/** Bodies of the loops over blocks of keys: those with the products of one step. What writes to global memory is a loop over tiles. */
function hotLoops(instructions, products) {
  const at = new Map(instructions.map(({ address }, i) => [address, i]));
  const loops = [];
  instructions.forEach(({ name, text, address }, i) => {
    const target = name.startsWith('BRA') && /(0x[0-9a-f]+)\s*$/.exec(text);
    const begin = target ? at.get(Number(target[1])) : undefined;
    if (begin === undefined || Number(target[1]) >= address) return;
    const body = instructions.slice(begin, i + 1);
    const count = (each) => body.filter(({ name: other }) => other.startsWith(each)).length;
    if (count('HGMMA') === products && count('STG') === 0) loops.push(body);
  });
  return loops;
}

function check(title, body) {
  const count = (name) => body.filter((each) => each.name.startsWith(name)).length;
  const waitAt = (pending) =>
    body.findIndex((each) => each.name.startsWith('WARPGROUP.DEPBAR') && each.text.includes(`0x${pending}`));
  const [scores, output] = [waitAt(1), waitAt(0)];
  const exponentials = body.map(({ name }, i) => (name.startsWith('MUFU') ? i : -1)).filter((i) => i >= 0);
  const beside = exponentials.filter((i) => scores < i && i < output).length;
  const moves = count('R2UR');
  const problems = [];
  if (scores < 0 || output < 0 || beside < 0.9 * exponentials.length)
    problems.push(`only ${beside} of ${exponentials.length} exponentials lie between the waits`);
  if (moves > MOST_MOVES) problems.push(`${moves} moves to uniform registers, expected at most ${MOST_MOVES}`);
  console.log(
    `${title}: ${body.length} instructions, ${count('HGMMA')} products, ${moves} moves${problems.map((each) => `; WRONG: ${each}`).join('')}`,
  );
  return problems.length;
}

const objects =
  process.argv.length > 2
    ? process.argv.slice(2)
    : fs.existsSync(OBJECTS)
      ? fs
          .readdirSync(OBJECTS, { recursive: true })
          .filter((name) => name.endsWith('.o'))
          .map((name) => path.join(OBJECTS, name))
      : [];
if (objects.length === 0) {
  console.error('check-sass: expected kernels for compute capability 9.0 in cuda/build (npm run build:cuda), got none');
  process.exit(1);
}
let problems = 0;
let kernels = 0;
for (const object of objects.sort()) {
  for (const text of disassembled(object).split('Function : ').slice(1)) {
    const [, type, numbers] = /attention_forward_hopperI(6__half|13__nv_bfloat16)((?:L[ib]\d+E)+)/.exec(text) ?? [];
    if (!type) continue;
    const [headDim, warpgroups, keys, stages, overlaps, sides, softcap] = [...numbers.matchAll(/L[ib](\d+)E/g)].map(
      (m) => Number(m[1]),
    );
    const title = `${type.slice(type.indexOf('_') + 2)} D${headDim} ${64 * warpgroups}x${keys} stages ${stages}${overlaps ? ' overlapping' : ''}, ${['full', 'causal', 'window'][sides]}${softcap ? ', softcap' : ''}`;
    const loops = hotLoops(instructionsOf(text), headDim / 16 + keys / 16);
    kernels++;
    if (loops.length === 0) {
      problems++;
      console.log(`${title}: WRONG: no loop with products`);
    }
    for (const body of loops) problems += check(title, body);
  }
}
console.log(`${kernels} kernels, ${problems} problems`);
process.exit(problems > 0 || kernels === 0 ? 1 : 0);
