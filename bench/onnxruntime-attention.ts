// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cast } from '../lib/ops/cast.js';
import { flashAttention } from '../lib/ops/flash-attention.js';
import { transpose } from '../lib/ops/transpose.js';
import type { Tensor } from '../lib/tensor.js';
import {
  attentionLayer,
  BATCHES,
  HEAD_DIM,
  HEADS,
  HIDDEN,
  layerOperands,
  layerOperations,
  SEQUENCES,
} from './attention-layer.js';
import type { OnnxNode, OnnxTensor } from './onnx-model.js';
import { called, captured, floats, peerOf, type Peer, type PeerCase } from './onnxruntime-contenders.js';
import { operand } from './operands.js';
import { subject } from './schema.js';

interface Heads {
  heads: number;
  keyHeads: number;
  headDim: number;
}

interface Attention extends Heads {
  batch: number;
  sequence: number;
  causal: boolean;
}

/** Of the largest element: float32 sums in another order. */
const FLOAT32_BOUND = 1e-5;
/** The result is rounded to 8 bits. */
const BFLOAT16_BOUND = 2 ** -8;

const DECODE_KEYS = 4096;
/** Ops of a captured graph. */
const DECODE_OPS = 16;

async function read(x: Tensor): Promise<Float32Array> {
  return (await x.data()) as Float32Array;
}

async function transposed(x: Tensor, axes?: readonly number[]): Promise<Float32Array> {
  using copy = transpose(x, axes);
  return read(copy);
}

function expectAgreement(name: string, got: Float32Array, expected: Float32Array, bound: number): void {
  let [largest, difference] = [0, 0];
  expected.forEach((value, i) => {
    largest = Math.max(largest, Math.abs(value));
    // NaN stays.
    if (!(Math.abs(got[i] - value) <= difference)) difference = Math.abs(got[i] - value);
  });
  if (!(difference <= bound * largest))
    throw new Error(`bench ${name}: expected a difference of at most ${bound * largest}, got ${difference}`);
}

/** Runs every peer once and compares it with our result. */
async function checkPeers(name: string, ours: () => Tensor, peers: readonly Peer[], bound: number): Promise<void> {
  using out = ours();
  const expected = await read(out);
  for (const peer of peers) {
    await peer.run();
    expectAgreement(`${name}, ${peer.name}`, peer.out, expected, bound);
  }
}

/** The ops of ONNX Runtime that attend as asked, from q, k and v [B, S, heads · D] to `output`. */
function attentionNodes(c: Attention, output: string): { name: string; node: OnnxNode; constants: OnnxTensor[] }[] {
  const { batch, sequence, heads, keyHeads } = c;
  const causal = Number(c.causal);
  const [inputs, outputs, domain] = [['q', 'k', 'v'], [output], 'com.microsoft' as const];
  const attributes = { is_causal: causal, q_num_heads: heads, kv_num_heads: keyHeads };
  const nodes: ReturnType<typeof attentionNodes> = [
    { name: 'Attention-23', node: { op: 'Attention', inputs, outputs, attributes }, constants: [] },
  ];
  if (heads === keyHeads) {
    const multiHead = { num_heads: heads, unidirectional: causal };
    const node = { op: 'MultiHeadAttention', domain, inputs, outputs, attributes: multiHead };
    nodes.push({ name: 'MultiHeadAttention', node, constants: [] });
  }
  if (c.causal) {
    const lengths = new Int32Array(batch).fill(sequence - 1);
    const constants: OnnxTensor[] = [
      { name: 'seqlens_k', type: 'int32', shape: [batch], data: lengths },
      { name: 'total_sequence_length', type: 'int32', shape: [], data: Int32Array.of(sequence) },
    ];
    const node = {
      op: 'GroupQueryAttention',
      domain,
      inputs: [...inputs, '', '', 'seqlens_k', 'total_sequence_length'],
      outputs: [output, 'present_key', 'present_value'],
      attributes: { num_heads: heads, kv_num_heads: keyHeads },
    };
    nodes.push({ name: 'GroupQueryAttention', node, constants });
  }
  return nodes;
}

/** Two products for every pair of a query and a key that it sees. */
function attentionOperations({ batch, sequence, heads, headDim, causal }: Attention): number {
  const pairs = causal ? (sequence * (sequence + 1)) / 2 : sequence * sequence;
  return 4 * batch * heads * headDim * pairs;
}

