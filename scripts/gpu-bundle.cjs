#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Packs what a Linux host with a GPU, but without Node and without network, needs to run the tests, the bench and the demo, and to time PyTorch
// beside them, if it has that (docs/gpu-validation.md):
//
//   node scripts/gpu-bundle.cjs [--out folder]      default: .gpu-bundle
//
// The folder then holds two archives, of Node itself and of the rest, and gpu-test.sh, which unpacks them there. The first one takes a minute
// to pack and is kept for the next time. Needs cuda/build/Release/ternflash.node (scripts/build-cuda.cjs), xz, GNU tar, strip and objdump.
'use strict';
const { spawnSync } = require('node:child_process');
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');

const LIMIT = 60 * 2 ** 20;
const NODE_XZ = '--x86 --lzma2=preset=9e,dict=128MiB';
const ADDON = 'cuda/build/Release/ternflash.node';
const BENCH_LIBRARY = 'cuda/build/Release/libternflash_bench.so';
// The tests run Jest on compiled files, so neither TypeScript nor a transform is needed.
const PACKAGES = [
  'jest',
  'jest-environment-node',
  'node-gyp-build',
  'asciichart',
  'cli-progress',
  '@huggingface/jinja',
  '@huggingface/tokenizers',
];
// CMakeLists.txt is how the library knows its root.
const FILES = [
  'package.json',
  'CMakeLists.txt',
  'LICENSE',
  'GPU_SETUP.md',
  'bin/ternflash.cjs',
  ADDON,
  'test/node-realm-environment.cjs',
];
const FOLDERS = ['dist', 'test/fixtures', 'examples/data'];
const SCRIPTS = [
  'gpu-compare.cjs',
  'gpu-random.cjs',
  'gpu-sanitize.sh',
  'gpu-test.sh',
  'profile-gpu.sh',
  'test-summary.cjs',
];
const PEERS = ['attention', 'demo', 'peer', 'ternary', 'timing'].map((name) => `bench/torch_${name}.py`);
const UNNEEDED = /\.(md|markdown|map|[cm]?ts|flow|tsbuildinfo)$/i;

const root = path.join(__dirname, '..');
const { values: options } = parseArgs({
  options: { out: { type: 'string', default: path.join(root, '.gpu-bundle') } },
});
const out = path.resolve(options.out);

function fail(message) {
  console.error(`ternflash: ${message}`);
  process.exit(1);
}

function run(command, args, settings) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...settings,
  });
  if (status !== 0) fail(`${command} failed: ${(error?.message ?? `${stderr}${stdout}`).trim()}`);
  return stdout;
}

function filesUnder(folder) {
  return fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name));
}

function copyTo(stage, file, name = path.relative(root, file)) {
  const target = path.join(stage, name);
  fs.mkdirSync(path.dirname(target), { recursive: true });
  fs.copyFileSync(file, target);
  if (name.endsWith('.sh')) fs.chmodSync(target, 0o755);
}

/** The folders, inside node_modules, of the packages and of all that they depend on. */
function packageFolders(names) {
  const found = new Set();
  const visit = (name, from, optional) => {
    for (let folder = from; ; folder = path.dirname(folder)) {
      const candidate = path.join(folder, 'node_modules', name);
      if (fs.existsSync(path.join(candidate, 'package.json'))) {
        if (found.has(candidate)) return;
        found.add(candidate);
        const manifest = JSON.parse(fs.readFileSync(path.join(candidate, 'package.json'), 'utf8'));
        for (const each of Object.keys(manifest.dependencies ?? {})) visit(each, candidate, false);
        for (const each of Object.keys(manifest.optionalDependencies ?? {})) visit(each, candidate, true);
        return;
      }
      if (folder === root || folder === path.dirname(folder)) break;
    }
    // Optional ones are mostly builds for other systems.
    if (!optional) fail(`expected the package ${name} in node_modules (npm ci), got none`);
  };
  for (const name of names) visit(name, root, false);
  return [...found];
}

/** Files of a package, less those of packages nested in it: they have an entry of their own. */
function packageFiles(folder) {
  return filesUnder(folder).filter((file) => {
    const name = path.relative(folder, file);
    return !UNNEEDED.test(name) && !name.startsWith(`node_modules${path.sep}`);
  });
}

/** Compiled files that still have their source, with their maps: Jest names lines by those, and test/core/tracking.test.ts compares them. */
function compiledFiles() {
  return filesUnder(path.join(root, '.out')).filter((file) => {
    const name = path.relative(path.join(root, '.out'), file);
    return /\.js(\.map)?$/.test(name) && fs.existsSync(path.join(root, name.replace(/\.js(\.map)?$/, '.ts')));
  });
}

/** Packs the contents of a folder, the same files to the same bytes. Written beside its name first, so that a broken run leaves none. */
function pack(stage, archive, xz) {
  const partial = `${archive}.partial`;
  const same = ['--sort=name', '--owner=0', '--group=0', '--numeric-owner', '--mtime=@0'];
  const env = { ...process.env, XZ_OPT: xz };
  run('tar', [...same, '-cJf', partial, '-C', stage, '.'], { env });
  fs.renameSync(partial, archive);
}

