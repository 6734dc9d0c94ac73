// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { call } from './capture-context.js';

const model = path.join(packageRoot(), 'test', 'fixtures', 'models', 'llama');

/** What it measures is the machine's; that it counts right is looked at. */
test('counts the tokens and the bytes of what it times', async () => {
  const args = ['bench', model, '--device', 'reference', '--batch', '2', '--prompt', '5', '--tokens', '6'];
  const { code, out, errors } = await call([...args, '--json']);
  expect([code, errors]).toEqual([0, '']);
  const { prompt, generation, ...rest } = JSON.parse(out) as Record<string, Record<string, number>>;
  expect(rest).toEqual({ model, device: 'reference', threads: null, dtype: 'bfloat16', batch: 2, tokens: 6 });
  expect(prompt.tokens).toBe(10);
  expect(prompt.tokensPerSecond).toBeCloseTo(10 / (prompt.milliseconds / 1000), 6);
  expect(generation.tokensPerSecond).toBeCloseTo(2 / (generation.milliseconds / 1000), 6);
  // 102,720 weights of two bytes; of each token, keys and values of 2 layers, 2 heads of 16.
  expect(generation.bytes).toBe(2 * 102_720 + 2 * (2 * 2 * 2 * 16 * 2) * 8);
  const shown = await call(args);
  expect(shown.out).toMatch(
    /on reference, bfloat16\nprompt +[\d.]+ tokens\/s: 10 tokens in .*\ngeneration +[\d.]+ tokens\/s: /,
  );
});

test.each([
  [['bench'], 2, 'expected one model, got 0'],
  [['bench', 'a', '--batch', '0'], 2, 'for --batch, got "0"'],
  [['bench', 'nowhere'], 1, 'ENOENT'],
])('%j is told', async (args, code, message) => {
  const result = await call(args);
  expect(result).toMatchObject({ code, out: '' });
  expect(result.errors).toContain(message);
});

test('is ended by Ctrl-C', async () => {
  const controller = new AbortController();
  controller.abort();
  expect((await call(['bench', model], { signal: controller.signal })).code).toBe(130);
});
