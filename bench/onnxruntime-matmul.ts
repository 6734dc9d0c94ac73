// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { linear } from '../lib/ops/linear.js';
import { quantizeTernary } from '../lib/ops/quantize-ternary.js';
import { ternaryMatmul } from '../lib/ops/ternary-matmul.js';
import { TernaryTensor } from '../lib/ops/ternary-tensor.js';
import { transpose } from '../lib/ops/transpose.js';
import { Generator } from '../lib/random.js';
import { tensor, type Tensor } from '../lib/tensor.js';
import type { OnnxNode, OnnxTensor } from './onnx-model.js';
import {
  called,
  captured,
  floats,
  peerOf,
  type Contender,
  type Peer,
  type PeerCase,
} from './onnxruntime-contenders.js';
import { operand, type Operand } from './operands.js';
import { DEVICE } from './options.js';
import { subject } from './schema.js';

interface Product {
  m: number;
  n: number;
  k: number;
  /** Whether every op reads a weight that no cache holds. */
  streamed: boolean;
}

const SHAPES = [
  [2560, 2560],
  [6912, 2560],
  [2560, 6912],
  [14336, 4096],
] as const;
const ROWS = [1, 8, 128, 512];
/** What the weights of a streamed case take at least. */
const STREAMED_BYTES = 320e6;
/** Up to as many rows, the way to the kernel is some of the time; captured graphs show how much. */
const FEW_ROWS = 8;
/** Ops of such a graph. */
const CAPTURED_OPS = 32;
const SAMPLES = 200;
/** Of each further product of a session. */
const FEW_SAMPLES = 3;
/** Of MatMulNBits, along K: the largest that its fast kernels take. */
const BLOCK = 128;

const caseName = (op: string, { m, n, k, streamed }: Product): string =>
  `${op} ${m}x${n}x${k}${streamed ? ' streamed' : ''}`;

/** How many weights of so many bytes a contender cycles over. */
const copies = ({ streamed }: Product, bytes: number): number => (streamed ? Math.ceil(STREAMED_BYTES / bytes) : 1);

/** Called, and where rows are few also captured. */
function oursOf(
  { m, streamed }: Product,
  step: (index: number) => Tensor,
  count: number,
): { ours: Contender[]; dispose(): void } {
  if (m > FEW_ROWS) return { ours: [called('', step)], dispose: () => undefined };
  const graph = captured('captured', step, streamed ? count : CAPTURED_OPS);
  return { ours: [called('called', step, count), graph], dispose: () => graph[Symbol.dispose]() };
}

/** The rows of a matrix in turn, row `first` first: another weight, where an equal one would be found out and held once. */
function rotated<T extends Float32Array | Uint8Array | Int8Array>(matrix: T, rowLength: number, first: number): T {
  const out = matrix.slice() as T;
  out.set(matrix.subarray(first * rowLength));
  out.set(matrix.subarray(0, first * rowLength), matrix.length - first * rowLength);
  return out;
}

/** [N, K] to [K, N]. */
async function transposed<T extends Float32Array | Int8Array>(matrix: T, n: number, k: number): Promise<T> {
  using rows = tensor(matrix, { shape: [n, k], device: DEVICE });
  using columns = transpose(rows);
  return (await columns.data()) as T;
}

/** A session with a node for each of `count` weights. Their results are joined: every output of a session takes time. */
async function productsOf(
  name: string,
  c: Product,
  x: Operand,
  count: number,
  node: Omit<OnnxNode, 'inputs' | 'outputs'>,
  weightsOf: (index: number) => Promise<OnnxTensor[]>,
): Promise<Peer> {
  const nodes: OnnxNode[] = [];
  const constants: OnnxTensor[] = [];
  for (let i = 0; i < count; i++) {
    const weights = (await weightsOf(i)).map((weight) => ({ ...weight, name: `${weight.name}${i}` }));
    constants.push(...weights);
    nodes.push({ ...node, inputs: ['x', ...weights.map((weight) => weight.name)], outputs: [`out${i}`] });
  }
  const inputs = nodes.flatMap(({ outputs }) => outputs);
  if (count > 1) nodes.push({ op: 'Concat', inputs, outputs: ['out'], attributes: { axis: 0 } });
  else nodes[0] = { ...nodes[0], outputs: ['out'] };
  const { m, n, k } = c;
  const feeds = [floats('x', x.part(0, m * k), [m, k])];
  return peerOf({ name, nodes, inputs: feeds, constants, shape: [count * m, n], ops: count });
}

/** Compares random entries of the products with the rotated weights, which follow one another in `out`, with float64 sums. */
function checkEntries(
  name: string,
  out: Float32Array,
  { m, n, k }: Product,
  term: (row: number, col: number, i: number) => number,
  bound: (magnitude: number) => number,
): void {
  const random = new Generator(3);
  for (let product = 0; product * m * n < out.length; product++) {
    for (let sample = 0; sample < (product === 0 ? SAMPLES : FEW_SAMPLES); sample++) {
      const [row, col] = [random.integer(m), random.integer(n)];
      let [sum, magnitude] = [0, 0];
      for (let i = 0; i < k; i++) {
        const value = term(row, (product + col) % n, i);
        sum += value;
        magnitude += Math.abs(value);
      }
      const got = out[(product * m + row) * n + col];
      if (!(Math.abs(got - sum) <= bound(magnitude)))
        throw new Error(`bench ${name}: expected ${sum} within ${bound(magnitude)}, got ${got}`);
    }
  }
}

