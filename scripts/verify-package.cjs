#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Packs the package and tries it as users do: installed into empty folders, with no compiler in reach, by several versions of Node.js.
//
//   node scripts/verify-package.cjs [options]          after npm run prebuild
//
//   --node 20,22,24    versions of Node.js, from the packages node-<platform>-<arch> of npm; default the one that runs
//   --npm 12           a version of npm, from npm; default the one beside Node.js here
//   --bun              Bun, too, from the package @oven/bun-<platform>-<arch> of npm
//   --build            builds from source in the installed package, too: npx ternflash build, TERNFLASH_BUILD_FROM_SOURCE=1
//
// Also: no file is in the package that does not belong there, sizes are those that scripts/package-sizes.json and README.md state, the addons need
// no newer C library than stated there, and publint and @arethetypeswrong/cli find nothing. Prints PASS or FAIL for each; exits with 1 if one fails.
'use strict';
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { gzipSync } = require('node:zlib');
const STATED = require('./package-sizes.json');

const root = path.join(__dirname, '..');
const windows = process.platform === 'win32';
const platform = `${process.platform}-${process.arch}`;
const { values: options } = parseArgs({
  options: {
    node: { type: 'string' },
    npm: { type: 'string' },
    bun: { type: 'boolean', default: false },
    build: { type: 'boolean', default: false },
  },
});

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'ternflash-package-'));
process.on('exit', () => fs.rmSync(scratch, { recursive: true, force: true }));

let failures = 0;
/** Tries something, which may give a remark and throws where it fails. */
function check(title, attempt) {
  let [word, remark] = ['PASS', ''];
  try {
    remark = attempt() ?? '';
  } catch (error) {
    failures++;
    [word, remark] = ['FAIL', error.message];
  }
  console.log(`${word}  ${title}${remark && `: ${remark}`}`);
}

function expect(holds, message) {
  if (!holds) throw new Error(message);
}

/** Runs a program; throws if it does not end with this code. */
function run(command, args, { env = process.env, cwd = root, code = 0 } = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    env,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const output = `${stdout ?? ''}${stderr ?? ''}`.trim();
  const name = [command, ...args].map((each) => path.basename(each)).join(' ');
  expect(status === code, `${name} ended with ${status ?? error?.message}: ${output.slice(-2000)}`);
  return { stdout, output };
}

/** npm here, as a script that any Node.js can run. */
function npmHere() {
  const beside = path.join(path.dirname(fs.realpathSync(process.execPath)), windows ? '.' : '../lib');
  const places = [process.env.npm_execpath ?? '', path.join(beside, 'node_modules/npm/bin/npm-cli.js')];
  const found = places.find((each) => each.endsWith('npm-cli.js') && fs.existsSync(each));
  if (found) return found;
  const inPath = spawnSync(windows ? 'where' : 'which', ['npm'], { encoding: 'utf8' })
    .stdout.split('\n')[0]
    .trim();
  const real = path.dirname(fs.realpathSync(inPath));
  return windows ? path.join(real, 'node_modules/npm/bin/npm-cli.js') : path.join(real, 'npm-cli.js');
}

/** The folder of a package of npm, of which nothing is installed. */
function fetched(name) {
  const folder = fs.mkdtempSync(path.join(scratch, 'fetched-'));
  run(process.execPath, [npmHere(), 'pack', name, '--pack-destination', folder, '--silent']);
  const [tarball] = fs.readdirSync(folder);
  run('tar', ['-xzf', tarball], { cwd: folder });
  return path.join(folder, 'package');
}

const executable = (name) => (windows ? `${name}.exe` : name);
const nodePackage = `node-${windows ? 'win' : process.platform}-${process.arch}`;
const nodes = (options.node ?? '')
  .split(',')
  .filter(Boolean)
  .map((version) => path.join(fetched(`${nodePackage}@${version}`), 'bin', executable('node')));
if (nodes.length === 0) nodes.push(process.execPath);
const npm = options.npm ? path.join(fetched(`npm@${options.npm}`), 'bin/npm-cli.js') : npmHere();

