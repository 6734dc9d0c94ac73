// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { DeviceName } from '../../lib/index.js';
import { drawAttention, type AttentionConfiguration } from '../attention-configurations.js';
import type { Case } from '../cases.js';
import { flashAttentionSpec } from '../formulas/flash-attention.js';
import { flashAttentionVarlenSpec } from '../formulas/flash-attention-varlen.js';
import { describeBackends } from '../harness.js';
import { checkCase, checkForward, prepareCase, runOnDevice } from '../op-tests.js';
import type { OpSpec } from '../op-spec.js';

/**
 * Random configurations of attention, forward and backward, held to the tolerance rule.
 *
 *   TERNFLASH_RANDOM_CASES=2000        how many are drawn; default 8. scripts/gpu-random.cjs runs many, in parallel
 *   TERNFLASH_RANDOM_SHARD=3/16        of these, every sixteenth from the third on
 *   TERNFLASH_RANDOM_CASE='{"op":…}'   only this one, as a failure names it
 *   TERNFLASH_ATTENTION_KERNEL=hopper  forward only, those that the kernels for compute capability 9.0 take: on cuda no others may then be used
 */
const DEFAULT_COUNT = 8;
const HOPPER = process.env.TERNFLASH_ATTENTION_KERNEL === 'hopper';

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`${name}: expected an integer above 0, got ${text}`);
  return value;
}

function configurations(): AttentionConfiguration[] {
  const { TERNFLASH_RANDOM_CASE: one, TERNFLASH_RANDOM_CASES: count, TERNFLASH_RANDOM_SHARD: shard } = process.env;
  if (one) return [JSON.parse(one) as AttentionConfiguration];
  const [first, step] = (shard ?? '1/1').split('/').map((text) => numberOf('TERNFLASH_RANDOM_SHARD', text));
  const all = count ? numberOf('TERNFLASH_RANDOM_CASES', count) : DEFAULT_COUNT;
  const drawn: AttentionConfiguration[] = [];
  for (let number = first; number <= all; number += step) drawn.push(drawAttention(number, HOPPER));
  return drawn;
}

async function run<C extends Case & { deterministic?: boolean }>(
  spec: OpSpec<C>,
  c: C,
  { dtype }: AttentionConfiguration,
  device: DeviceName,
): Promise<void> {
  if (HOPPER) return checkForward(spec, c, dtype, device);
  await checkCase(spec, c, dtype, device);
  if (!c.deterministic) return;
  const { inputs, dOut } = prepareCase(spec, c, dtype);
  const gradients = async (): Promise<unknown> => (await runOnDevice(spec, c, dtype, device, inputs, dOut)).gradients;
  expect(await gradients()).toEqual(await gradients());
}

describe('attention of random shapes and options', () => {
  const rows = configurations().map((configuration) => ({ configuration, line: JSON.stringify(configuration) }));
  describeBackends((device) => {
    test.each(rows)('$line', async ({ configuration, line }) => {
      try {
        if (configuration.op === 'flashAttention')
          await run(flashAttentionSpec, configuration.c, configuration, device);
        else await run(flashAttentionVarlenSpec, configuration.c, configuration, device);
      } catch (error) {
        if (error instanceof Error) error.message = `TERNFLASH_RANDOM_CASE='${line}': ${error.message}`;
        throw error;
      }
    });
  });
});
