// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { add, cast, device as deviceNamed, mul, sum, tidy, type DeviceName, type Tensor } from '../lib/index.js';
import type { FloatDType } from '../lib/dtype.js';
import { arithmeticIn, EXACT, roundedTo } from './arithmetic.js';
import { derivative } from './central-differences.js';
import type { Case } from './cases.js';
import {
  expectCorrectlyRounded,
  expectIdentical,
  expectSameFloat64,
  expectWithinTolerance,
  FORWARD_FACTOR,
  GRADIENT_FACTOR,
  largestError,
} from './compare.js';
import { readFixture, type FixtureTensor } from './fixture.js';
import { describeBackends, FLOAT_DTYPES, make } from './harness.js';
import type { Input, NamedValues, OpSpec, Values } from './op-spec.js';
import { Random } from './random.js';

/** Values, or a number about them, for each output and each gradient. */
interface Results<T> {
  outputs: Record<string, T>;
  gradients: Record<string, T>;
}

/** What a case should give in a dtype: the float64 truth, and how far from it the plain formula is in that dtype. */
interface Expected {
  inputs: Record<string, Input>;
  dOut: NamedValues;
  exact: Results<Values>;
  plainError: Results<number>;
}

function mapValues<T, U>(record: Record<string, T>, fn: (value: T, name: string) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, fn(value, name)]));
}

const valuesOf = (inputs: Record<string, Input>): NamedValues => mapValues(inputs, (input) => input.values);

function outputDType<C extends Case>(spec: OpSpec<C>, name: string, dtype: FloatDType): FloatDType {
  return spec.float32Outputs?.includes(name) ? 'float32' : dtype;
}

/** The inputs as tensors of the dtype hold them; another `draw` gives other numbers. */
function inputsIn<C extends Case>(spec: OpSpec<C>, c: C, dtype: FloatDType, draw = 0): Record<string, Input> {
  return mapValues(spec.inputs(c, new Random(`${spec.op} ${c.name} ${draw || ''}`)), (input) =>
    input.dtype ? input : { ...input, values: input.values.map((value) => roundedTo(dtype, value)) },
  );
}

/** The plain formula in a dtype; float32 outputs are computed in float32, as their tensors can hold that. */
function plainResults<C extends Case>(
  spec: OpSpec<C>,
  c: C,
  inputs: NamedValues,
  dOut: NamedValues,
  dtype: FloatDType,
): Results<Values> {
  const a = arithmeticIn(dtype);
  const outputs = spec.forward(a, inputs, c);
  if (dtype !== 'float32' && spec.float32Outputs) {
    const inFloat32 = spec.forward(arithmeticIn('float32'), inputs, c);
    for (const name of spec.float32Outputs) outputs[name] = inFloat32[name];
  }
  return { outputs, gradients: spec.backward(a, inputs, dOut, c) };
}

function largestErrors(plain: Results<Values>, exact: Results<Values>): Results<number> {
  const errors = (got: NamedValues, truth: NamedValues): Record<string, number> =>
    mapValues(truth, (values, name) => largestError(got[name], values));
  return { outputs: errors(plain.outputs, exact.outputs), gradients: errors(plain.gradients, exact.gradients) };
}

/** The largest of fewer errors than this says little: the plain formula may be exact on one number by chance. */
const SAMPLES = 64;

function expectedOf<C extends Case>(spec: OpSpec<C>, c: C, dtype: FloatDType): Expected {
  const draw = (
    index: number,
  ): { inputs: Record<string, Input>; dOut: NamedValues; exact: Results<Values>; plain: Results<Values> } => {
    const { inputs, dOut } = prepareCase(spec, c, dtype, index);
    const values = valuesOf(inputs);
    const exact = { outputs: spec.forward(EXACT, values, c), gradients: spec.backward(EXACT, values, dOut, c) };
    return { inputs, dOut, exact, plain: plainResults(spec, c, values, dOut, dtype) };
  };
  const { inputs, dOut, exact, plain } = draw(0);
  const plainError = largestErrors(plain, exact);
  // The error of a small result is measured on more numbers of the same kind, until there are enough of them.
  const smallest = Math.min(
    ...[exact.outputs, exact.gradients].flatMap((each) => Object.values(each).map((values) => values.length)),
  );
  for (let index = 1; index * smallest < SAMPLES; index++) {
    const more = draw(index);
    const errors = largestErrors(more.plain, more.exact);
    for (const kind of ['outputs', 'gradients'] as const) {
      for (const [name, error] of Object.entries(errors[kind])) {
        // Only as many as are needed: a result of 64 elements is judged by these alone.
        if (index * exact[kind][name].length < SAMPLES)
          plainError[kind][name] = Math.max(plainError[kind][name], error);
      }
    }
  }
  return { inputs, dOut, exact, plainError };
}

