// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { DOCUMENTS, sectionsOf } from './markdown.js';
import { Workplace } from './workplace.js';

/** Commands of `sh` blocks that are not run here, and why. What they name is looked at all the same. */
const INSTALLS = 'installs';
const MINUTES = 'takes minutes; continuous integration runs it, or what it does';
const GPU = 'needs a GPU, or nvcc';
const ELSEWHERE = 'is typed on another host, where a bundle was unpacked';
const NOT_RUN = new Map([
  ['npm install ternflash', INSTALLS],
  ['npm install ternflash @huggingface/tokenizers @huggingface/jinja', INSTALLS],
  ['npm ci', INSTALLS],
  ['npm run demo', MINUTES],
  ['npm test', MINUTES],
  ['npm run build:ts', MINUTES],
  ['npx ternflash build', 'compiles the addon in the package; test/cli/build and verify-package do'],
  ['npx ternflash build --check', 'compiles the addon in the package; test/cli/build and verify-package do'],
  [
    'npx ternflash build --cuda --architectures 90-real',
    'compiles the addon in the package; test/cli/build and verify-package do',
  ],
  ['npm run bench', MINUTES],
  ['npm run bench -- flash-attention', MINUTES],
  ['npm run bench -- --suite model', MINUTES],
  ['npm run bench -- attention-layer', MINUTES],
  ['npm run bench -- flash-attention linear', MINUTES],
  ['npm run bench -- --json now.json --report now.html', MINUTES],
  ['npm run bench -- --compare saved.json', MINUTES],
  [
    'npm run bench -- report cpu.json gpu.json --compare saved.json',
    'of files of earlier runs; test/bench/ makes the page',
  ],
  ['npm run bench -- --device cuda', GPU],
  ['npm run bench -- --peer onnxruntime linear', 'needs onnxruntime-node, which is no dependency'],
  ['npm run build:cuda', GPU],
  ['TERNFLASH_CUDA_ARCHITECTURES=90-real npm run build:cuda', GPU],
  ['node scripts/gpu-bundle.cjs', GPU],
  ['sh gpu-test.sh', ELSEWHERE],
  ['sh gpu-test.sh --only-cuda linear.test', ELSEWHERE],
  ['sh gpu-test.sh --unpack folder', ELSEWHERE],
  ['folder/bin/node folder/bin/ternflash.cjs doctor', ELSEWHERE],
  ['sh folder/scripts/profile-gpu.sh flash-attention', ELSEWHERE],
  ['sh gpu-test.sh --unpack ternflash', ELSEWHERE],
  ['cd ternflash', ELSEWHERE],
  ['export PATH=$PWD/bin:$PATH TERNFLASH_CUDA=1', ELSEWHERE],
  [
    `TERNFLASH_RANDOM_CASE='{"op":"flashAttention", …}' node node_modules/jest/bin/jest.js flash-attention-random -t '(^| )cuda '`,
    'a pattern: a case is to be put in',
  ],
]);

interface Command {
  document: string;
  text: string;
}

/** The commands of all `sh` blocks, one by one, without remarks. */
const COMMANDS: readonly Command[] = DOCUMENTS.flatMap((document) =>
  sectionsOf(document)
    .flatMap(({ blocks }) => blocks.filter(({ language }) => language === 'sh'))
    .flatMap(({ text }) => text.split('\n'))
    .map((line) => line.replace(/(^|\s+)#.*$/, ''))
    .flatMap((line) => line.split(' && '))
    .filter((text) => text !== '')
    .map((text) => ({ document, text })),
);

const isRun = ({ text }: Command): boolean => /^npx ternflash (?!build)/.test(text);

/** The words of a command; quotes keep words together. */
const wordsOf = (text: string): string[] =>
  [...text.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain);

describe('commands of the documents', () => {
  let workplace: Workplace;
  beforeAll(async () => {
    workplace = await Workplace.make();
  });
  afterAll(() => workplace.remove());

  // What needs no file of the document's folder is run once.
  const run = COMMANDS.filter(isRun).filter(
    ({ text }, i, all) => !text.includes(' doctor') || all.findIndex((each) => each.text === text) === i,
  );
  test.each(run.map(({ document, text }): [string, string] => [document, text]))('%s: %s', (document, text) => {
    const words = wordsOf(text).slice(2);
    const { status, stderr } = spawnSync(process.execPath, [path.join(packageRoot(), 'bin/ternflash.cjs'), ...words], {
      cwd: workplace.of(document),
      encoding: 'utf8',
      timeout: 50_000,
      input: '',
      env: { ...process.env, TERNFLASH_CUDA: '0' },
    });
    expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' });
  });

  test('every other command has a reason not to be run', () => {
    const others = COMMANDS.filter((each) => !isRun(each)).map(({ text }) => text);
    expect([...new Set(others)].sort()).toEqual([...NOT_RUN.keys()].sort());
  });

  test('scripts that are named are there', () => {
    const { scripts } = JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as {
      scripts: Record<string, string>;
    };
    const missing = COMMANDS.filter(({ text }) => {
      const script = /npm run ([\w:]+)/.exec(text)?.[1];
      if (script !== undefined && !(script in scripts)) return true;
      const file = /^(?:sh|node) (?:folder\/)?(scripts\/[\w.-]+)/.exec(text)?.[1];
      return file !== undefined && !existsSync(path.join(packageRoot(), file));
    });
    expect(missing).toEqual([]);
  });
});
