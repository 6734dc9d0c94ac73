// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { refuseInCapture } from './capturing.js';
import { describe } from './describe.js';
import { OptionError } from './errors.js';

/**
 * Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by (seed, offset). All random
 * numbers of the library come from here, so they are the same on every backend.
 */

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

/** High 32 bits of the product of two unsigned 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const middleLow = (middle & 0xffff) + aLow * bHigh;
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(middleLow / 65536)) >>> 0;
}

/**
 * One Philox block: four 32-bit numbers.
 *
 * @param out receives the numbers at 0..3.
 * @param counter the block's index, up to 2^53.
 * @param seed the key, up to 2^53.
 */
export function philox(out: Uint32Array, counter: number, seed: number): void {
  let c0 = counter >>> 0;
  let c1 = Math.floor(counter / 4294967296) >>> 0;
  let c2 = 0;
  let c3 = 0;
  let k0 = seed >>> 0;
  let k1 = Math.floor(seed / 4294967296) >>> 0;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** Where a sequence of random numbers stands. */
export interface RandomState {
  /** The key, from 0 to 2^53 − 1. */
  seed: number;
  /** Philox blocks already taken. */
  offset: number;
}

/** A seeded source of random numbers. The library's own is changed by {@link manualSeed}. */
export class Generator {
  private seed: number;
  private offset = 0;
  private readonly block = new Uint32Array(4);

  /** @throws OptionError unless seed is an integer from 0 to 2^53 - 1. */
  constructor(seed = 0) {
    this.seed = checkSeed('Generator', seed);
  }

  /** Where the sequence stands. */
  get state(): RandomState {
    return { seed: this.seed, offset: this.offset };
  }

  /** Goes on from there. Throws OptionError unless seed and offset are integers from 0 to 2^53 - 1. */
  set state(state: RandomState) {
    const { seed, offset } = (state ?? {}) as Partial<RandomState>;
    checkSeed('Generator', seed as number);
    this.offset = checkCount('Generator', 'offset', offset as number, Number.MAX_SAFE_INTEGER);
    this.seed = seed as number;
  }

  /** Takes `blocks` Philox blocks for somebody who computes them himself; gives where they begin. Throws OptionError; CaptureError inside {@link capture}. */
  reserve(blocks: number): RandomState {
    refuseInCapture('Generator.reserve', 'random');
    checkCount('Generator.reserve', 'blocks', blocks, Number.MAX_SAFE_INTEGER - this.offset);
    const begin = this.state;
    this.offset += blocks;
    return begin;
  }

  /** `count` numbers uniform in [0, 1), multiples of 2^-24. Throws OptionError unless count is an integer from 0 to 2^30; CaptureError inside {@link capture}. */
  uniform(count: number): Float32Array {
    refuseInCapture('Generator.uniform', 'random');
    checkCount('Generator.uniform', 'count', count, MOST_NUMBERS);
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      if (i % 4 === 0) philox(this.block, this.offset++, this.seed);
      out[i] = (this.block[i % 4] >>> 8) * 2 ** -24;
    }
    return out;
  }

  /** `count` numbers of the standard normal distribution (Box and Muller, 1958). Throws OptionError unless count is an integer from 0 to 2^30; CaptureError inside {@link capture}. */
  normal(count: number): Float32Array {
    refuseInCapture('Generator.normal', 'random');
    checkCount('Generator.normal', 'count', count, MOST_NUMBERS);
    const out = new Float32Array(count);
    for (let i = 0; i < count; i += 2) {
      if (i % 4 === 0) philox(this.block, this.offset++, this.seed);
      const first = (this.block[i % 4] + 1) * 2 ** -32; // in (0, 1]
      const second = this.block[(i % 4) + 1] * 2 ** -32;
      const radius = Math.sqrt(-2 * Math.log(first));
      out[i] = radius * Math.cos(2 * Math.PI * second);
      if (i + 1 < count) out[i + 1] = radius * Math.sin(2 * Math.PI * second);
    }
    return out;
  }

  /** An integer uniform in [0, limit). Throws OptionError unless limit is an integer from 1 to 2^32; CaptureError inside {@link capture}. */
  integer(limit: number): number {
    refuseInCapture('Generator.integer', 'random');
    if (!Number.isInteger(limit) || limit < 1 || limit > 4294967296) {
      throw new OptionError(`Generator.integer: expected a limit from 1 to 2^32, got ${describe(limit)}`);
    }
    philox(this.block, this.offset++, this.seed);
    // 53 bits against a limit of 32: the bias is below 2^-21.
    return Math.floor((((this.block[0] >>> 5) * 67108864 + (this.block[1] >>> 6)) / 9007199254740992) * limit);
  }
}

/** The most numbers that are drawn into one array. */
const MOST_NUMBERS = 2 ** 30;

function checkCount(op: string, name: string, value: number, most: number): number {
  if (!Number.isInteger(value) || value < 0 || value > most)
    throw new OptionError(`${op}: expected an integer from 0 to ${most} for ${name}, got ${describe(value)}`);
  return value;
}

/** @internal */
export function checkSeed(op: string, seed: number): number {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new OptionError(`${op}: expected an integer from 0 to 2^53 - 1 for seed, got ${describe(seed)}`);
  }
  return seed;
}

const global = new Generator(0);

/** The generator that `randn`, `uniform` and the modules' initial weights draw from. */
export function defaultGenerator(): Generator {
  return global;
}

/** Restarts the library's generator at `seed`. The seed at start is 0. Throws OptionError unless it is an integer from 0 to 2^53 - 1. */
export function manualSeed(seed: number): void {
  global.state = { seed: checkSeed('manualSeed', seed), offset: 0 };
}

/** @internal The fraction of 2^16 of elements that dropout of probability p drops. */
export function dropoutThreshold(op: string, p: number): number {
  if (typeof p !== 'number' || !(p >= 0 && p < 1)) {
    throw new OptionError(`${op}: expected a probability from 0 to below 1 for dropout, got ${describe(p)}`);
  }
  return Math.min(Math.round(p * 65536), 65535);
}