/** Expectations are the same for every backend: each is worked out once. */
function memoize<K, V>(fn: (key: K) => V): (key: K) => V {
  const known = new Map<K, V>();
  return (key) => {
    if (!known.has(key)) known.set(key, fn(key));
    return known.get(key) as V;
  };
}

/** Inputs of a case, and gradients for its outputs. */
export function prepareCase<C extends Case>(
  spec: OpSpec<C>,
  c: C,
  dtype: FloatDType,
  draw = 0,
): Pick<Expected, 'inputs' | 'dOut'> {
  const inputs = inputsIn(spec, c, dtype, draw);
  const random = new Random(`${spec.op} ${c.name} dOut ${draw || ''}`);
  const dOut = mapValues(spec.forward(EXACT, valuesOf(inputs), c), (out, name) =>
    random.normals(out.length).map((value) => roundedTo(outputDType(spec, name, dtype), value)),
  );
  return { inputs, dOut };
}

/** The results of one call of the library and of its backward pass, read back. Checks that nothing is left behind or changed. */
export async function runOnDevice<C extends Case>(
  spec: OpSpec<C>,
  c: C,
  dtype: FloatDType,
  device: DeviceName,
  inputs: Record<string, Input>,
  dOut: NamedValues,
): Promise<{ outputs: Record<string, { values: Values; tensor: Tensor }>; gradients: NamedValues }> {
  const before = deviceNamed(device).memory();
  const tensors = mapValues(inputs, ({ shape, values, dtype: own }) => make(device, own ?? dtype, shape, values, !own));
  const results = spec.call(tensors, c);
  const incoming = mapValues(dOut, (values, name) => make(device, results[name].dtype, results[name].shape, values));
  backward(results, incoming);
  const grads: Record<string, Tensor> = {};
  for (const [name, t] of Object.entries(tensors)) {
    if (inputs[name].dtype) continue;
    if (!t.grad) throw new Error(`${spec.op}: ${name} got no gradient`);
    expect([t.grad.shape, t.grad.dtype]).toEqual([t.shape, t.dtype]);
    grads[name] = t.grad;
  }
  // Nothing but these is held once the graph is released. Compared before anything is awaited: the garbage collector must not free in
  // between what other tests have left.
  const held = [tensors, results, incoming, grads].flatMap((each) => Object.values(each));
  const after = deviceNamed(device).memory();
  expect(after.tensors - before.tensors).toBe(held.length);
  expect(after.bytes - before.bytes).toBe(held.reduce((total, each) => total + each.bytes, 0));

  const read = async (t: Tensor): Promise<Values> => Float64Array.from(await t.data());
  const outputs: Record<string, { values: Values; tensor: Tensor }> = {};
  for (const [name, result] of Object.entries(results)) {
    outputs[name] = { values: await read(result), tensor: result };
    expect(result.dtype).toBe(outputDType(spec, name, dtype));
    expect(result.device.id).toBe(deviceNamed(device).id);
  }
  for (const [name, t] of Object.entries(tensors)) {
    // An op never changes its inputs. Jest's own comparison of a million numbers takes seconds.
    expectIdentical(`${name} afterwards`, await read(t), inputs[name].values, t.shape);
  }
  const gradients: NamedValues = {};
  for (const [name, grad] of Object.entries(grads)) gradients[name] = await read(grad);
  for (const each of held) each.dispose();
  return { outputs, gradients };
}

/** One output is differentiated with its gradient given; several through the scalar that has these gradients. */
function backward(results: Record<string, Tensor>, dOut: Record<string, Tensor>): void {
  const names = Object.keys(dOut);
  if (names.length === 1) {
    results[names[0]].backward(dOut[names[0]]);
    return;
  }
  tidy(() => {
    const terms = names.map((name) => cast(sum(mul(results[name], dOut[name])), 'float32'));
    terms.reduce((total, term) => add(total, term)).backward();
  });
}