/** The environment of a user who has Node.js and no compiler. */
function environment(node, variables = {}) {
  const home = path.join(scratch, 'home');
  fs.mkdirSync(home, { recursive: true });
  const own = Object.entries(process.env).filter(([name]) => !/^(npm_|TERNFLASH_|NODE_OPTIONS$|INIT_CWD$)/i.test(name));
  const folder = fs.mkdtempSync(path.join(scratch, 'bin-'));
  let programs = `${path.dirname(node)};${process.env.SystemRoot}\\System32`;
  if (!windows) {
    fs.symlinkSync(node, path.join(folder, 'node'));
    for (const each of ['sh', 'env'])
      fs.symlinkSync(path.join(each === 'sh' ? '/bin' : '/usr/bin', each), path.join(folder, each));
    programs = folder;
  }
  return { ...Object.fromEntries(own), HOME: home, USERPROFILE: home, PATH: programs, Path: programs, ...variables };
}

// ---- What is packed

const addons = ['prebuilds', 'cuda/prebuilds'].flatMap((place) => {
  const from = path.join(root, place);
  const names = fs.existsSync(from) ? fs.readdirSync(from, { recursive: true }) : [];
  return names
    .filter((name) => name.endsWith('.node'))
    .map((name) => path.posix.join(place, name.replaceAll('\\', '/')));
});
const addonHere = (place) =>
  addons.find(
    (each) =>
      each.startsWith(`${place}/${platform}/`) &&
      !each.includes(fs.existsSync('/etc/alpine-release') ? 'glibc' : 'musl'),
  );
const cpuAddon = addonHere('prebuilds');
const cudaAddon = addonHere('cuda/prebuilds');
if (!cpuAddon) {
  console.error(`ternflash: expected an addon in prebuilds/${platform} (npm run prebuild), got none`);
  process.exit(1);
}

