// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { BitLinearWeightBackwardParams } from '../backend.js';
import { load, store, view } from './buffer.js';

/**
 * dWeight[n, k] = sum over m of dOut[m, n] * codes[m, k] / activationScales[m]: the weight's gradient with the activations as the forward pass saw them,
 * passed straight through the rounding of the weight (Bengio et al., "Estimating or Propagating Gradients", 2013). dOut [m, n], codes [m, k].
 */
export function bitLinearWeightBackward(params: BitLinearWeightBackwardParams): void {
  const { dOut, codes, activationScales, dWeight, m, n, k } = params;
  const gradient = load(dOut);
  const codeValues = view(codes);
  const scales = load(activationScales);
  const values = new Float64Array(n * k);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const [codeRow, valueRow] = [i * k, j * k];
      const scaled = gradient[i * n + j] / scales[i];
      for (let p = 0; p < k; p++) values[valueRow + p] += scaled * codeValues[codeRow + p];
    }
  }
  store(dWeight, values);
}
