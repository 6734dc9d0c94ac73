// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * The element types of a GGUF file (ggml.h: enum ggml_type), and those of its metadata (gguf.h: enum gguf_type).
 */

/** How the elements of a tensor lie in the file: in blocks along the innermost axis. */
export interface GgufType {
  readonly name: string;
  readonly id: number;
  /** Elements of one block. */
  readonly block: number;
  /** Bytes of one block. */
  readonly blockBytes: number;
  /** Bytes behind the last block. */
  readonly tailBytes: number;
}

const type = (id: number, name: string, block: number, blockBytes: number, tailBytes = 0): GgufType => ({
  name,
  id,
  block,
  blockBytes,
  tailBytes,
});

/**
 * Ternary, of Microsoft's fork of llama.cpp (bitnet.cpp); its number was another type's before, see {@link findType}. After the codes, 32 bytes that
 * begin with the float32 scale of the tensor.
 */
const I2_S = type(36, 'I2_S', 128, 32, 32);

const TYPES: readonly GgufType[] = [
  type(0, 'F32', 1, 4),
  type(1, 'F16', 1, 2),
  type(2, 'Q4_0', 32, 18),
  type(3, 'Q4_1', 32, 20),
  type(6, 'Q5_0', 32, 22),
  type(7, 'Q5_1', 32, 24),
  type(8, 'Q8_0', 32, 34),
  type(9, 'Q8_1', 32, 40),
  type(10, 'Q2_K', 256, 84),
  type(11, 'Q3_K', 256, 110),
  type(12, 'Q4_K', 256, 144),
  type(13, 'Q5_K', 256, 176),
  type(14, 'Q6_K', 256, 210),
  type(15, 'Q8_K', 256, 292),
  type(16, 'IQ2_XXS', 256, 66),
  type(17, 'IQ2_XS', 256, 74),
  type(18, 'IQ3_XXS', 256, 98),
  type(19, 'IQ1_S', 256, 50),
  type(20, 'IQ4_NL', 32, 18),
  type(21, 'IQ3_S', 256, 110),
  type(22, 'IQ2_S', 256, 82),
  type(23, 'IQ4_XS', 256, 136),
  type(24, 'I8', 1, 1),
  type(25, 'I16', 1, 2),
  type(26, 'I32', 1, 4),
  type(27, 'I64', 1, 8),
  type(28, 'F64', 1, 8),
  type(29, 'IQ1_M', 256, 56),
  type(30, 'BF16', 1, 2),
  type(31, 'Q4_0_4_4', 32, 18),
  type(32, 'Q4_0_4_8', 32, 18),
  type(33, 'Q4_0_8_8', 32, 18),
  type(34, 'TQ1_0', 256, 54),
  type(35, 'TQ2_0', 256, 66),
  type(39, 'MXFP4', 32, 17),
  type(40, 'NVFP4', 64, 36),
  type(41, 'Q1_0', 128, 18),
  type(42, 'Q2_0', 64, 18),
];

const BY_ID = new Map(TYPES.map((each) => [each.id, each]));
const BY_NAME = new Map([...TYPES, I2_S].map((each) => [each.name, each]));

/** Numbers that ggml has given up, and who uses them since. */
const GIVEN_UP: ReadonlyMap<number, string> = new Map([
  [4, 'Q4_2, which ggml has removed'],
  [5, 'Q4_3, which ggml has removed'],
  [37, "IQ4_NL_4_8, which ggml has removed, or I8_S of Microsoft's fork"],
  [38, "IQ4_NL_8_8, which ggml has removed, or TL1 of Microsoft's fork"],
]);

/** What the metadata says of who wrote the file. */
export interface GgufOrigin {
  /** `general.architecture` */
  architecture: unknown;
  /** `general.file_type` */
  fileType: unknown;
}

/** Microsoft's number for files whose matrices are I2_S. In later versions of llama.cpp it is that of another type, with which number 36 does not occur. */
export const I2_S_FILE_TYPE = 40;

/** Whether number 36 in such a file is I2_S: it was IQ4_NL_4_4 in llama.cpp for some weeks of 2024. */
export function hasI2S({ architecture, fileType }: GgufOrigin): boolean {
  return fileType === I2_S_FILE_TYPE || (typeof architecture === 'string' && architecture.startsWith('bitnet'));
}

/** The type of that number, or what a message says of it: a size that is not known cannot be checked. */
export function findType(id: number, origin: GgufOrigin): GgufType | string {
  if (id !== I2_S.id) return BY_ID.get(id) ?? `${id}${GIVEN_UP.has(id) ? `: ${GIVEN_UP.get(id)}` : ''}`;
  if (hasI2S(origin)) return I2_S;
  return (
    `${id}: I2_S of Microsoft's fork, or IQ4_NL_4_4, which ggml has removed; general.file_type ${I2_S_FILE_TYPE} or an architecture bitnet… ` +
    'would say that it is I2_S'
  );
}

/** The type of that name. */
export function typeNamed(name: string): GgufType | undefined {
  return BY_NAME.get(name);
}

/** Bytes of a tensor of that many elements, which are whole blocks. */
export function bytesOf({ block, blockBytes, tailBytes }: GgufType, elements: number): number {
  return (elements / block) * blockBytes + tailBytes;
}

/** The types of metadata, by number. An array has a type of its elements and their count. */
export const VALUE_TYPES = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
] as const;

/** A type of metadata. */
export type ValueType = (typeof VALUE_TYPES)[number];

/** The least bytes that a value takes: no file holds more values than that allows. */
export const LEAST_BYTES: Readonly<Record<ValueType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  array: 12,
  u64: 8,
  i64: 8,
  f64: 8,
};

/** `GGUF` */
export const MAGIC = 0x46554747;
/** Where tensors begin, in bytes, unless `general.alignment` says otherwise. */
export const DEFAULT_ALIGNMENT = 32;
export const MAX_DIMS = 4;
export const MAX_KEY_BYTES = 65535;

/** Whether tensors can begin in steps of that many bytes: the format asks for a multiple of 8, ggml for a power of two. */
export function isAlignment(value: unknown): value is number {
  return typeof value === 'number' && value >= 8 && value <= 2 ** 31 && Number.isInteger(Math.log2(value));
}