const headsName = ({ heads, keyHeads, headDim }: Heads): string =>
  `H${heads}${heads === keyHeads ? '' : `/${keyHeads}`} D${headDim}`;

function forwardCase(c: Attention): PeerCase {
  const { batch, sequence, heads, keyHeads, headDim, causal } = c;
  const name = `attention forward float32 ${headsName(c)} S${sequence}${causal ? ' causal' : ''}`;
  return {
    name,
    subject: subject('flashAttention', 'float32', {
      pass: 'forward',
      batch,
      sequence,
      alongSequence: `${headsName(c)} ${causal ? 'causal' : 'full'}`,
    }),
    unit: 'float operations',
    amount: attentionOperations(c),
    async prepare() {
      const tensors = [heads, keyHeads, keyHeads].map(
        (count, i) => operand([batch, sequence, count, headDim], 'float32', { seed: i + 1 }).tensor,
      );
      const [q, k, v] = tensors;
      const inputs: OnnxTensor[] = [];
      for (const [i, each] of tensors.entries())
        inputs.push(floats('qkv'[i], await read(each), [batch, sequence, each.shape[2] * headDim]));
      const shape = [batch, sequence, heads * headDim];
      const peers: Peer[] = [];
      for (const { name: peer, node, constants } of attentionNodes(c, 'out'))
        peers.push(await peerOf({ name: peer, nodes: [node], inputs, constants, shape }));
      const ours = (): Tensor => flashAttention(q, k, v, { causal });
      return {
        ours: [called('', ours)],
        peers,
        check: () => checkPeers(name, ours, peers, FLOAT32_BOUND),
        dispose: () => tensors.forEach((each) => each.dispose()),
      };
    },
  };
}

const LAYER_HEADS: Heads = { heads: HEADS, keyHeads: HEADS, headDim: HEAD_DIM };

/** See attention-layer.ts. */
function layerCase(c: Attention): PeerCase {
  const { batch, sequence, heads, causal } = c;
  const mask = causal ? ' causal' : '';
  const name = `attention-layer float32 B${batch} S${sequence}${mask}`;
  return {
    name,
    subject: subject('attention layer', 'float32', {
      pass: 'forward',
      batch,
      sequence,
      alongSequence: `float32, B ${batch}${mask}`,
      alongBatch: `float32, S ${sequence}${mask}`,
    }),
    unit: 'float operations',
    amount: layerOperations(batch, sequence, causal),
    async prepare() {
      const shape = [batch, sequence, HIDDEN];
      const [x, ...weights] = layerOperands(batch, sequence, 'float32').map(({ tensor }) => tensor);
      const ours = (): Tensor => attentionLayer(x, weights, causal);

      const inputs = [floats('x', await read(x), shape)];
      const turned = await Promise.all(weights.map((weight) => transposed(weight)));
      const square = turned.map((data, i) => floats(`w${'qkvo'[i]}`, data, [HIDDEN, HIDDEN]));
      const product = (input: string, weight: string, output: string): OnnxNode => ({
        op: 'MatMul',
        inputs: [input, weight],
        outputs: [output],
      });
      const projections = ['q', 'k', 'v'].map((each) => product('x', `w${each}`, each));
      const last = product('attended', 'wo', 'out');
      const peers: Peer[] = [];
      for (const { name: peer, node, constants } of attentionNodes(c, 'attended')) {
        const nodes = [...projections, node, last];
        peers.push(await peerOf({ name: peer, nodes, inputs, constants: [...square, ...constants], shape }));
      }
      const merged = new Float32Array(3 * HIDDEN * HIDDEN);
      for (let row = 0; row < HIDDEN; row++) {
        const part = (data: Float32Array): Float32Array => data.subarray(row * HIDDEN, (row + 1) * HIDDEN);
        turned.slice(0, 3).forEach((data, i) => merged.set(part(data), (3 * row + i) * HIDDEN));
      }
      const fused: OnnxNode = {
        op: 'Attention',
        domain: 'com.microsoft',
        // Without a bias it crashes.
        inputs: ['x', 'wqkv', 'bias'],
        outputs: ['attended'],
        attributes: { num_heads: heads, unidirectional: Number(causal) },
      };
      const bias = floats('bias', new Float32Array(3 * HIDDEN), [3 * HIDDEN]);
      const constants = [floats('wqkv', merged, [HIDDEN, 3 * HIDDEN]), bias, square[3]];
      peers.push(await peerOf({ name: 'Attention, fused', nodes: [fused, last], inputs, constants, shape }));
      return {
        ours: [called('', ours)],
        peers,
        check: () => checkPeers(name, ours, peers, FLOAT32_BOUND),
        dispose: () => [x, ...weights].forEach((each) => each.dispose()),
      };
    },
  };
}

