// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { createRequire } from 'node:module';
import { capture } from '../lib/capture.js';
import { device, getThreads } from '../lib/device.js';
import type { Tensor } from '../lib/tensor.js';
import { onnxModel, type ElementType, type OnnxNode, type OnnxTensor } from './onnx-model.js';
import { memoryOf } from './memory-use.js';
import { DEVICE } from './options.js';
import type { MemoryUse, Subject, Unit } from './schema.js';

/** What takes turns with others. */
export interface Contender {
  name: string;
  /** Of a run. */
  ops: number;
  run(): Promise<unknown>;
  /** Absent where it is not known: of a peer, and of a captured graph, whose memory was taken when it was captured. */
  memory?(): Promise<MemoryUse>;
}

export interface Peer extends Contender {
  /** What the last run has written. */
  out: Float32Array;
  release(): Promise<void>;
}

export interface PeerCase {
  name: string;
  subject: Subject;
  unit: Unit;
  /** Operations of an op, two for a multiply-add. */
  amount: number;
  prepare(): Promise<Prepared>;
}

export interface Prepared {
  ours: Contender[];
  peers: Peer[];
  /** Throws if a result of any contender is further from the truth than its arithmetic explains. */
  check(): Promise<void>;
  dispose(): void;
}

/** Calls ops one after the other and waits for the last. `step` is told which of the ops it is. */
export function called(name: string, step: (index: number) => Tensor, ops = 1): Contender {
  const run = (): Promise<void> => {
    for (let i = 0; i < ops; i++) step(i).dispose();
    return device(DEVICE).synchronize();
  };
  return { name, ops, run, memory: () => memoryOf(run) };
}

/** The same ops replayed as a graph. */
export function captured(name: string, step: (index: number) => Tensor, ops: number): Contender & Disposable {
  const graph = capture(
    () => {
      for (let i = 0; i < ops; i++) step(i).dispose();
    },
    { device: DEVICE },
  );
  return { name, ops, run: () => graph.replay(), [Symbol.dispose]: () => graph.dispose() };
}

/** As much of onnxruntime-node as is called here; its own types are only there once it is installed. */
interface OnnxRuntime {
  env: { versions: { node?: string } };
  Tensor: new (type: ElementType, data: ArrayBufferView, shape: readonly number[]) => object;
  InferenceSession: {
    create(
      model: Uint8Array,
      options: object,
    ): Promise<{
      run(feeds: Record<string, object>, fetches: Record<string, object>): Promise<unknown>;
      release(): Promise<void>;
    }>;
  };
}

const INSTALL = 'ONNXRUNTIME_NODE_INSTALL=skip npm install --no-save --ignore-scripts onnxruntime-node@1.30.0';

let loaded: OnnxRuntime | null = null;

/** It is no dependency, for it is larger than all of them together. */
function runtime(): OnnxRuntime {
  try {
    loaded ??= createRequire(__filename)('onnxruntime-node') as OnnxRuntime;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error;
    throw new Error(`bench: expected onnxruntime-node for --peer onnxruntime, got none. This installs it: ${INSTALL}`);
  }
  return loaded;
}

export const onnxruntimeVersion = (): string => runtime().env.versions.node ?? 'of unknown version';

export interface PeerModel {
  name: string;
  nodes: readonly OnnxNode[];
  inputs: readonly OnnxTensor[];
  /** Weights: a session packs them once, as its kernels like them. */
  constants?: readonly OnnxTensor[];
  /** Of `out`, which one of the nodes writes. */
  shape: readonly number[];
  ops?: number;
}

/** A session with as many threads as ours. It writes to the same memory every time, which spares it allocations. */
export async function peerOf({ name, nodes, inputs, constants = [], shape, ops = 1 }: PeerModel): Promise<Peer> {
  const { Tensor, InferenceSession } = runtime();
  const outputs = [{ name: 'out', type: 'float32', shape }] as const;
  const session = await InferenceSession.create(onnxModel({ nodes, initializers: constants, inputs, outputs }), {
    executionProviders: ['cpu'],
    intraOpNumThreads: getThreads(),
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
    executionMode: 'sequential',
  });
  const feeds = Object.fromEntries(inputs.map((each) => [each.name, new Tensor(each.type, each.data, each.shape)]));
  const out = new Float32Array(shape.reduce((product, size) => product * size, 1));
  const fetches = { out: new Tensor('float32', out, shape) };
  return { name, ops, out, run: () => session.run(feeds, fetches), release: () => session.release() };
}

export const floats = (name: string, data: Float32Array, shape: readonly number[]): OnnxTensor => ({
  name,
  type: 'float32',
  shape,
  data,
});