function expectOutputs<C extends Case>(
  spec: OpSpec<C>,
  outputs: Record<string, { values: Values; tensor: Tensor }>,
  { exact, plainError }: Expected,
): void {
  expect(Object.keys(outputs).sort()).toEqual(Object.keys(exact.outputs).sort());
  for (const [name, { values, tensor }] of Object.entries(outputs)) {
    const comparison = {
      name,
      got: values,
      exact: exact.outputs[name],
      dtype: tensor.dtype as FloatDType,
      shape: tensor.shape,
    };
    if (spec.cases.tolerance !== 'rounded') expectCorrectlyRounded(comparison);
    else expectWithinTolerance({ ...comparison, plainError: plainError.outputs[name], factor: FORWARD_FACTOR });
  }
}

/** As checkCase, forward only: for kernels that have no backward pass of their own. */
export async function checkForward<C extends Case>(
  spec: OpSpec<C>,
  c: C,
  dtype: FloatDType,
  device: DeviceName,
): Promise<void> {
  const expected = expectedOf({ ...spec, backward: () => ({}) }, c, dtype);
  const tensors = mapValues(expected.inputs, ({ shape, values, dtype: own }) =>
    make(device, own ?? dtype, shape, values),
  );
  const results = spec.call(tensors, c);
  const outputs: Record<string, { values: Values; tensor: Tensor }> = {};
  for (const [name, tensor] of Object.entries(results))
    outputs[name] = { values: Float64Array.from(await tensor.data()), tensor };
  expectOutputs(spec, outputs, expected);
  for (const each of [tensors, results].flatMap((all) => Object.values(all))) each.dispose();
}

async function check<C extends Case>(
  spec: OpSpec<C>,
  c: C,
  dtype: FloatDType,
  device: DeviceName,
  expected: Expected,
): Promise<void> {
  const { inputs, dOut, exact, plainError } = expected;
  const { outputs, gradients } = await runOnDevice(spec, c, dtype, device, inputs, dOut);
  expectOutputs(spec, outputs, expected);
  expect(Object.keys(gradients).sort()).toEqual(Object.keys(exact.gradients).sort());
  for (const [name, got] of Object.entries(gradients)) {
    expectWithinTolerance({
      name: `d${name}`,
      got,
      exact: exact.gradients[name],
      plainError: plainError.gradients[name],
      factor: GRADIENT_FACTOR,
      dtype,
      shape: inputs[name].shape,
    });
  }
}

/** One case on one device in one dtype, forward and backward, held to the tolerance rule. */
export function checkCase<C extends Case>(spec: OpSpec<C>, c: C, dtype: FloatDType, device: DeviceName): Promise<void> {
  return check(spec, c, dtype, device, expectedOf(spec, c, dtype));
}

const DIRECTIONS = 2;

/** The scalar that a backward pass with these gradients of the outputs differentiates. */
function weightedSum(outputs: NamedValues, weights: NamedValues): { value: number; magnitude: number } {
  let [value, magnitude] = [0, 0];
  for (const [name, ofOutput] of Object.entries(weights)) {
    outputs[name].forEach((y, i) => {
      if (!Number.isFinite(y)) return; // the lse of a query that sees no key: constant
      value += y * ofOutput[i];
      magnitude += Math.abs(y * ofOutput[i]);
    });
  }
  return { value, magnitude };
}

/** The formula's gradient against central differences of the formula, along random directions that move every element of an input. */
function checkCentralDifferences<C extends Case>(spec: OpSpec<C>, c: C): void {
  const inputs = inputsIn(spec, c, 'float32');
  const at = valuesOf(inputs);
  const forward = (values: NamedValues): NamedValues =>
    spec.straightThrough ? spec.straightThrough(values, at, c) : spec.forward(EXACT, values, c);
  const outputs = forward(at);
  const random = new Random(`${spec.op} ${c.name} directions`);
  const dOut = mapValues(outputs, (out) => random.normals(out.length));
  const gradients = spec.backward(EXACT, at, dOut, c);
  const terms = [...Object.values(at), ...Object.values(dOut)].reduce((total, values) => total + values.length, 0);
  const size = { terms, magnitude: weightedSum(outputs, dOut).magnitude };
  for (const [name, { values, dtype }] of Object.entries(inputs)) {
    if (dtype) continue;
    for (let i = 0; i < DIRECTIONS; i++) {
      const direction = random.signs(values.length);
      const slope = gradients[name].reduce((total, gradient, j) => total + gradient * direction[j], 0);
      const found = derivative((t) => {
        const moved = values.map((value, j) => value + t * direction[j]);
        return weightedSum(forward({ ...at, [name]: moved }), dOut).value;
      }, size);
      if (!(Math.abs(slope - found.value) <= found.uncertainty)) {
        throw new Error(
          `d${name}: expected ${found.value} ± ${found.uncertainty} by central differences, got ${slope} from the formula`,
        );
      }
    }
  }
}

