// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { TernaryMethod } from '../ops/quantize-ternary.js';
import type { TernaryStatistics } from '../ops/ternary-tensor.js';

/** A weight that was rounded to trits. */
export interface QuantizedSummary extends TernaryStatistics {
  /** Of the weight, as in the model's state. */
  name: string;
  /** [N, K] */
  shape: readonly number[];
  /** How it was rounded. */
  method: TernaryMethod;
  /** What shares a scale. */
  granularity: 'tensor' | 'row';
  /** Mean |W − trit · scale|. */
  meanError: number;
  /** Largest |W − trit · scale|. */
  maxError: number;
  /** The mean error relative to mean |W|. */
  relativeError: number;
  /** Bytes of the float weight. */
  bytesBefore: number;
  /** Bytes of trits and scales. */
  bytesAfter: number;
}

/** A tensor that stays as it is. */
export interface PreservedSummary {
  /** As in the model's state. */
  name: string;
  /** Of the tensor. */
  shape: readonly number[];
  /** Of its elements. */
  bytes: number;
  /** Why, as the end of a sentence. */
  reason: string;
}

/** What a model-wide quantisation did. `String(summary)` is a table of it. */
export class QuantizationSummary {
  /** @internal */
  constructor(
    /** The weights that were rounded. */
    readonly layers: readonly QuantizedSummary[],
    /** The tensors that were not. */
    readonly preserved: readonly PreservedSummary[],
  ) {}

  /** Of all tensors, those that stay as they are included. */
  get bytesBefore(): number {
    return sum(this.layers, (layer) => layer.bytesBefore) + this.preservedBytes;
  }

  /** The same when it was done. */
  get bytesAfter(): number {
    return sum(this.layers, (layer) => layer.bytesAfter) + this.preservedBytes;
  }

  /** How many times smaller all tensors together are. 1 if there are none. */
  get compressionRatio(): number {
    return this.bytesAfter === 0 ? 1 : this.bytesBefore / this.bytesAfter;
  }

  /** Share of zeros in the rounded weights. 0 if there are none. */
  get sparsity(): number {
    const size = (layer: QuantizedSummary): number => layer.shape[0] * layer.shape[1];
    const total = sum(this.layers, size);
    return total === 0 ? 0 : sum(this.layers, (layer) => layer.sparsity * size(layer)) / total;
  }

  /** A table of all layers, and what stayed as it is. */
  toString(): string {
    const rows = [
      ['layer', 'shape', 'method', 'zeros', 'relative error', 'bytes before', 'after'],
      ...this.layers.map((layer) => [
        layer.name,
        layer.shape.join(' x '),
        `${layer.method}, ${layer.granularity}`,
        percent(layer.sparsity),
        percent(layer.relativeError),
        String(layer.bytesBefore),
        String(layer.bytesAfter),
      ]),
    ];
    const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
    const lines = rows.map((row) =>
      row
        .map((cell, column) => (column < 3 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])))
        .join('  ')
        .trimEnd(),
    );
    for (const { name, shape, reason } of this.preserved) {
      lines.push(`${name} [${shape.join(', ')}] stays as it is: ${reason}`);
    }
    lines.push(
      `${this.layers.length} quantised, ${this.preserved.length} as they are; ${this.bytesBefore} bytes to ${this.bytesAfter}, ` +
        `${this.compressionRatio.toFixed(2)} times smaller; ${percent(this.sparsity)} of the trits are 0`,
    );
    return lines.join('\n');
  }

  private get preservedBytes(): number {
    return sum(this.preserved, (each) => each.bytes);
  }
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