const packed = JSON.parse(
  run(process.execPath, [
    npmHere(),
    'pack',
    '--json',
    '--pack-destination',
    scratch,
    '--loglevel=error',
  ]).stdout.replace(/^[^[{]*/, ''),
);
const [manifest] = Array.isArray(packed) ? packed : Object.values(packed);
const tarball = path.join(scratch, manifest.filename);
const gzipped = new Map(
  addons.map((each) => [each, gzipSync(fs.readFileSync(path.join(root, each)), { level: 9 }).length]),
);
const megabytes = (bytes) => (bytes / 1e6).toFixed(2);

/** Whether a size is the stated one. A tenth is what another compiler makes of it. */
function compareSize(bytes, stated) {
  expect(Math.abs(bytes / 1e6 / stated - 1) <= 0.1, `${megabytes(bytes)} MB, expected ${stated} MB ± 10 %`);
  return `${megabytes(bytes)} MB`;
}

check('every file in the package has its place there', () => {
  const shipped = require('./package-files.cjs');
  const stray = manifest.files.map(({ path: name }) => name).filter((name) => !shipped.belongs(name));
  expect(stray.length === 0, stray.join(', '));
  const lost = shipped.NEEDED.filter((name) => !manifest.files.some(({ path: each }) => each === name));
  expect(lost.length === 0, `without ${lost.join(', ')}`);
  return `${manifest.files.length} files, of them addons ${addons.join(', ')}`;
});
const rest = manifest.size - [...gzipped.values()].reduce((sum, each) => sum + each, 0);
check('size of the package without addons, packed', () => compareSize(rest, STATED.library));
const readme = fs.readFileSync(path.join(root, 'README.md'), 'utf8');
check('README states the sizes', () => {
  for (const size of [STATED.library, STATED.cpuAddon, STATED.cudaAddon.size])
    expect(readme.includes(`${size} MB`), `expected "${size} MB" in README.md`);
});
// The largest of the addons without CUDA: other processors have fewer instruction sets.
if (platform === 'linux-x64')
  check('size of the addon for this platform, packed', () => compareSize(gzipped.get(cpuAddon), STATED.cpuAddon));
if (cudaAddon) {
  const probe = `console.log(require(${JSON.stringify(path.join(root, cudaAddon))}).cudaReport().architectures)`;
  const architectures = run(process.execPath, ['-e', probe]).stdout.trim();
  check('size of the addon with CUDA, packed', () => {
    const bytes = gzipped.get(cudaAddon);
    const { cudaAddon: stated, cudaAddonLimit: limit } = STATED;
    if (architectures === stated.architectures) return `${compareSize(bytes, stated.size)} with ${architectures}`;
    expect(bytes / 1e6 <= limit, `${megabytes(bytes)} MB, expected at most ${limit} MB`);
    return `${megabytes(bytes)} MB with ${architectures}`;
  });
} else console.log('----  no addon with CUDA in cuda/prebuilds: it was not tried');

/** The highest version of a family that an ELF file asks for. */
function newest(symbols, family) {
  const versions = [...symbols.matchAll(new RegExp(`\\b${family}_(\\d+(?:\\.\\d+)+)`, 'g'))].map(([, each]) => each);
  return versions.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1) ?? '0';
}
const isAtMost = (version, limit) => version.localeCompare(limit, 'en', { numeric: true }) <= 0;
if (process.platform === 'linux' && spawnSync('objdump', ['--version']).status === 0) {
  for (const each of addons.filter((name) => name.includes('glibc')))
    check(`${each} needs no newer libraries than GLIBC_${STATED.glibc} and GLIBCXX_${STATED.glibcxx}`, () => {
      const symbols = run('objdump', ['-T', path.join(root, each)]).stdout;
      const needed = newest(symbols, 'GLIBC');
      const ofCxx = newest(symbols, 'GLIBCXX');
      expect(isAtMost(needed, STATED.glibc) && isAtMost(ofCxx, STATED.glibcxx), `GLIBC_${needed}, GLIBCXX_${ofCxx}`);
      return `GLIBC_${needed}, GLIBCXX_${ofCxx}`;
    });
}

check(
  'publint',
  () =>
    run(process.execPath, [
      path.join(path.dirname(require.resolve('publint')), 'cli.js'),
      'run',
      tarball,
      '--strict',
    ]) && '',
);
check('@arethetypeswrong/cli', () => {
  const cli = path.join(path.dirname(require.resolve('@arethetypeswrong/cli/package.json')), 'dist/index.js');
  run(process.execPath, [cli, tarball, '--no-emoji', '--no-color']);
});

// ---- How it is used

const PROGRAM = (load) => `${load}
const numbers = Array.from({ length: 512 }, (_, i) => Math.sin(i));
const attend = async (device) => {
  const [q, k, v] = [1, 2, 3].map((times) => ternflash.reshape(ternflash.tensor(numbers.map((x) => x * times), { device }), [1, 4, 2, 64]));
  return ternflash.flashAttention(q, k, v, { causal: true }).data();
};
const run = async () => {
  const device = process.argv[2];
  const [here, truth] = [await attend(device), await attend('reference')];
  const error = Math.max(...truth.map((x, i) => Math.abs(x - here[i])));
  if (!(error < 1e-5) || truth.length !== 512) throw new Error('flashAttention on ' + device + ' is off by ' + error);
  console.log(device, 'agrees');
};
run();
`;
const PROGRAMS = {
  'program.cjs': PROGRAM(`const ternflash = require('ternflash');`),
  'program.mjs': PROGRAM(`import * as ternflash from 'ternflash';
import { tensor } from 'ternflash';
if (ternflash.tensor !== tensor) throw new Error('two copies');`),
};

/** A folder with the programs and nothing else. */
function emptyFolder() {
  const folder = fs.mkdtempSync(path.join(scratch, 'project-'));
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n');
  for (const [name, text] of Object.entries(PROGRAMS)) fs.writeFileSync(path.join(folder, name), text);
  return folder;
}

const cache = ['--cache', path.join(scratch, 'cache'), '--no-audit', '--no-fund', '--prefer-offline'];
function install(node, flags, { variables, code, env = environment(node, variables) } = {}) {
  const cwd = emptyFolder();
  const { output } = run(node, [npm, 'install', tarball, ...flags, ...cache], { cwd, env, code });
  return { cwd, output };
}

const ternflash = (node, cwd, args, variables, code) =>
  run(node, [path.join(cwd, 'node_modules/ternflash/bin/ternflash.cjs'), ...args], {
    cwd,
    env: environment(node, variables),
    code,
  });

/** Whether the addon that doctor names is this one; null for none. */
function loads(node, cwd, variables, expected) {
  const { stdout } = ternflash(node, cwd, ['doctor', '--json'], variables);
  const { addon } = JSON.parse(stdout);
  const file = addon?.file?.replaceAll('\\', '/') ?? null;
  expect(file === expected, `${JSON.stringify(variables)} loads ${file}, expected ${expected}`);
}

function runs(node, cwd, device, variables) {
  for (const name of Object.keys(PROGRAMS)) run(node, [name, device], { cwd, env: environment(node, variables) });
}

for (const node of nodes) {
  const version = `Node ${run(node, ['--version']).stdout.trim()}, npm ${run(node, [npm, '--version']).stdout.trim()}`;
  const best = cudaAddon ?? cpuAddon;
  for (const flags of [[], ['--ignore-scripts'], ['--omit=optional']])
    check(`${version}: npm install ${flags.join(' ')}`, () => {
      const { cwd } = install(node, flags);
      loads(node, cwd, {}, best);
      loads(node, cwd, { TERNFLASH_CUDA: '0' }, cpuAddon);
      if (cudaAddon) loads(node, cwd, { TERNFLASH_CUDA: '1' }, cudaAddon);
      loads(node, cwd, { TERNFLASH_NATIVE: '0' }, null);
      runs(node, cwd, 'cpu');
      runs(node, cwd, 'reference', { TERNFLASH_NATIVE: '0' });
      return `${best}, by require and import`;
    });
  check(`${version}: a platform without addons, no compiler`, () => {
    const { cwd } = install(node, ['--ignore-scripts']);
    for (const each of ['prebuilds', 'cuda/prebuilds'])
      fs.rmSync(path.join(cwd, 'node_modules/ternflash', each), { recursive: true, force: true });
    runs(node, cwd, 'reference');
    loads(node, cwd, {}, null);
    const { output } = ternflash(node, cwd, ['build'], {}, 1);
    expect(output.includes('CMake 3.18 or later') && output.includes('a C++17 compiler'), output);
    return 'reference computes; ternflash build says what is missing';
  });
  if (!options.npm)
    check(`${version}: TERNFLASH_BUILD_FROM_SOURCE=1, no compiler`, () => {
      install(node, [], { variables: { TERNFLASH_BUILD_FROM_SOURCE: '1' }, code: 1 });
      return 'fails, for it was asked for';
    });
}

check('TypeScript: node16, nodenext and bundler, CommonJS and ES modules', () => {
  const { cwd } = install(nodes[0], ['--ignore-scripts', '--omit=optional']);
  const text = `import { flashAttention, Trainer, type Tensor, type TrainerOptions } from 'ternflash';
export const attend = (q: Tensor): Tensor => flashAttention(q, q, q, { causal: true });
export const train = (options: TrainerOptions): Trainer => new Trainer(options);
// @ts-expect-error causal is no number: the types are there
flashAttention(undefined! as Tensor, undefined! as Tensor, undefined! as Tensor, { causal: 3 });
`;
  for (const name of ['a.mts', 'b.cts']) fs.writeFileSync(path.join(cwd, name), text);
  const typescript = require.resolve('typescript/lib/tsc.js');
  for (const [module, resolution] of [
    ['node16', 'node16'],
    ['nodenext', 'nodenext'],
    ['esnext', 'bundler'],
  ]) {
    const files = resolution === 'bundler' ? ['a.mts'] : ['a.mts', 'b.cts'];
    const settings = [
      '--module',
      module,
      '--moduleResolution',
      resolution,
      '--target',
      'es2022',
      '--strict',
      '--noEmit',
    ];
    const types = ['--typeRoots', path.join(root, 'node_modules/@types'), '--types', 'node'];
    run(process.execPath, [typescript, ...settings, ...types, ...files], { cwd });
  }
});

if (options.bun) {
  const bun = path.join(fetched(`@oven/bun-${platform}`), 'bin', executable('bun'));
  check(`Bun ${run(bun, ['--version']).stdout.trim()}: bun install, require and import`, () => {
    const cwd = emptyFolder();
    const env = { ...environment(process.execPath), TERNFLASH_CUDA: '0' };
    run(bun, ['add', tarball, '--cache-dir', path.join(scratch, 'bun-cache')], { cwd, env });
    for (const name of Object.keys(PROGRAMS)) run(bun, [name, 'cpu'], { cwd, env });
  });
}

if (options.build)
  check('building from source in the installed package', () => {
    const env = { ...process.env, TERNFLASH_BUILD_FROM_SOURCE: '1', TERNFLASH_CUDA: 'auto' };
    const { cwd } = install(process.execPath, ['--foreground-scripts'], { env });
    loads(process.execPath, cwd, { TERNFLASH_CUDA: '0' }, 'build/Release/ternflash.node');
    const place = path.join(cwd, 'node_modules/ternflash');
    fs.rmSync(path.join(place, 'build/Release/ternflash.node'));
    loads(process.execPath, cwd, { TERNFLASH_CUDA: '0' }, cpuAddon);
    run(process.execPath, [path.join(place, 'bin/ternflash.cjs'), 'build'], { cwd });
    loads(process.execPath, cwd, { TERNFLASH_CUDA: '0' }, 'build/Release/ternflash.node');
    runs(process.execPath, cwd, 'cpu', { TERNFLASH_CUDA: '0' });
    return 'TERNFLASH_BUILD_FROM_SOURCE=1, ternflash build';
  });

console.log(`${failures} failures`);
process.exitCode = failures > 0 ? 1 : 0;
