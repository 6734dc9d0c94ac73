// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { createHash } from 'node:crypto';
import { IGNORED } from './data.js';
import type { EncodedDocument } from './conversation.js';

/** A part of a document that is computed as if it were alone. */
export interface Piece {
  /** Which document, counted from 0. */
  readonly document: number;
  /** Its first token among those of all documents. */
  readonly begin: number;
  readonly length: number;
  /** How many of its tokens have a target. */
  readonly count: number;
}

/** Tokens of many documents, one after the other; 5 bytes each. */
export class DocumentStore {
  private ids = new Int32Array(1024);
  private trained = new Uint8Array(1024);
  /** Where each document ends. */
  private readonly ends: number[] = [];

  /** Documents. */
  get length(): number {
    return this.ends.length;
  }

  /** Tokens of all. */
  get tokens(): number {
    return this.ends.at(-1) ?? 0;
  }

  add({ ids, trained }: EncodedDocument): void {
    const { tokens } = this;
    const end = tokens + ids.length;
    if (end > this.ids.length) {
      const capacity = Math.max(end, this.ids.length * 2);
      const [grownIds, grownTrained] = [new Int32Array(capacity), new Uint8Array(capacity)];
      grownIds.set(this.ids.subarray(0, tokens));
      grownTrained.set(this.trained.subarray(0, tokens));
      [this.ids, this.trained] = [grownIds, grownTrained];
    }
    this.ids.set(ids, tokens);
    for (let i = 0; i < ids.length; i++) this.trained[tokens + i] = trained[i] ? 1 : 0;
    this.ends.push(end);
  }

  /** Pieces of at most so many tokens that have anything to learn; of a longer document all, or the first. */
  pieces(most: number, longDocuments: 'split' | 'cut'): Piece[] {
    const pieces: Piece[] = [];
    this.ends.forEach((end, document) => {
      const start = this.ends[document - 1] ?? 0;
      const last = longDocuments === 'cut' ? Math.min(end, start + most) : end;
      for (let begin = start; begin < last; begin += most) {
        const length = Math.min(most, last - begin);
        let count = 0;
        for (let i = begin; i < begin + length; i++) if (i + 1 < end && this.trained[i + 1]) count++;
        if (count > 0) pieces.push({ document, begin, length, count });
      }
    });
    return pieces;
  }

  /**
   * Writes the tokens of a piece and their targets: the token after each, also where that begins the next piece; -100 at the end of the document and
   * in front of what is not learnt.
   */
  write({ document, begin, length }: Piece, ids: Int32Array, targets: Int32Array, at: number): void {
    const end = this.ends[document];
    ids.set(this.ids.subarray(begin, begin + length), at);
    for (let i = 0; i < length; i++) {
      const next = begin + i + 1;
      targets[at + i] = next < end && this.trained[next] ? this.ids[next] : IGNORED;
    }
  }

  /** The largest id; -1 if there is none. */
  largest(): number {
    let largest = -1;
    for (let i = 0; i < this.tokens; i++) largest = Math.max(largest, this.ids[i]);
    return largest;
  }

  /** Tells these pieces of these documents from others. */
  digest(pieces: readonly Piece[]): string {
    const hash = createHash('sha256');
    hash.update(this.ids.subarray(0, this.tokens));
    hash.update(this.trained.subarray(0, this.tokens));
    hash.update(Float64Array.from(pieces.flatMap(({ begin, length }) => [begin, length])));
    return hash.digest('hex').slice(0, 32);
  }
}
