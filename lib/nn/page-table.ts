// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** Which pages of a pool hold the tokens of which sequence. Pages are numbers here; their memory is somebody else's. */
export class PageTable {
  /** [batch, perEntry]: the pages of each sequence in the order of its tokens, then −1. */
  readonly pages: Int32Array;
  private readonly free: number[];
  /** Pages that each sequence has. */
  private readonly counts: Int32Array;

  /** @param size tokens of a page. */
  constructor(
    batch: number,
    private readonly perEntry: number,
    readonly size: number,
    readonly total: number,
  ) {
    this.pages = new Int32Array(batch * perEntry).fill(-1);
    this.counts = new Int32Array(batch);
    this.free = Array.from({ length: total }, (_, i) => total - 1 - i); // the first is taken first
  }

  /** Pages that no sequence has. */
  get freePages(): number {
    return this.free.length;
  }

  /** Tokens for which a sequence has pages. */
  room(sequence: number): number {
    return this.counts[sequence] * this.size;
  }

  /** How many pages more it takes for each sequence to hold so many tokens. */
  missing(tokens: readonly number[]): number {
    return tokens.reduce((sum, count, b) => sum + Math.max(0, Math.ceil(count / this.size) - this.counts[b]), 0);
  }

  /** Takes them; false if none was missing. There have to be as many. */
  grow(tokens: readonly number[]): boolean {
    const before = this.free.length;
    tokens.forEach((count, b) => {
      while (this.room(b) < count) this.pages[b * this.perEntry + this.counts[b]++] = this.free.pop() as number;
    });
    return this.free.length < before;
  }

  /** Gives back what a sequence does not need to hold so many tokens; false if that is nothing. */
  shrink(sequence: number, tokens: number): boolean {
    const needed = Math.ceil(tokens / this.size);
    const before = this.free.length;
    while (this.counts[sequence] > needed) {
      const place = sequence * this.perEntry + --this.counts[sequence];
      this.free.push(this.pages[place]);
      this.pages[place] = -1;
    }
    return this.free.length > before;
  }
}
