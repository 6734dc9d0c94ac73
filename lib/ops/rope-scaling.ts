// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkNumber, checkOneOf, checkOptions, checkPositive } from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';

/** How the frequencies of {@link rope} are changed so that a model reads more tokens than it was first trained on. */
export type RopeScaling =
  | {
      /** Every frequency divided by `factor`: positions are interpolated (Chen et al., "Extending context window", 2023). */
      type: 'linear';
      /** At least 1. */
      factor: number;
    }
  | {
      /**
       * As Llama 3.1: a frequency stays if its wavelength is below originalMaxPositions / highFreqFactor, is divided by `factor` if it is
       * above originalMaxPositions / lowFreqFactor, and goes from one to the other in between. The formula and the names are those of
       * `rope_scaling` in a model's config.json (Transformers, modeling_rope_utils.py, `_compute_llama3_parameters`).
       */
      type: 'llama3';
      /** At least 1. */
      factor: number;
      /** Marks the wavelengths that are divided. */
      lowFreqFactor: number;
      /** Above lowFreqFactor. */
      highFreqFactor: number;
      /** Tokens the model was first trained on. */
      originalMaxPositions: number;
    }
  | {
      /** Every frequency divided by a number of its own, as GGUF files hold them (`rope_freqs.weight`). */
      type: 'factors';
      /** rotaryDim / 2 numbers above 0. */
      factors: readonly number[];
    };

const KEYS = {
  linear: ['type', 'factor'],
  llama3: ['type', 'factor', 'lowFreqFactor', 'highFreqFactor', 'originalMaxPositions'],
  factors: ['type', 'factors'],
} as const;

/** @internal Throws OptionError unless this is a scaling. */
export function checkRopeScaling(op: string, scaling: RopeScaling, rotaryDim: number): RopeScaling {
  if (typeof scaling !== 'object' || scaling === null) {
    throw new OptionError(`${op}: expected an object for scaling, got ${describe(scaling)}`);
  }
  checkOneOf(op, 'scaling.type', scaling.type, ['linear', 'llama3', 'factors']);
  checkOptions(`${op} scaling`, scaling, KEYS[scaling.type]);
  if (scaling.type === 'factors') {
    if (!Array.isArray(scaling.factors) || scaling.factors.length !== rotaryDim / 2) {
      throw new OptionError(`${op}: expected ${rotaryDim / 2} numbers for scaling.factors, one a pair of features`);
    }
    for (const factor of scaling.factors) checkPositive(op, 'scaling.factors', factor as number);
    return scaling;
  }
  checkNumber(op, 'scaling.factor', scaling.factor, 1);
  if (scaling.type === 'linear') return scaling;
  const { lowFreqFactor: low, highFreqFactor: high, originalMaxPositions } = scaling;
  checkPositive(op, 'scaling.lowFreqFactor', low);
  checkPositive(op, 'scaling.highFreqFactor', high);
  if (high <= low) {
    throw new OptionError(`${op}: expected scaling.highFreqFactor above scaling.lowFreqFactor ${low}, got ${high}`);
  }
  checkInteger(op, 'scaling.originalMaxPositions', originalMaxPositions, 1, 2 ** 31 - 1);
  return scaling;
}

/** @internal The angle per position of each pair: theta^(-2i / rotaryDim), scaled. */
export function ropeFrequencies(rotaryDim: number, theta: number, scaling: RopeScaling | null): number[] {
  return Array.from({ length: rotaryDim / 2 }, (_, i) => {
    const frequency = theta ** ((-2 * i) / rotaryDim);
    if (!scaling) return frequency;
    if (scaling.type === 'linear') return frequency / scaling.factor;
    if (scaling.type === 'factors') return frequency / scaling.factors[i];
    // How often the pair turns within the tokens of the first training, from low (0: divided) to high (1: kept).
    const turns = (scaling.originalMaxPositions * frequency) / (2 * Math.PI);
    const share = (turns - scaling.lowFreqFactor) / (scaling.highFreqFactor - scaling.lowFreqFactor);
    const kept = Math.min(Math.max(share, 0), 1);
    return frequency * (kept + (1 - kept) / scaling.factor);
  });
}
