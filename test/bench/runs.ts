// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OURS, SCHEMA, subject, VERSION, type Result, type Run } from '../../bench/schema.js';

/** Runs with made-up numbers, in the form that the bench writes them. */

export const PEER = 'onnxruntime-node 1.30.0';

/** A result of 10 ms and 10^9 operations, but for what is given. */
export function makeResult(given: Partial<Result> & { name: string; median?: number }): Result {
  const { median = 10, ...rest } = given;
  return {
    ...subject('linear', 'float32'),
    by: OURS,
    variant: null,
    threads: 2,
    milliseconds: { median, low: median * 0.98, high: median * 1.03, fastest: median * 0.95 },
    samples: 20,
    callMilliseconds: null,
    work: { 'float operations': 1e9 },
    ceiling: null,
    memory: null,
    note: null,
    ...rest,
  };
}

export function makeRun(results: Result[], given: Partial<Run> = {}): Run {
  return {
    schema: SCHEMA,
    version: VERSION,
    date: '2026-11-23T18:10:00.000Z',
    device: { id: 'cpu', name: 'AMD EPYC' },
    isa: 'avx512bf16',
    node: 'v20.20.2',
    platform: 'linux-x64',
    library: '0.1.0',
    commit: '8c339f1',
    arguments: [],
    results,
    ...given,
  };
}

const CEILING = { name: 'float32 multiply-adds, 2 threads', unit: 'float operations', perSecond: 230e9 } as const;

/** The attention layer at every shape of the predecessor's table, by us with 1 and 2 threads and by a peer in two variants with 2. */
function layers(factor: number): Result[] {
  return [1, 4].flatMap((batch) =>
    [512, 1024, 2048].flatMap((sequence) => {
      const operations = 8 * batch * sequence * 768 ** 2 + 4 * batch * 768 * sequence ** 2;
      const common = {
        ...subject('attention layer', 'float32', {
          pass: 'forward',
          batch,
          sequence,
          alongSequence: `float32, B ${batch}`,
          alongBatch: `float32, S ${sequence}`,
        }),
        name: `attention-layer float32 B${batch} S${sequence}`,
        work: { 'float operations': operations },
      };
      const memory = {
        heldBytes: 4 * (4 * 768 ** 2 + batch * sequence * 768),
        peakBytes: 4 * 5 * batch * sequence * 768,
        workspaceBytes: null,
      };
      const median = (operations / 160e9) * 1000;
      return [
        makeResult({ ...common, median: 2 * factor * median, threads: 1, memory }),
        makeResult({ ...common, median: factor * median, memory, ceiling: CEILING }),
        makeResult({ ...common, median: 1.2 * median, by: PEER, variant: 'Attention-23', ceiling: CEILING }),
        makeResult({ ...common, median: 1.1 * median, by: PEER, variant: 'Attention, fused', ceiling: CEILING }),
      ];
    }),
  );
}

/** Of the cpu device; `factor` times as long as another for our attention layer. */
export function cpuRun(factor = 1, given: Partial<Run> = {}): Run {
  const bytes = { work: { bytes: 48e6 }, memory: { heldBytes: 32e6, peakBytes: 16e6, workspaceBytes: null } };
  return makeRun(
    [
      ...layers(factor),
      makeResult({ ...subject('linear', 'float32'), name: 'linear 1024x1024x1024', median: 11, ceiling: CEILING }),
      makeResult({
        ...subject('ternaryMatmul', 'int8'),
        name: 'ternary-matmul int8 1x2560x2560',
        median: 0.096,
        work: { 'integer operations': 2 * 2560 ** 2 },
      }),
      makeResult({
        ...subject('rmsNorm', 'float32', { pass: 'forward' }),
        name: 'rmsNorm 2048x2048',
        median: 1.6,
        ...bytes,
      }),
    ],
    { arguments: ['--peer', 'onnxruntime'], ...given },
  );
}

const GPU = { id: 'cuda:0', name: 'NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0' };

/** Of a GPU: attention against the sequence, a batch that changes with it; and a model's steps against both. */
export function gpuRun(): Run {
  const attention = [64, 128].flatMap((headDim) =>
    [false, true].flatMap((causal) =>
      [2048, 4096, 8192, 16384].map((sequence) => {
        const heads = 2048 / headDim;
        const operations = (4 * heads * headDim * sequence * 16384) / (causal ? 2 : 1);
        const mask = causal ? 'causal' : 'full';
        return makeResult({
          ...subject('flashAttention', 'bfloat16', {
            pass: 'forward',
            batch: 16384 / sequence,
            sequence,
            alongSequence: `D ${headDim} ${mask}, 16384 tokens`,
          }),
          name: `attention forward bf16 D${headDim} S${sequence} ${mask}`,
          threads: null,
          median: (operations / (causal ? 480e12 : 600e12)) * (headDim === 64 ? 1.4 : 1) * 1000 * (1 + 1000 / sequence),
          callMilliseconds: 0.02,
          work: { 'float operations': operations, bytes: 4 * 2 * 16384 * 2048 },
          memory: { heldBytes: 3 * 2 * 16384 * 2048, peakBytes: 2 * 16384 * 2048, workspaceBytes: 2 ** 20 },
        });
      }),
    ),
  );
  const steps = [
    [1, 128],
    [8, 128],
    [64, 128],
    [1, 512],
    [1, 2048],
  ].map(([batch, prompt]) =>
    makeResult({
      ...subject('model: step', 'bfloat16', {
        batch,
        sequence: prompt,
        alongSequence: `B ${batch}`,
        alongBatch: `prompt ${prompt}`,
      }),
      name: `model step B${batch} S${prompt}`,
      threads: null,
      median: 0.9 + batch / 100 + prompt / 8000,
      work: { tokens: batch, bytes: 1.18e9 + batch * prompt * 76800 },
      ceiling: { name: 'reading memory', unit: 'bytes', perSecond: 2.9e12 },
      memory: { heldBytes: 1.18e9, peakBytes: batch * (prompt + 24) * 76800, workspaceBytes: 2 ** 22 },
    }),
  );
  return makeRun([...attention, ...steps], { device: GPU, isa: null, arguments: ['--device', 'cuda'] });
}