/** The tests every differentiable op has: each case, forward and backward, on every backend and float dtype. */
export function describeOp<C extends Case>(spec: OpSpec<C>): void {
  describe(spec.op, () => {
    describe('the gradient of the plain formula', () => {
      test.each(spec.cases.cases)('equals central differences: $name', (c) => {
        checkCentralDifferences(spec, c);
      });
    });

    const expected = Object.fromEntries(
      FLOAT_DTYPES.map((dtype) => [dtype, memoize((c: C) => expectedOf(spec, c, dtype))]),
    ) as Record<FloatDType, (c: C) => Expected>;
    describeBackends((device) => {
      describe.each(FLOAT_DTYPES)('%s', (dtype) => {
        test.each(spec.cases.cases)('$name', (c) => check(spec, c, dtype, device, expected[dtype](c)));
      });
    });
  });
}

/** A case of test/fixtures. Names map the op's inputs and outputs to the file's. */
export interface GoldenCase<C> {
  fixture: string;
  /** The case's options. */
  c: C;
  names?: Record<string, string>;
  /** What PyTorch computed it in. Default float64. */
  computedIn?: 'float32' | 'float64';
}

function goldenOf<C extends Case>(
  spec: OpSpec<C>,
  { fixture, c, names = {} }: GoldenCase<C>,
  dtype: FloatDType,
): Expected {
  const file = readFixture(fixture);
  const entry = (name: string): FixtureTensor | undefined => file[names[name] ?? name];
  const round = (to: FloatDType, values: Values): Values => values.map((value) => roundedTo(to, value));
  const inputs = mapValues(spec.inputs(c, new Random(c.name)), (input, name) => {
    const found = entry(name) as FixtureTensor;
    return { ...input, shape: found.shape, values: input.dtype ? found.values : round(dtype, found.values) };
  });
  const outputs = mapValues(
    spec.forward(EXACT, valuesOf(inputs), c),
    (_, name) => (entry(name) as FixtureTensor).values,
  );
  const main = Object.keys(outputs)[0];
  const dOut = { [main]: round(outputDType(spec, main, dtype), file.dout.values) };
  const gradients: NamedValues = {};
  for (const [name, input] of Object.entries(inputs))
    if (!input.dtype) gradients[name] = file[`d${names[name] ?? name}`].values;
  const exact = { outputs, gradients };
  return {
    inputs,
    dOut,
    exact,
    plainError: largestErrors(plainResults(spec, c, valuesOf(inputs), dOut, dtype), exact),
  };
}

/** Compares with the numbers of PyTorch and Transformers, on every backend and float dtype; and first the plain formula itself. */
export function describeGolden<C extends Case>(spec: OpSpec<C>, goldens: readonly GoldenCase<C>[]): void {
  describe(`${spec.op}, golden`, () => {
    test.each(goldens)('the plain formula gives $fixture', (golden) => {
      const { inputs, dOut, exact, plainError } = goldenOf(spec, golden, 'float32');
      const values = valuesOf(inputs);
      // Where the formula itself rounds to float32, the function without it is what float64 can be compared with.
      const outputs = spec.straightThrough?.(values, values, golden.c) ?? spec.forward(EXACT, values, golden.c);
      const gradients = spec.backward(EXACT, values, dOut, golden.c);
      const float32 = golden.computedIn === 'float32';
      const compare = (got: NamedValues, wanted: NamedValues, errors: Record<string, number>): void => {
        for (const [name, values] of Object.entries(wanted)) {
          if (float32) {
            const shape = [values.length];
            const tolerance = { plainError: errors[name], factor: FORWARD_FACTOR, dtype: 'float32' } as const;
            expectWithinTolerance({ name, got: got[name], exact: values, shape, ...tolerance });
          } else {
            expectSameFloat64(name, got[name], values);
          }
        }
      };
      compare(outputs, exact.outputs, plainError.outputs);
      compare(gradients, exact.gradients, plainError.gradients);
    });
    const expected = Object.fromEntries(
      FLOAT_DTYPES.map((dtype) => [dtype, memoize((golden: GoldenCase<C>) => goldenOf(spec, golden, dtype))]),
    ) as Record<FloatDType, (golden: GoldenCase<C>) => Expected>;
    describeBackends((device) => {
      describe.each(FLOAT_DTYPES)('%s', (dtype) => {
        test.each(goldens)('$fixture', (golden) => check(spec, golden.c, dtype, device, expected[dtype](golden)));
      });
    });
  });
}
