// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** GGUF files byte by byte, also such as no writer would make: what the reader's tests read. */

export const U8 = 0;
export const U32 = 4;
export const STRING = 8;
export const ARRAY = 9;
export const BOOL = 7;
export const U64 = 10;

export const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

export const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};

export const text = (value: string | Buffer): Buffer => {
  const bytes = Buffer.from(value as string);
  return Buffer.concat([u64(bytes.length), bytes]);
};

/** A pair of metadata: a key, a type, and the bytes of the value. */
export const pair = (key: string, type: number, value: Buffer): Buffer => Buffer.concat([text(key), u32(type), value]);

/** A description of a tensor; sizes innermost first, as in the file. */
export const info = (name: string, sizes: (number | bigint)[], type: number, offset: number | bigint): Buffer =>
  Buffer.concat([text(name), u32(sizes.length), ...sizes.map(u64), u32(type), u64(offset)]);

/** A file of these pairs, descriptions and bytes of data, at its place. */
export function ggufBytes(
  pairs: Buffer[],
  infos: Buffer[] = [],
  data: Buffer = Buffer.alloc(0),
  {
    version = 3,
    alignment = 32,
    pairCount = pairs.length as number | bigint,
    infoCount = infos.length as number | bigint,
  } = {},
): Buffer {
  const header = Buffer.concat([Buffer.from('GGUF'), u32(version), u64(infoCount), u64(pairCount), ...pairs, ...infos]);
  const padding = data.length > 0 ? (alignment - (header.length % alignment)) % alignment : 0;
  return Buffer.concat([header, Buffer.alloc(padding), data]);
}