/** One query over a cache. All numbers are bfloat16 numbers, so that a cache of either dtype holds the same. */
function decodeCase(c: Heads): PeerCase {
  const { heads, keyHeads, headDim } = c;
  const name = `decode ${headsName(c)}, ${DECODE_KEYS} keys`;
  return {
    name,
    subject: subject('flashAttention', 'float32', { pass: 'forward', batch: 1 }),
    unit: 'float operations',
    amount: 4 * heads * headDim * DECODE_KEYS,
    async prepare() {
      const shapes = [
        [1, 1, heads, headDim],
        [1, DECODE_KEYS, keyHeads, headDim],
        [1, DECODE_KEYS, keyHeads, headDim],
      ];
      const halves = shapes.map((shape, i) => operand(shape, 'bfloat16', { seed: i + 1 }).tensor);
      const wholes = halves.map((each) => cast(each, 'float32'));
      const attend =
        ([q, k, v]: readonly Tensor[]) =>
        (): Tensor =>
          flashAttention(q, k, v);
      const graphs = [
        captured('float32, captured', attend(wholes), DECODE_OPS),
        captured('bfloat16, captured', attend(halves), DECODE_OPS),
      ];

      const [query, keys, values] = await Promise.all(wholes.map(read));
      const [turnedKeys, turnedValues] = await Promise.all(
        wholes.slice(1).map((each) => transposed(each, [0, 2, 1, 3])),
      );
      const cacheShape = [1, DECODE_KEYS, keyHeads * headDim];
      const turnedShape = [1, keyHeads, DECODE_KEYS, headDim];
      const shape = [1, 1, heads * headDim];
      const flat = [floats('q', query, shape), floats('k', keys, cacheShape), floats('v', values, cacheShape)];
      const turned = [floats('k', turnedKeys, turnedShape), floats('v', turnedValues, turnedShape)];
      const peers: Peer[] = [];
      const add = async (peer: string, node: OnnxNode, inputs: readonly OnnxTensor[], of = shape): Promise<void> => {
        peers.push(await peerOf({ name: peer, nodes: [node], inputs, shape: of }));
      };
      for (const { name: peer, node } of attentionNodes({ ...c, batch: 1, sequence: 1, causal: false }, 'out')) {
        await add(peer, node, flat);
        if (peer === 'MultiHeadAttention') await add(`${peer}, cache BNSH`, node, [flat[0], ...turned]);
      }
      const plain: OnnxNode = { op: 'Attention', inputs: ['q', 'k', 'v'], outputs: ['out'] };
      const turnedQuery = [1, heads, 1, headDim];
      await add('Attention-23, cache BNSH', plain, [floats('q', query, turnedQuery), ...turned], turnedQuery);
      return {
        ours: [called('float32, called', attend(wholes)), called('bfloat16, called', attend(halves)), ...graphs],
        peers,
        async check() {
          await checkPeers(name, attend(wholes), peers, FLOAT32_BOUND);
          await checkPeers(`${name}, bfloat16`, attend(halves), peers, BFLOAT16_BOUND);
        },
        dispose() {
          for (const graph of graphs) graph[Symbol.dispose]();
          for (const each of [...halves, ...wholes]) each.dispose();
        },
      };
    },
  };
}

const ATTENTIONS: readonly Heads[] = [
  { heads: 12, keyHeads: 12, headDim: 64 },
  { heads: 12, keyHeads: 12, headDim: 128 },
  { heads: 32, keyHeads: 8, headDim: 64 },
  { heads: 32, keyHeads: 8, headDim: 128 },
];

export function attentionCases(): PeerCase[] {
  const masks = [false, true];
  return [
    ...ATTENTIONS.flatMap((heads) =>
      SEQUENCES.flatMap((sequence) => masks.map((causal) => forwardCase({ ...heads, batch: 1, sequence, causal }))),
    ),
    ...BATCHES.flatMap((batch) =>
      SEQUENCES.flatMap((sequence) => masks.map((causal) => layerCase({ ...LAYER_HEADS, batch, sequence, causal }))),
    ),
    ...ATTENTIONS.filter(({ heads, headDim }) => heads === 12 || headDim === 128).map(decodeCase),
  ];
}
