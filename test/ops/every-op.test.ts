// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readdirSync } from 'node:fs';
import * as path from 'node:path';
import * as library from '../../lib/index.js';
import { getThreads, setThreads, type DeviceName, type Tensor } from '../../lib/index.js';
import type { FloatDType } from '../../lib/dtype.js';
import { EXACT } from '../arithmetic.js';
import type { Case } from '../cases.js';
import { mapSpecs } from '../formulas/index.js';
import { describeBackends, FLOAT_DTYPES, hasCpu, make } from '../harness.js';
import type { NamedValues, OpSpec, Values } from '../op-spec.js';
import { prepareCase, runOnDevice } from '../op-tests.js';
import { Random } from '../random.js';

/** What holds for all ops alike. */

const byInputSize = <C extends Case>(spec: OpSpec<C>): C[] => {
  const size = (c: C): number =>
    Object.values(spec.inputs(c, new Random(c.name))).reduce((total, { values }) => total + values.length, 0);
  return [...spec.cases.cases]
    .map((c) => ({ c, size: size(c) }))
    .sort((x, y) => x.size - y.size)
    .map(({ c }) => c);
};

describe('the number of threads changes no bit', () => {
  const ops = mapSpecs(<C extends Case>(spec: OpSpec<C>) => ({
    op: spec.op,
    // The largest case, where there is most to divide.
    run: async (dtype: FloatDType): Promise<unknown> => {
      const c = byInputSize(spec)[spec.cases.cases.length - 1];
      const { inputs, dOut } = prepareCase(spec, c, dtype);
      const { outputs, gradients } = await runOnDevice(spec, c, dtype, 'cpu', inputs, dOut);
      return { outputs: Object.values(outputs).map(({ values }) => values), gradients };
    },
  }));

  // The reference computes in the calling thread whatever is set.
  (hasCpu ? describe : describe.skip)('cpu', () => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each(ops)('$op', async ({ run }) => {
        const before = getThreads();
        try {
          const results: unknown[] = [];
          for (const threads of [1, 2, 3]) {
            setThreads(threads);
            expect(getThreads()).toBe(threads);
            results.push(await run(dtype));
          }
          for (const result of results.slice(1)) expect(result).toEqual(results[0]);
        } finally {
          setThreads(before);
        }
      });
    });
  });
});

/** Rounding to integers gives NaN no meaning; a masked key may be multiplied by a weight of 0 or not looked at. */
const WITHOUT_NAN = ['ternaryMatmul', 'bitLinear'];

describe('NaN goes where the formula takes it, and nowhere else', () => {
  const ops = mapSpecs(<C extends Case>(spec: OpSpec<C>) => ({
    op: spec.op,
    run: async (device: DeviceName): Promise<void> => {
      const cases = byInputSize(spec).filter((c) => !('causal' in c || 'window' in c));
      const c = cases[Math.floor(cases.length / 2)];
      const { inputs } = prepareCase(spec, c, 'float32');
      for (const [poisoned, input] of Object.entries(inputs)) {
        if (input.dtype) continue;
        const values: NamedValues = Object.fromEntries(
          Object.entries(inputs).map(([name, each]) => [name, each.values.slice()]),
        );
        values[poisoned][Math.floor(input.values.length / 2)] = NaN;
        const tensors: Record<string, Tensor> = Object.fromEntries(
          Object.entries(inputs).map(([name, each]) => [
            name,
            make(device, each.dtype ?? 'float32', each.shape, values[name]),
          ]),
        );
        const expected = spec.forward(EXACT, values, c);
        const results = spec.call(tensors, c);
        for (const [name, result] of Object.entries(results)) {
          const places = (numbers: ArrayLike<number>): number[] =>
            [...Array.from(numbers).keys()].filter((i) => Number.isNaN(numbers[i]));
          expect({ poisoned, name, places: places(await result.data()) }).toEqual({
            poisoned,
            name,
            places: places(expected[name] as Values),
          });
        }
        for (const each of [...Object.values(tensors), ...Object.values(results)]) each.dispose();
      }
    },
  })).filter(({ op }) => !WITHOUT_NAN.includes(op));

  describeBackends((device) => {
    test.each(ops)('$op', ({ run }) => run(device));
  });
});

describe('the list of ops', () => {
  // Ops whose files test them without a formula, for they only move numbers or round them.
  const OTHERS = [
    'argmax',
    'cast',
    'dequantizeTernary',
    'flashAttentionWithKvCache',
    'quantizeTernary',
    'reshape',
    'transpose',
  ];
  test('every op that lib/ops exports has tests here', () => {
    const folder = path.join(__dirname, '..', '..', 'lib', 'ops');
    const exported = new Set<string>();
    for (const file of readdirSync(folder).filter((name) => name.endsWith('.js'))) {
      for (const [name, value] of Object.entries(jest.requireActual<object>(path.join(folder, file)))) {
        if (typeof value === 'function' && name in library && !/^[A-Z]/.test(name)) exported.add(name);
      }
    }
    const tested = new Set([...mapSpecs((spec) => spec.op), ...OTHERS]);
    expect([...exported].filter((name) => !tested.has(name))).toEqual([]);
    expect(exported.size).toBeGreaterThan(20);
  });
});
