// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { Findings, type Scenario } from './scenario.js';

type Library = typeof import('../../lib/index.js');

/** The package as it is built, in another place, under another version. */
function copyPackage(): string {
  const [root, folder] = [packageRoot(), mkdtempSync(path.join(tmpdir(), 'ternflash-version-'))];
  const addon = path.join('build', 'Release', 'ternflash.node');
  if (!existsSync(path.join(root, 'dist', 'index.js')) || !existsSync(path.join(root, addon)))
    throw new Error('expected dist and build/Release/ternflash.node, built by npm test');
  cpSync(path.join(root, 'dist'), path.join(folder, 'dist'), { recursive: true });
  mkdirSync(path.join(folder, 'build', 'Release'), { recursive: true });
  cpSync(path.join(root, addon), path.join(folder, addon));
  writeFileSync(
    path.join(folder, 'package.json'),
    JSON.stringify({ name: 'ternflash', version: '0.0.1', main: 'dist/index.js' }),
  );
  writeFileSync(path.join(folder, 'CMakeLists.txt'), '');
  symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'));
  return folder;
}

const load = (folder: string): Library => createRequire(__filename)(path.join(folder, 'dist', 'index.js')) as Library;

/** What one takes from the other; none may work, or end the process. */
const ACROSS: Readonly<Record<string, (own: Library, other: Library) => unknown>> = {
  'an op': (own, other) => own.add(own.ones([2]), other.ones([2]) as never),
  'an op, all foreign': (own, other) => own.linear(other.ones([2, 2]) as never, other.ones([2, 2]) as never),
  'a ternary tensor': (own, other) =>
    own.ternaryMatmul(own.ones([2, 4]), other.quantizeTernary(other.ones([4, 4])) as never),
  'an optimizer': (own, other) => new own.AdamW([other.ones([2], { requiresGrad: true }) as never]),
  'a device': (own, other) => own.ones([2], { device: other.device('cpu') as never }),
  'a module': (own, other) => own.applyLora(new other.Linear(4, 4) as never),
  'a model': (own, other) =>
    own
      .generate(new other.CausalLM({ vocabulary: 8, layers: 1, hidden: 8, heads: 2, intermediate: 8 }) as never, [1])
      .next(),
  'a state': (own, other) => new own.Linear(4, 4).loadState(new other.Linear(4, 4).state() as never),
  'a gradient': (own, other) => own.scale(own.ones([2], { requiresGrad: true }), 2).backward(other.ones([2]) as never),
  'a file of tensors': (own, other) =>
    own.writeSafetensors(path.join(tmpdir(), 'ternflash-never'), { a: other.ones([2]) as never }),
  'a message': async (own, other) => own.receiveTensor((await other.ones([2]).transfer()).message),
  'a generator': (own, other) => own.sample(Float32Array.of(1, 2), {}, new other.Generator() as never),
  'a checkpoint': (own, other) =>
    own.checkpoint((x) => (void x, other.ones([2]) as never), own.ones([2], { requiresGrad: true })),
  'a cache': (own, other) => {
    const sizes = { vocabulary: 8, layers: 1, hidden: 8, heads: 2, intermediate: 8 };
    const cache = new other.CausalLM(sizes).createCache(1, 8);
    return own.generate(new own.CausalLM(sizes), [1], { cache: cache as never }).next();
  },
};

export const twoVersions: Scenario = {
  summary: 'two versions of the package in one process',
  count: Object.keys(ACROSS).length,
  async run({ only }, say) {
    const findings = new Findings();
    const folders = [copyPackage(), copyPackage()];
    const libraries = folders.map(load);
    const [first, second] = libraries;
    const product = (library: Library): Promise<ArrayLike<number>> => {
      const x = library.randn([64, 64], { seed: 3 });
      return library.linear(x, x).data();
    };
    if (first.ones === second.ones) findings.add('one version', 'expected two');
    const expected = await product(first);
    let refused = 0;
    for (const [name, act] of Object.entries(ACROSS).filter(([name]) => only === null || name.includes(only))) {
      for (const [own, other] of [libraries, [second, first]]) {
        say(name);
        try {
          await act(own, other);
          findings.add(`${name} of the other version`, 'is taken');
        } catch (error) {
          if (error instanceof own.TernflashError) refused++;
          else
            findings.add(`${name} of the other version: no typed error`, String((error as Error).stack).slice(0, 300));
        }
        // Both go on, each with its own stream, and together.
        const both = await Promise.all([product(first), product(second)]);
        for (const values of both)
          if (!Array.from(values).every((value, i) => value === expected[i])) findings.add('another result', name);
      }
    }
    for (const library of libraries) await library.device('cpu').synchronize();
    for (const folder of folders) rmSync(folder, { recursive: true });
    return { figures: { 'foreign objects refused': refused }, findings: findings.lines() };
  },
};
