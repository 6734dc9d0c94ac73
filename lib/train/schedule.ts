// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkNumber, checkOptions, checkPositive } from '../check.js';

/** Options of {@link warmupCosine}. */
export interface WarmupCosineOptions {
  /** The highest learning rate. */
  peak: number;
  /** Steps of the linear rise from 0. */
  warmup: number;
  /** Steps in all. */
  total: number;
  /** The learning rate at and after the end. Default peak / 10. */
  floor?: number;
}

/**
 * A learning rate that rises linearly and then falls along half a cosine (Loshchilov and Hutter, "SGDR", 2017).
 *
 * @returns the learning rate of a step, counted from 1. It throws OptionError unless it is given a number from 0 on.
 */
export function warmupCosine(options: WarmupCosineOptions): (step: number) => number {
  const op = 'warmupCosine';
  checkOptions(op, options, ['peak', 'warmup', 'total', 'floor']);
  const peak = checkPositive(op, 'peak', options.peak);
  const total = checkInteger(op, 'total', options.total, 1, 2 ** 53 - 1);
  const warmup = checkInteger(op, 'warmup', options.warmup, 0, total);
  const floor = checkNumber(op, 'floor', options.floor ?? peak / 10, 0);
  return (step) => {
    checkNumber(op, 'step', step, 0);
    if (step <= warmup) return (peak * step) / warmup;
    const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
    return floor + ((peak - floor) * (1 + Math.cos(Math.PI * progress))) / 2;
  };
}