/** The newest version of each versioned library that a binary asks for, such as GLIBC_2.28. */
function versionsNeeded(file) {
  const newest = {};
  for (const [, name, version] of run('objdump', ['-T', file]).matchAll(/\b(GLIBC|GLIBCXX)_([\d.]+)/g)) {
    const order = (a, b) => a.localeCompare(b, 'en', { numeric: true });
    if (!newest[name] || order(newest[name], version) < 0) newest[name] = version;
  }
  return Object.entries(newest)
    .map(([name, version]) => `${name} ${version}`)
    .join(', ');
}

function packNode(temporary) {
  if (process.config.variables.node_shared) fail('expected a Node without a libnode.so, such as that of nodejs.org');
  const hash = createHash('sha256').update(fs.readFileSync(process.execPath)).update(NODE_XZ).digest('hex').slice(0, 8);
  const name = `node-${process.version}-linux-${process.arch}-${hash}.tar.xz`;
  const cache = path.join(root, 'node_modules', '.cache', 'ternflash');
  const archive = path.join(cache, name);
  if (!fs.existsSync(archive)) {
    console.log(`packing Node ${process.version}: takes a minute or more, once`);
    const stage = path.join(temporary, 'node');
    fs.mkdirSync(path.join(stage, 'bin'), { recursive: true });
    fs.mkdirSync(cache, { recursive: true });
    run('strip', ['-o', path.join(stage, 'bin', 'node'), process.execPath]);
    pack(stage, archive, process.arch === 'x64' ? NODE_XZ : NODE_XZ.replace('--x86 ', ''));
  }
  fs.copyFileSync(archive, path.join(out, 'node.tar.xz'));
}

function packRest(temporary) {
  const stage = path.join(temporary, 'rest');
  const sizes = {};
  const add = (kind, files) => {
    for (const file of files) {
      // node_modules may be a link to that of another checkout; the names inside the archive are those seen from here.
      copyTo(stage, file);
      sizes[kind] = (sizes[kind] ?? 0) + fs.statSync(file).size;
    }
  };
  add('addon', [path.join(root, ADDON)]);
  add('attention for PyTorch', [path.join(root, BENCH_LIBRARY)]);
  add('compiled tests, bench, examples', compiledFiles());
  for (const folder of FOLDERS)
    add(
      folder,
      filesUnder(path.join(root, folder)).filter((file) => !UNNEEDED.test(file)),
    );
  add(
    'others',
    FILES.filter((file) => file !== ADDON).map((file) => path.join(root, file)),
  );
  add(
    'others',
    SCRIPTS.map((file) => path.join(__dirname, file)),
  );
  add(
    'others',
    PEERS.map((file) => path.join(root, file)),
  );
  // Results name the commit they are of, bench/provenance.ts; the host has no repository.
  const { commit } = require(path.join(root, '.out', 'bench', 'provenance.js')).provenance();
  if (commit !== null) fs.writeFileSync(path.join(stage, 'COMMIT'), `${commit}\n`);
  for (const folder of packageFolders(PACKAGES)) add('node_modules', packageFiles(folder));
  pack(stage, path.join(out, 'ternflash.tar.xz'), '-6 -T0');
  return sizes;
}

if (process.platform !== 'linux') fail(`expected Linux, as the host of the bundle, got ${process.platform}`);
if (!fs.existsSync(path.join(root, ADDON))) fail(`expected ${ADDON} (node scripts/build-cuda.cjs), got none`);
// Quick if nothing changed, and the bundle then never holds tests older than their source.
for (const step of ['build:ts', 'build:test', 'build:examples']) run('npm', ['run', '--silent', step], { cwd: root });
const addonTime = fs.statSync(path.join(root, ADDON)).mtimeMs;
const newer = ['binding', 'cpu', 'cuda']
  .flatMap((folder) => filesUnder(path.join(root, folder)))
  .filter((file) => /\.(cc|h|cu|cuh)$/.test(file) && fs.statSync(file).mtimeMs > addonTime)
  .map((file) => path.relative(root, file));
if (newer.length > 0) console.warn(`warning: older than ${newer.length} of its sources, ${newer[0]} for one: ${ADDON}`);

const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'ternflash-bundle-'));
fs.mkdirSync(out, { recursive: true });
let sizes;
try {
  packNode(temporary);
  sizes = packRest(temporary);
} finally {
  fs.rmSync(temporary, { recursive: true });
}
copyTo(out, path.join(__dirname, 'gpu-test.sh'), 'gpu-test.sh');

const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const kinds = Object.entries(sizes).sort(([, a], [, b]) => b - a);
console.log(`before packing: ${kinds.map(([kind, bytes]) => `${kind} ${mebibytes(bytes)}`).join(', ')}`);
let total = 0;
for (const name of ['node.tar.xz', 'ternflash.tar.xz']) {
  const { size } = fs.statSync(path.join(out, name));
  total += size;
  console.log(`${path.join(path.relative(process.cwd(), out), name)}: ${mebibytes(size)}`);
}
console.log(`the host needs, of its C and C++ library: node ${versionsNeeded(process.execPath)}`);
console.log(`                                         addon ${versionsNeeded(path.join(root, ADDON))}`);
if (total > LIMIT) fail(`expected at most ${mebibytes(LIMIT)} in all, got ${mebibytes(total)}`);
console.log(`${mebibytes(total)} in all. There: sh gpu-test.sh`);
