// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Element types. Float types are computed in float32 (float64 on the reference backend) and rounded to the
 * type when stored.
 */
export type DType = 'float32' | 'float16' | 'bfloat16' | 'int8' | 'uint8' | 'int32';

/** The dtypes that carry gradients. */
export type FloatDType = 'float32' | 'float16' | 'bfloat16';

/** What `Tensor.data()` yields: float dtypes as Float32Array, integers as their own typed array. */
export type TensorData = Float32Array | Int8Array | Uint8Array | Int32Array;

export const DTYPES: readonly DType[] = ['float32', 'float16', 'bfloat16', 'int8', 'uint8', 'int32'];
export const FLOAT_DTYPES: readonly FloatDType[] = ['float32', 'float16', 'bfloat16'];

const BYTES: Record<DType, number> = { float32: 4, float16: 2, bfloat16: 2, int8: 1, uint8: 1, int32: 4 };

/** Bytes of one element. */
export function bytesPerElement(dtype: DType): number {
  return BYTES[dtype];
}

export function isFloat(dtype: DType): dtype is FloatDType {
  return dtype === 'float32' || dtype === 'float16' || dtype === 'bfloat16';
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/**
 * Puts `value` into the scratch float32 so that rounding that once more to 16 bits gives what rounding `value` at once would: to odd, that is,
 * an inexact value goes to the neighbour whose last bit is set, which no 16-bit tie can be. Returns the bits.
 */
function roundToOdd(value: number): number {
  scratchFloat[0] = value;
  if (scratchFloat[0] !== value && value === value) {
    const away = Math.abs(scratchFloat[0]) > Math.abs(value);
    scratchBits[0] = (scratchBits[0] - (away ? 1 : 0)) | 1;
  }
  return scratchBits[0];
}

/** Bits of the bfloat16 nearest to `value` (ties to even; NaN stays a quiet NaN). */
export function floatToBfloat16Bits(value: number): number {
  const bits = roundToOdd(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function bfloat16BitsToFloat(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratchFloat[0];
}

/** Bits of the IEEE binary16 nearest to `value` (ties to even; overflow gives infinity). */
export function floatToFloat16Bits(value: number): number {
  const bits = roundToOdd(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to 65536 or more
  if (magnitude < 0x38800000) {
    // Subnormal half: adding 0.5 leaves exactly the ten fraction bits, rounded to even by the hardware.
    scratchBits[0] = magnitude;
    scratchFloat[0] = scratchFloat[0] + 0.5;
    return sign | (scratchBits[0] - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

export function float16BitsToFloat(bits: number): number {
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** `value` as a tensor of `dtype` would hold it. Integers are truncated and saturated; NaN becomes 0. */
export function roundTo(dtype: DType, value: number): number {
  switch (dtype) {
    case 'float32':
      return Math.fround(value);
    case 'float16':
      return float16BitsToFloat(floatToFloat16Bits(value));
    case 'bfloat16':
      return bfloat16BitsToFloat(floatToBfloat16Bits(value));
    case 'int8':
      return saturate(value, -128, 127);
    case 'uint8':
      return saturate(value, 0, 255);
    case 'int32':
      return saturate(value, -2147483648, 2147483647);
  }
}

function saturate(value: number, low: number, high: number): number {
  return Number.isNaN(value) ? 0 : Math.trunc(Math.min(Math.max(value, low), high)) + 0;
}

/** The stored bytes of `values` as `dtype`. */
export function encode(dtype: DType, values: ArrayLike<number>): Uint8Array {
  const n = values.length;
  const bytes = new Uint8Array(n * BYTES[dtype]);
  const out = bitsView(dtype, bytes);
  switch (dtype) {
    case 'float32':
      for (let i = 0; i < n; i++) out[i] = values[i];
      break;
    case 'float16':
      for (let i = 0; i < n; i++) out[i] = floatToFloat16Bits(values[i]);
      break;
    case 'bfloat16':
      for (let i = 0; i < n; i++) out[i] = floatToBfloat16Bits(values[i]);
      break;
    default:
      for (let i = 0; i < n; i++) out[i] = roundTo(dtype, values[i]);
  }
  return bytes;
}

/** The numbers held by stored `bytes` of `dtype`. `bytes` must be aligned to the element size. */
export function decode(dtype: DType, bytes: Uint8Array): TensorData {
  const view = bitsView(dtype, bytes);
  if (dtype !== 'float16' && dtype !== 'bfloat16') return view as TensorData;
  const toFloat = dtype === 'float16' ? float16BitsToFloat : bfloat16BitsToFloat;
  const out = new Float32Array(view.length);
  for (let i = 0; i < out.length; i++) out[i] = toFloat(view[i]);
  return out;
}

/** A typed view of stored bytes: the bits for 16-bit floats, the numbers otherwise. */
export function bitsView(
  dtype: DType,
  bytes: Uint8Array,
): Float32Array | Uint16Array | Int8Array | Uint8Array | Int32Array {
  const length = bytes.byteLength / BYTES[dtype];
  switch (dtype) {
    case 'float32':
      return new Float32Array(bytes.buffer, bytes.byteOffset, length);
    case 'float16':
    case 'bfloat16':
      return new Uint16Array(bytes.buffer, bytes.byteOffset, length);
    case 'int8':
      return new Int8Array(bytes.buffer, bytes.byteOffset, length);
    case 'uint8':
      return bytes;
    case 'int32':
      return new Int32Array(bytes.buffer, bytes.byteOffset, length);
  }
}
