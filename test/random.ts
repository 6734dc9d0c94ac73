// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Seeded random numbers for test inputs; not the library's own, which is under test. The seed is a name, so that a case gets the same
 * numbers whatever ran before it.
 */
export class Random {
  private state = 2166136261;

  constructor(name: string) {
    for (let i = 0; i < name.length; i++) this.state = Math.imul(this.state ^ name.charCodeAt(i), 16777619);
  }

  /** Uniform in [0, 1) (mulberry32). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 4294967296;
  }

  /** Standard normal. */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
  }

  /** An integer from low to high, both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  normals(count: number, scale = 1): Float64Array {
    return Float64Array.from({ length: count }, () => scale * this.normal());
  }

  integers(count: number, low: number, high: number): Float64Array {
    return Float64Array.from({ length: count }, () => this.integer(low, high));
  }

  /** -1 and 1. */
  signs(count: number): Float64Array {
    return Float64Array.from({ length: count }, () => (this.next() < 0.5 ? -1 : 1));
  }
}
