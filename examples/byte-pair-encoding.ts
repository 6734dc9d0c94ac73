// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * A small byte-level tokenizer trained on the text at hand: byte pair encoding (Sennrich et al., 2016). Tokens 0..255 are the bytes; each merge adds
 * one. Words keep the space before them, and no token spans two words.
 */
export class BytePairEncoding {
  private readonly ranks = new Map<number, number>();
  private readonly pieces: Uint8Array[] = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  private readonly cache = new Map<string, number[]>();

  private constructor(merges: readonly (readonly [number, number])[]) {
    for (const [left, right] of merges) {
      this.ranks.set(pairKey(left, right), this.pieces.length);
      this.pieces.push(Uint8Array.from([...this.pieces[left], ...this.pieces[right]]));
    }
  }

  /** Learns merges from `text` until there are `vocabulary` tokens. */
  static train(text: string, vocabulary: number): BytePairEncoding {
    const counts = new Map<string, number>();
    for (const word of splitWords(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
    const words = [...counts].map(([word, count]) => ({ tokens: [...Buffer.from(word)], count }));

    // How often each pair occurs, and in which words, kept up to date merge by merge.
    const pairCounts = new Map<number, number>();
    const pairWords = new Map<number, Set<number>>();
    const count = (index: number, sign: 1 | -1): void => {
      const { tokens, count: times } = words[index];
      for (let i = 0; i + 1 < tokens.length; i++) {
        const key = pairKey(tokens[i], tokens[i + 1]);
        pairCounts.set(key, (pairCounts.get(key) ?? 0) + sign * times);
        if (sign > 0) pairWords.set(key, (pairWords.get(key) ?? new Set()).add(index));
      }
    };
    words.forEach((_, index) => count(index, 1));

    const merges: [number, number][] = [];
    for (let token = 256; token < vocabulary; token++) {
      let best = -1;
      let bestCount = 1;
      for (const [key, times] of pairCounts) {
        if (times > bestCount || (times === bestCount && key < best)) [best, bestCount] = [key, times];
      }
      if (best < 0) break;
      const pair: [number, number] = [Math.floor(best / 65536), best % 65536];
      merges.push(pair);
      for (const index of pairWords.get(best) ?? []) {
        count(index, -1);
        words[index].tokens = merge(words[index].tokens, pair, token);
        count(index, 1);
      }
      pairCounts.delete(best);
      pairWords.delete(best);
    }
    return new BytePairEncoding(merges);
  }

  get vocabulary(): number {
    return this.pieces.length;
  }

  encode(text: string): number[] {
    const tokens: number[] = [];
    for (const word of splitWords(text)) {
      let encoded = this.cache.get(word);
      if (!encoded) {
        encoded = this.encodeWord(word);
        this.cache.set(word, encoded);
      }
      tokens.push(...encoded);
    }
    return tokens;
  }

  /** The bytes of the tokens; a token may end in the middle of a character. */
  decode(tokens: readonly number[]): Uint8Array {
    return Buffer.concat(tokens.map((token) => this.pieces[token]));
  }

  private encodeWord(word: string): number[] {
    let tokens = [...Buffer.from(word)];
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < tokens.length; i++) {
        const rank = this.ranks.get(pairKey(tokens[i], tokens[i + 1])) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return tokens;
      tokens = merge(tokens, [tokens[at], tokens[at + 1]], best);
    }
  }
}

function pairKey(left: number, right: number): number {
  return left * 65536 + right;
}

function splitWords(text: string): string[] {
  return text.match(/ ?[\p{L}\p{N}]+| ?[^\s\p{L}\p{N}]+|\s/gu) ?? [];
}

function merge(tokens: readonly number[], [left, right]: readonly [number, number], merged: number): number[] {
  const out: number[] = [];
  for (let i = 0; i < tokens.length; i++) {
    if (i + 1 < tokens.length && tokens[i] === left && tokens[i + 1] === right) {
      out.push(merged);
      i++;
    } else {
      out.push(tokens[i]);
    }
  }
  return out;
}
