// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { MakeArguments } from './calls.js';

/** Files of tensors. */

export const FILE_CALLS: Readonly<Record<string, MakeArguments>> = {
  readTrainingCheckpoint: (w) => [w.files.run, { device: w.device }],
  readJsonl: (w) => [w.files.jsonl],
  readSafetensors: (w) => [w.files.safetensors, { device: w.device }],
  writeSafetensors: (w) => [w.out('.safetensors'), { a: w.t([2]), b: w.t([3], 'float16') }, { format: 'pt' }],
  encodeTernary: (w) => [w.ternary(4, 256), 'TQ2_0'],
  openGguf: (w) => [w.files.gguf],
  openSafetensors: (w) => [w.files.safetensors],
  openTensors: (w) => [w.files.safetensors],
  writeGguf: (w) => [
    w.out('.gguf'),
    {
      metadata: {
        'general.architecture': 'bitnet',
        count: { type: 'u32', value: 3 },
        names: ['a', 'b'],
        scores: Float32Array.of(1, 2),
      },
      tensors: { a: w.t([2, 2]), b: { weight: w.ternary(2, 256), type: 'TQ1_0' } },
    },
  ],
  readFloats: (w) => [w.files.open.safetensors.tensors.get('floats'), { device: w.device, dtype: 'float16' }],
  readTernary: (w) => [w.files.open.safetensors.tensors.get('packed'), { device: w.device, rows: 3, scale: [1, 2, 3] }],
  'StoredTensor#read': (w) => [w.files.open.safetensors.tensors.get('floats'), 4, 8],
};
