// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import * as path from 'node:path';
import { DocumentDataset, type ChatMessage, type EncodedDocument, type TrainingDocument } from '../../lib/index.js';
import { DOCUMENTS, sectionsOf } from './markdown.js';
import { compile, PROGRAMS, type Program } from './programs.js';
import { Workplace } from './workplace.js';

/**
 * Every `ts` block of every document is compiled and run. The blocks of a section, from a heading to the next, are one program; a block without a
 * language below them is what it prints, and so is a comment behind `console.log(…);`. Programs of one document run one after the other in one folder,
 * see workplace.ts.
 */
let workplace: Workplace;
let found: string[];
beforeAll(async () => {
  workplace = await Workplace.make();
  found = compile(PROGRAMS, workplace.folder);
}, 120_000);
afterAll(() => workplace.remove());

function run(program: Program, ...args: string[]): { status: number | null; out: string; error: string } {
  const file = path.join(workplace.folder, `${PROGRAMS.indexOf(program)}.mjs`);
  const { status, stdout, stderr } = spawnSync(process.execPath, [file, ...args], {
    cwd: workplace.of(program.document),
    encoding: 'utf8',
    timeout: 50_000,
    // What stands below the programs is what the cpu device gives, to the last digit.
    env: { ...process.env, TERNFLASH_CUDA: '0' },
  });
  return { status, out: stdout, error: stderr };
}

test('every program compiles against the package', () => expect(found).toEqual([]));

/** Has a test of its own. */
const resumed = PROGRAMS.find(({ document, text }) => document === 'README.md' && text.includes('trainer.resume()'));

test.each(
  PROGRAMS.filter((each) => each !== resumed).map((program): [string, Program] => [
    `${program.document}: ${program.heading}`,
    program,
  ]),
)('%s', (_, program) => {
  const { status, out, error } = run(program);
  expect({ status, error }).toEqual({ status: 0, error: '' });
  if (program.prints !== null) expect(out).toBe(program.prints);
});

test('every block is of a kind that is looked at', () => {
  // `text` is for formulas and drawings.
  const kinds = ['ts', 'sh', 'json', 'text'];
  const others = DOCUMENTS.flatMap((document) =>
    sectionsOf(document).flatMap(({ blocks }) =>
      blocks
        .filter(
          ({ language }, i) => !kinds.includes(language) && !(language === '' && blocks[i - 1]?.language === 'ts'),
        )
        .map(({ line }) => `${document}:${line}`),
    ),
  );
  expect(others).toEqual([]);
});

test('documents in blocks of JSON are such as DocumentDataset reads', () => {
  const blocks = sectionsOf('docs/training.md').flatMap((section) => section.blocks);
  const lines = blocks.filter(({ language }) => language === 'json').flatMap(({ text }) => text.trim().split('\n'));
  expect(lines).toHaveLength(3);
  const documents = lines.map((line) => JSON.parse(line) as TrainingDocument);
  const encode = (text: string): number[] => [...Buffer.from(text)];
  const encodeChat = (messages: readonly ChatMessage[]): EncodedDocument => {
    const ids = encode(messages.map(({ content }) => content).join(' '));
    return { ids, trained: ids.map(() => true) };
  };
  expect(new DocumentDataset(documents, { encoder: { encode, encodeChat } }).documents).toBe(3);
});

test('the run that is stopped at step 13 ends as the one that is not', () => {
  if (!resumed) throw new Error('expected a program in README.md that resumes a run, got none');
  const place = workplace.of('README.md');
  const start = (...args: string[]): string[] => {
    const { status, out, error } = run(resumed, ...args);
    expect([status, error]).toEqual([0, '']);
    return out.split('\n');
  };
  const [from, to] = start();
  expect(from).toBe('from step 0');
  expect(to).toMatch(/^to step 30 with loss [12]\.\d+$/);
  for (const name of ['run', 'metrics.jsonl']) rmSync(path.join(place, name), { recursive: true });

  expect(start('13')).toEqual([from, expect.stringMatching(/^to step 13 with loss [345]\.\d+$/), '']);
  expect(start()).toEqual(['from step 13', to, '']);
  const metrics = readFileSync(path.join(place, 'metrics.jsonl'), 'utf8').trim().split('\n');
  expect(metrics.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual(
    Array.from({ length: 30 }, (_, i) => i + 1),
  );
}, 150_000);