async function resultOf(step: () => Tensor): Promise<Float32Array> {
  using out = step();
  return (await out.data()) as Float32Array;
}

function linearCase(c: Product): PeerCase {
  const { m, n, k } = c;
  const name = caseName('linear float32', c);
  return {
    name,
    subject: subject('linear', 'float32'),
    unit: 'float operations',
    amount: 2 * m * n * k,
    async prepare() {
      const x = operand([m, k], 'float32', { seed: 1 });
      const weight = operand([n, k], 'float32', { seed: 2 });
      const count = copies(c, weight.tensor.bytes);
      const values = weight.part(0, n * k);
      const weights = [weight.tensor];
      for (let i = 1; i < count; i++) weights.push(tensor(rotated(values, k, i), { shape: [n, k], device: DEVICE }));
      const step = (index: number): Tensor => linear(x.tensor, weights[index % count]);
      const { ours, dispose } = oursOf(c, step, count);
      const peer = await productsOf('MatMul', c, x, count, { op: 'MatMul' }, async (i) => [
        floats('w', await transposed(rotated(values, k, i), n, k), [k, n]),
      ]);
      return {
        ours,
        peers: [peer],
        async check() {
          const term = (row: number, col: number, i: number): number => x.at(row * k + i) * weight.at(col * k + i);
          // What k roundings in float32 are likely to make.
          const bound = (magnitude: number): number => magnitude * 2 ** -24 * Math.sqrt(k) * 4;
          checkEntries(name, await resultOf(() => step(0)), c, term, bound);
          await peer.run();
          checkEntries(`${name}, ${peer.name}`, peer.out, c, term, bound);
        },
        dispose() {
          dispose();
          for (const each of [x.tensor, ...weights]) each.dispose();
        },
      };
    },
  };
}

/** Activations rounded to int8 by both, which is part of what is timed. */
function ternaryCase(c: Product): PeerCase {
  const { m, n, k } = c;
  const name = caseName('ternary-matmul int8', c);
  return {
    name,
    subject: subject('ternaryMatmul', 'int8'),
    unit: 'integer operations',
    amount: 2 * m * n * k,
    async prepare() {
      const x = operand([m, k], 'float32', { seed: 1 });
      using weight = operand([n, k], 'float32', { seed: 2 }).tensor;
      const first = quantizeTernary(weight);
      const codes = (await first.packed.raw()) as Uint8Array;
      const trits = await first.trits();
      const scale = await first.scale.item();
      const count = copies(c, codes.length);
      const weights = [first];
      for (let i = 1; i < count; i++) {
        const packed = tensor(rotated(codes, k / 4, i), { shape: first.packed.shape, device: DEVICE });
        weights.push(new TernaryTensor(packed, first.scale, [n, k]));
      }
      const step = (index: number): Tensor => ternaryMatmul(x.tensor, weights[index % count]);
      const { ours, dispose } = oursOf(c, step, count);

      const domain = 'com.microsoft';
      const dynamicNode = { op: 'DynamicQuantizeMatMul', domain } as const;
      const dynamic = await productsOf(dynamicNode.op, c, x, copies(c, n * k), dynamicNode, async (i) => [
        { name: 'w', type: 'int8', shape: [k, n], data: await transposed(rotated(trits, k, i), n, k) },
        floats('scale', Float32Array.of(scale), []),
      ]);
      const blocks = k / BLOCK;
      const attributes = { K: k, N: n, bits: 2, block_size: BLOCK, accuracy_level: 4 };
      // Its codes are in the order of ours, but 2 stands for 0 and not 1: in every two bits one more.
      const theirCodes = codes.map((byte) => byte + 0b01010101);
      const twoBitNode = { op: 'MatMulNBits', domain, attributes } as const;
      const twoBits = await productsOf('MatMulNBits, 2 bits', c, x, count, twoBitNode, async (i) => [
        { name: 'w', type: 'uint8', shape: [n, blocks, BLOCK / 4], data: rotated(theirCodes, k / 4, i) },
        floats('scales', new Float32Array(n * blocks).fill(scale), [n, blocks]),
      ]);
      const peers = [dynamic, twoBits];
      return {
        ours,
        peers,
        async check() {
          const values = x.part(0, m * k);
          const term = (row: number, col: number, i: number): number =>
            values[row * k + i] * trits[col * k + i] * scale;
          // Six standard deviations of k independent roundings of activations to 127 steps of the largest.
          const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
          const bound = (): number => ((6 * largest) / 127) * scale * Math.sqrt(k / 12);
          checkEntries(name, await resultOf(() => step(0)), c, term, bound);
          for (const peer of peers) {
            await peer.run();
            checkEntries(`${name}, ${peer.name}`, peer.out, c, term, bound);
          }
        },
        dispose() {
          dispose();
          x.tensor.dispose();
          for (const each of weights) each.dispose();
        },
      };
    },
  };
}

/** Of matrices so small that nothing but the way to the kernel takes time. */
const CALL: Product = { m: 1, n: 16, k: 16, streamed: false };

export function matmulCases(): PeerCase[] {
  const products = SHAPES.flatMap(([n, k]) =>
    ROWS.flatMap((m) => (m === 1 ? [false, true] : [false]).map((streamed) => ({ m, n, k, streamed }))),
  );
  return [...[CALL, ...products].map(linearCase), ...products.map(ternaryCase)];
}
