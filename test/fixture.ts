// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../lib/native.js';

export interface FixtureTensor {
  shape: number[];
  values: Float64Array;
}

/** The tensors of test/fixtures/<name>.safetensors, by name. */
export function readFixture(name: string): Record<string, FixtureTensor> {
  const file = readFileSync(path.join(packageRoot(), 'test', 'fixtures', `${name}.safetensors`));
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors: Record<string, FixtureTensor> = {};
  for (const [key, entry] of Object.entries(header)) {
    if (key === '__metadata__') continue;
    const [begin, end] = entry.data_offsets.map((offset) => offset + 8 + headerBytes);
    tensors[key] = { shape: entry.shape, values: numbersIn(file.subarray(begin, end), entry.dtype) };
  }
  return tensors;
}

function numbersIn(bytes: Buffer, dtype: string): Float64Array {
  switch (dtype) {
    case 'F32':
      return Float64Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
    case 'I32':
      return Float64Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readInt32LE(4 * i));
    case 'I8':
      return Float64Array.from({ length: bytes.length }, (_, i) => bytes.readInt8(i));
    case 'U8':
      return Float64Array.from(bytes);
    default:
      throw new Error(`fixtures hold F32, I32, I8 and U8 only, got ${dtype}`);
  }
}
