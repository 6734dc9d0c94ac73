// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readdirSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';

/** That no golden vector lies about unused, and none is lost: a fixture counts as used where a test names it. */

const folder = path.join(packageRoot(), 'test');
const fixtures = readdirSync(path.join(folder, 'fixtures'))
  .filter((file) => file.endsWith('.safetensors'))
  .map((file) => path.basename(file, '.safetensors'));

const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.ts') && file !== path.join('core', 'golden.test.ts'))
  .map((file) => readFileSync(path.join(folder, file), 'utf8'));

// A fixture is named as a string of its own.
const isUsed = (name: string): boolean => sources.some((source) => source.includes(`'${name}'`));

const attention = [
  ...['causal', 'causal_longer_q', 'cross_causal_longer_k', 'decode', 'gqa_causal', 'mha', 'mqa', 'scale'],
  ...['window', 'window_two_sided', 'head_dim_32', 'head_dim_80', 'head_dim_128', 'head_dim_256'],
  ...['alibi', 'sinks', 'softcap', 'varlen'],
].map((name) => `attention_${name}`);
const others = [
  ...['adamw', 'bit_linear', 'ternary_pack', 'layer_norm', 'rms_norm', 'rope_half', 'rope_interleaved', 'rope_partial'],
  ...['geglu_exact', 'geglu_tanh', 'relu2_glu', 'swiglu'],
  ...['cross_entropy', 'cross_entropy_smooth', 'cross_entropy_softcap', 'cross_entropy_z', 'linear_cross_entropy'],
];

const models = readdirSync(path.join(folder, 'fixtures', 'models'));

test('every golden vector is there', () => {
  expect([...fixtures].sort()).toEqual([...attention, ...others].sort());
  expect(models.sort()).toEqual(['bitnet_autobitlinear_offline', 'bitnet_bitlinear', 'bitnet_master', 'llama']);
});

test('and used', () => {
  expect(isUsed(['attention', 'of', 'nobody'].join('_'))).toBe(false);
  expect([...fixtures, ...models].filter((name) => !isUsed(name))).toEqual([]);
});
