// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  CausalLM,
  manualSeed,
  type DeviceName,
  type FloatDType,
  type Module,
  type StepReport,
} from '../../lib/index.js';
import { bitsOf } from '../harness.js';
import { Random } from '../random.js';

/** Small training runs, their files and what they leave behind. */

/** A folder that is removed after the tests of the file. */
export function temporaryFolder(): () => string {
  const made: string[] = [];
  afterAll(() => made.forEach((folder) => rmSync(folder, { recursive: true, force: true })));
  return () => {
    made.push(mkdtempSync(path.join(tmpdir(), 'ternflash-')));
    return made[made.length - 1];
  };
}

export const VOCABULARY = 24;

/** Text with something to learn: mostly, a token follows from the one before. */
export function someTokens(count: number): Uint16Array {
  const random = new Random('tokens');
  const tokens = new Uint16Array(count);
  for (let i = 1; i < count; i++) {
    tokens[i] = random.next() < 0.8 ? (tokens[i - 1] * 5 + 7) % VOCABULARY : Math.floor(random.next() * VOCABULARY);
  }
  return tokens;
}

export function smallModel(
  options: { dtype?: FloatDType; seed?: number; tieEmbeddings?: boolean; device?: DeviceName } = {},
): CausalLM {
  const { device = 'auto', seed = 1, ...shape } = options;
  manualSeed(seed);
  return new CausalLM(
    { vocabulary: VOCABULARY, hidden: 16, layers: 2, heads: 2, keyHeads: 1, intermediate: 24, ...shape },
    { device },
  );
}

/** The bits of every tensor of a model, by name. */
export async function bitsOfModel(model: Module): Promise<Record<string, number[]>> {
  const bits: Record<string, number[]> = {};
  for (const [name, tensor] of model.state()) bits[name] = await bitsOf(tensor);
  return bits;
}

/** The lines of a metrics file, without the times, which are never the same. */
export async function metricsOf(file: string): Promise<Partial<StepReport>[]> {
  const text = await readFile(file, 'utf8');
  expect(text.endsWith('\n')).toBe(true);
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => {
      const { seconds, ...rest } = JSON.parse(line) as StepReport;
      expect(seconds).toBeGreaterThanOrEqual(0);
      return rest;
    });
}
