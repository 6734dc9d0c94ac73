// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { TensorArg } from './backend.js';
import { backward } from './autograd/engine.js';
import type { GradNode } from './autograd/tape.js';
import { refuseInCapture } from './capturing.js';
import {
  checkInteger,
  checkNumber,
  checkObject,
  checkOptions,
  MAX_AXES,
  checkShape,
  checkShapeValue,
  checkTensor,
  checkTogether,
} from './check.js';
import { describe } from './describe.js';
import { Device, device as deviceNamed, getDefaultDevice, type DeviceName } from './device.js';
import { bitsView, bytesPerElement, decode, DTYPES, encode, isFloat, type DType, type TensorData } from './dtype.js';
import { DisposedError, DTypeError, OptionError, ShapeError } from './errors.js';
import { cast } from './ops/cast.js';
import { reshape } from './ops/reshape.js';
import { transpose } from './ops/transpose.js';
import { checkSeed, defaultGenerator, Generator } from './random.js';
import { enterScope, leaveScopes } from './scope.js';
import { Storage } from './storage.js';
import { transfer, type TensorTransfer } from './transfer.js';

/** Numbers in nested arrays, as deep as the tensor has axes. */
export type NestedArray = number | readonly NestedArray[];

/**
 * An array of numbers on a device: dense, row-major, of fixed shape and element type. Ops return new tensors and never change their
 * inputs; they are queued on the device and run in order, and only reading a tensor waits.
 *
 * Its memory is freed by `dispose()`, by the end of the `using` block or `tidy()` it was made in, and, late, by the garbage collector.
 */
export class Tensor {
  /** Size of each axis, outermost first; [] for a scalar. */
  readonly shape: readonly number[];
  /** Element type. */
  readonly dtype: DType;
  /** Number of elements; 1 for a scalar, whose shape is []. */
  readonly size: number;
  /** True for a leaf that collects a gradient, and for everything computed from one. */
  requiresGrad: boolean;
  /** For a leaf: the sum of the gradients of all `backward()` calls since it was last cleared; otherwise null. */
  grad: Tensor | null = null;

  /** @internal */
  storage: Storage | null;
  /** @internal The op that made this tensor, if a gradient may flow through it. */
  node: GradNode | null = null;
  /** @internal Which output of that op this is. */
  nodeOutput = 0;

  /** @internal Takes over one reference to `storage`. */
  constructor(storage: Storage, shape: readonly number[], dtype: DType, requiresGrad: boolean, tracked: boolean) {
    this.storage = storage;
    this.shape = shape;
    this.dtype = dtype;
    this.size = elementCount(shape);
    this.requiresGrad = requiresGrad;
    if (tracked) enterScope(this);
  }

  /** The device this tensor lives on. Throws DisposedError. */
  get device(): Device {
    return this.live('Tensor.device').device;
  }

  /** Bytes of its elements. */
  get bytes(): number {
    return this.size * bytesPerElement(this.dtype);
  }

  /** Whether its memory was given up: it cannot be used any more. */
  get isDisposed(): boolean {
    return this.storage === null;
  }

  /** @internal */
  get arg(): TensorArg {
    return { buffer: this.live('Tensor').buffer, dtype: this.dtype, length: this.size };
  }

  /** @internal Another handle on the same memory, outside every scope and outside the graph. */
  alias(shape: readonly number[] = this.shape): Tensor {
    return new Tensor(this.live('Tensor').retain(), shape, this.dtype, false, false);
  }

  /**
   * The elements in row-major order, once every op queued before has run: Float32Array for float dtypes, the matching typed array
   * otherwise. Rejects with DisposedError, KernelError; throws CaptureError, at once, inside {@link capture}.
   */
  data(): Promise<TensorData> {
    this.refuseRead('data');
    return this.rawBytes('data').then((bytes) => decode(this.dtype, bytes));
  }

  /**
   * The stored bits in row-major order: like `data()`, but 16-bit floats come as their bits in a Uint16Array. Rejects with DisposedError,
   * KernelError; throws CaptureError, at once, inside {@link capture}.
   */
  raw(): Promise<TensorData | Uint16Array> {
    this.refuseRead('raw');
    return this.rawBytes('raw').then((bytes) => bitsView(this.dtype, bytes));
  }

  /**
   * The only element of a tensor of size 1. Rejects with ShapeError, DisposedError, KernelError; throws CaptureError, at once, inside
   * {@link capture}.
   */
  item(): Promise<number> {
    this.refuseRead('item');
    return this.onlyElement();
  }

  /**
   * A copy on another device or of another dtype, outside the graph, with the same `requiresGrad`. Waits for the ops queued before. For
   * a dtype change that gradients flow through, see {@link cast}.
   *
   * @param options `dtype`: default the same; `device`: default the same.
   * @throws CaptureError, at once, inside {@link capture}. Rejects with DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError,
   * KernelError.
   */
  to(options: { dtype?: DType; device?: DeviceName | Device }): Promise<Tensor> {
    this.refuseRead('to');
    return this.copyTo(options);
  }

  private async copyTo(options: { dtype?: DType; device?: DeviceName | Device }): Promise<Tensor> {
    checkOptions('to', options, ['dtype', 'device']);
    const target = deviceNamed(options.device ?? this.device);
    const dtype = checkDType('to', options.dtype ?? this.dtype);
    const requiresGrad = checkRequiresGrad('to', this.requiresGrad && isFloat(dtype), dtype);
    const bytes = await this.rawBytes('to');
    const stored = dtype === this.dtype ? bytes : encode(dtype, decode(this.dtype, bytes));
    return fromBytes('to', stored, this.shape, dtype, target, requiresGrad);
  }

  /**
   * Gives the tensor to another thread of this process, without a copy: disposes it here at once (with its `grad`), and resolves when
   * everything queued on it has run. Then `worker.postMessage(message, transferList)`, and {@link receiveTensor} over there.
   *
   * @throws OptionError if it is not a leaf, shares its memory with a view or a graph, or is used by a {@link capture}d graph, DisposedError: it is
   * then still this thread's; KernelError if an op failed that was queued before: it is then gone. CaptureError, at once, inside {@link capture}.
   */
  transfer(): Promise<TensorTransfer> {
    if (this.storage) refuseInCapture('transfer', 'move', this.storage.device);
    return transfer(this);
  }

  /** A view with the same elements under another shape; one axis may be -1. See {@link reshape}. */
  reshape(...shape: number[]): Tensor {
    return reshape(this, shape);
  }

  /** A copy with its axes permuted; without arguments, the last two swapped. See {@link transpose}. */
  transpose(...axes: number[]): Tensor {
    return transpose(this, axes.length > 0 ? axes : undefined);
  }

  /** The tensor rounded to another dtype; the gradient is rounded back. See {@link cast}. */
  cast(dtype: DType): Tensor {
    return cast(this, dtype);
  }

  /** A view of the same memory, outside the graph. */
  detach(): Tensor {
    return new Tensor(this.live('detach').retain(), this.shape, this.dtype, false, true);
  }

  /**
   * Adds the gradient of this tensor with respect to every leaf that requires one to the leaf's `grad`, and releases the graph.
   *
   * @param gradient the gradient of whatever is differentiated with respect to this tensor, same shape and dtype; default 1, for a
   * tensor of one element.
   * @throws OptionError if nothing here requires a gradient or the graph was already released; ShapeError.
   */
  backward(gradient?: Tensor): void {
    backward(this, gradient);
  }

  /**
   * Overwrites the elements, in the order of the ops: those called before see the old ones, those called after the new ones. It is how a captured
   * graph gets new inputs; of another tensor it is a copy on the device, which can be captured itself. `grad` and `requiresGrad` stay.
   *
   * @param values as many numbers as the tensor has elements: in nested arrays of its shape; in a typed array of any order, Float32Array or Float64Array for
   * float dtypes, the dtype's own otherwise; or a tensor of the same shape, dtype and device. Rounded as {@link tensor} rounds them.
   * @throws ShapeError, DTypeError, DeviceError, DisposedError; OptionError if this is no leaf, or shares its memory with a view or with the
   * graph of a backward pass to come, which would see the new elements; CaptureError inside {@link capture}, unless `values` is a tensor. Nothing is
   * changed then.
   */
  write(values: TensorValues | Tensor): void {
    const { device } = this.live('write');
    if (this.node) throw new OptionError(`write: expected a leaf, got the result of ${this.node.op}`);
    if (values === this) return;
    if (!this.storage?.isExclusive) {
      throw new OptionError('write: expected a tensor that shares its memory with no view or graph, got one that does');
    }
    if (values instanceof Tensor) {
      checkTensor('write', 'values', values, [this.dtype]);
      checkShape('write', 'values', values, this.shape);
      checkTogether('write', { tensor: this, values });
      device.backend.cast({ x: values.arg, out: this.arg });
      return;
    }
    const { shape, flat, natural } = valuesOf('write', values);
    if (ArrayBuffer.isView(values) ? flat.length !== this.size : shape.join() !== this.shape.join()) {
      throw new ShapeError(`write: expected values of shape [${this.shape.join(', ')}], got [${shape.join(', ')}]`);
    }
    if (ArrayBuffer.isView(values) && natural !== (isFloat(this.dtype) ? 'float32' : this.dtype)) {
      throw new DTypeError(`write: expected values for ${this.dtype}, got ${values.constructor.name}`);
    }
    device.write('write', this.arg.buffer, encode(this.dtype, flat));
  }

  /** Drops the collected gradient and frees its memory. */
  clearGrad(): void {
    this.grad?.dispose();
    this.grad = null;
  }

  /** Frees the memory unless another tensor shares it. Safe to call twice. Using the tensor afterwards throws DisposedError. */
  dispose(): void {
    if (this.storage === null) return;
    leaveScopes(this);
    this.clearGrad();
    this.storage.release();
    this.storage = null;
    this.node = null;
  }

  /** Called at the end of a `using` block: see {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Dtype, shape and device, for messages: `Tensor(float32 [2, 3] on cpu)`. */
  toString(): string {
    const where = this.storage ? this.storage.device.id : 'disposed';
    return `Tensor(${this.dtype} [${this.shape.join(', ')}] on ${where})`;
  }

  private live(op: string): Storage {
    if (this.storage === null) {
      throw new DisposedError(`${op}: expected a live tensor, got a disposed one of shape [${this.shape.join(', ')}]`);
    }
    return this.storage;
  }

  // A step that is captured waits for nothing: it would not see a promise that is rejected.
  private refuseRead(op: string): void {
    if (this.storage) refuseInCapture(op, 'read', this.storage.device);
  }

  private async onlyElement(): Promise<number> {
    if (this.size !== 1)
      throw new ShapeError(`item: expected a tensor of one element, got shape [${this.shape.join(', ')}]`);
    return (await this.data())[0];
  }

  private async rawBytes(op: string): Promise<Uint8Array> {
    const storage = this.live(op);
    const bytes = new Uint8Array(this.bytes);
    await storage.device.read(storage.buffer, bytes);
    return bytes;
  }
}

/** Where and as what a new tensor is made. */
export interface TensorOptions {
  /** Default float32. */
  dtype?: DType;
  /** Default: the default device. */
  device?: DeviceName | Device;
  /** Whether the tensor is a leaf that collects a gradient; float dtypes only. Default false. */
  requiresGrad?: boolean;
}

/** Options of the random tensors. */
export interface RandomOptions extends TensorOptions {
  /** Draw from a fresh generator with this seed instead of the library's. */
  seed?: number;
}

const TENSOR_OPTIONS = ['dtype', 'device', 'requiresGrad'];

/** @internal */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** @internal A tensor of unspecified contents. */
export function empty(op: string, shape: readonly number[], dtype: DType, device: Device): Tensor {
  return make(op, shape, dtype, device, true);
}

/** @internal The same outside every scope: for what an op keeps to itself. */
export function workspace(op: string, shape: readonly number[], dtype: DType, device: Device): Tensor {
  return make(op, shape, dtype, device, false);
}

function make(op: string, shape: readonly number[], dtype: DType, device: Device, tracked: boolean): Tensor {
  const bytes = elementCount(shape) * bytesPerElement(dtype);
  if (!Number.isSafeInteger(bytes))
    throw new ShapeError(`${op}: expected fewer than 2^53 bytes, got shape [${shape.join(', ')}]`);
  const own = Object.freeze([...shape]);
  return new Tensor(Storage.allocate(op, device, bytes, dtype, own), own, dtype, false, tracked);
}

/** @internal A tensor of the caller's data. Throws CaptureError. */
export function fromBytes(
  op: string,
  bytes: Uint8Array,
  shape: readonly number[],
  dtype: DType,
  device: Device,
  requiresGrad: boolean,
): Tensor {
  refuseInCapture(op, 'upload', device);
  return fromConstant(op, bytes, shape, dtype, device, requiresGrad);
}

/** @internal A tensor of what follows from the options of a call: a graph has it as it was when the call was captured, like these. */
export function fromConstant(
  op: string,
  bytes: Uint8Array,
  shape: readonly number[],
  dtype: DType,
  device: Device,
  requiresGrad: boolean,
): Tensor {
  const out = empty(op, shape, dtype, device);
  device.backend.write(out.arg.buffer, bytes);
  out.requiresGrad = requiresGrad;
  return out;
}

/** Elements that are made on the host at once: a multiple of what a block of random numbers gives. */
const PIECE = 2 ** 20;

/** A tensor whose numbers are made when the memory for them is there, and not all at once. */
function inPieces(
  op: string,
  shape: readonly number[],
  dtype: DType,
  device: Device,
  requiresGrad: boolean,
  numbers: (begin: number, count: number) => ArrayLike<number>,
): Tensor {
  const out = empty(op, shape, dtype, device);
  try {
    for (let begin = 0; begin < out.size; begin += PIECE) {
      const bytes = encode(dtype, numbers(begin, Math.min(PIECE, out.size - begin)));
      device.backend.write(out.arg.buffer, bytes, begin * bytesPerElement(dtype));
    }
  } catch (error) {
    out.dispose();
    throw error;
  }
  out.requiresGrad = requiresGrad;
  return out;
}

function checkDType(op: string, dtype: DType): DType {
  if (!DTYPES.includes(dtype))
    throw new DTypeError(`${op}: expected one of ${DTYPES.join(', ')} for dtype, got ${describe(dtype)}`);
  return dtype;
}

function checkRequiresGrad(op: string, requiresGrad: boolean, dtype: DType): boolean {
  if (typeof requiresGrad !== 'boolean')
    throw new OptionError(`${op}: expected a boolean for requiresGrad, got ${describe(requiresGrad)}`);
  if (requiresGrad && !isFloat(dtype))
    throw new DTypeError(`${op}: expected a float dtype with requiresGrad, got ${dtype}`);
  return requiresGrad;
}

function resolve(
  op: string,
  options: TensorOptions,
  fallback: DType = 'float32',
): { dtype: DType; device: Device; requiresGrad: boolean } {
  const dtype = checkDType(op, options.dtype ?? fallback);
  return {
    dtype,
    device: options.device === undefined ? getDefaultDevice() : deviceNamed(options.device),
    requiresGrad: checkRequiresGrad(op, options.requiresGrad ?? false, dtype),
  };
}

function flatten(op: string, values: NestedArray, depth: number, shape: number[], out: number[]): void {
  if (depth > MAX_AXES) throw new ShapeError(`${op}: expected at most ${MAX_AXES} arrays in each other, got more`);
  if (typeof values === 'number') {
    if (depth !== shape.length) throw ragged(op);
    out.push(values);
    return;
  }
  if (!Array.isArray(values))
    throw new OptionError(`${op}: expected numbers in nested arrays, got ${describe(values)}`);
  if (depth === shape.length) {
    if (out.length > 0 || values.length === 0) throw ragged(op);
    shape.push(values.length);
  }
  if (values.length !== shape[depth]) throw ragged(op);
  for (const each of values as readonly NestedArray[]) flatten(op, each, depth + 1, shape, out);
}

function ragged(op: string): ShapeError {
  return new ShapeError(`${op}: expected nested arrays of equal, positive lengths, got ragged or empty ones`);
}

const TYPED: ReadonlyMap<string, DType> = new Map([
  ['Float32Array', 'float32'],
  ['Float64Array', 'float32'],
  ['Int8Array', 'int8'],
  ['Uint8Array', 'uint8'],
  ['Int32Array', 'int32'],
]);

/** Numbers to make a tensor of: one, in nested arrays, or in a typed array. */
export type TensorValues = NestedArray | Float32Array | Float64Array | Int8Array | Uint8Array | Int32Array;

/** The numbers in a row, and the shape and dtype they have by themselves. */
function valuesOf(op: string, values: TensorValues): { shape: number[]; flat: ArrayLike<number>; natural: DType } {
  if (!ArrayBuffer.isView(values)) {
    const shape: number[] = [];
    const flat: number[] = [];
    flatten(op, values, 0, shape, flat);
    return { shape, flat, natural: 'float32' };
  }
  const natural = TYPED.get(values.constructor.name);
  if (!natural)
    throw new DTypeError(`${op}: expected one of ${[...TYPED.keys()].join(', ')}, got ${values.constructor.name}`);
  const flat = values as Float32Array;
  return { shape: [flat.length], flat, natural };
}

/**
 * A tensor of the given numbers.
 *
 * @param values a number (shape []), nested arrays, or a typed array (Float32Array, Float64Array, Int8Array, Uint8Array, Int32Array).
 * @param options `shape`: default as nested, or [length] for a typed array. `dtype`: default the typed array's, else float32; values
 * are rounded to nearest, or truncated and saturated for integers.
 * @throws ShapeError, DTypeError, OptionError, DeviceError, OutOfMemoryError.
 */
export function tensor(values: TensorValues, options: TensorOptions & { shape?: readonly number[] } = {}): Tensor {
  checkOptions('tensor', options, [...TENSOR_OPTIONS, 'shape']);
  const { flat, natural, ...found } = valuesOf('tensor', values);
  let { shape } = found;
  const { dtype, device, requiresGrad } = resolve('tensor', options, natural);
  if (options.shape !== undefined) {
    shape = [...checkShapeValue('tensor', options.shape)];
    if (elementCount(shape) !== flat.length) {
      throw new ShapeError(
        `tensor: expected ${elementCount(shape)} values for shape [${shape.join(', ')}], got ${flat.length}`,
      );
    }
  } else {
    checkShapeValue('tensor', shape);
  }
  return fromBytes('tensor', encode(dtype, flat), shape, dtype, device, requiresGrad);
}

/**
 * A tensor of stored bits, as `raw()` gives them: the way to make float16 and bfloat16 tensors exactly.
 *
 * @param bits as many bytes as the elements take, row-major.
 * @throws ShapeError, DTypeError, OptionError, DeviceError, OutOfMemoryError.
 */
export function tensorFromRaw(
  bits: ArrayBufferView,
  shape: readonly number[],
  options: TensorOptions & { dtype: DType },
): Tensor {
  checkOptions('tensorFromRaw', options, TENSOR_OPTIONS);
  checkShapeValue('tensorFromRaw', shape);
  const { dtype, device, requiresGrad } = resolve('tensorFromRaw', options);
  if (!ArrayBuffer.isView(bits))
    throw new OptionError(`tensorFromRaw: expected a typed array for bits, got ${describe(bits)}`);
  const bytes = elementCount(shape) * bytesPerElement(dtype);
  if (bits.byteLength !== bytes) {
    throw new ShapeError(
      `tensorFromRaw: expected ${bytes} bytes for ${dtype} [${shape.join(', ')}], got ${bits.byteLength}`,
    );
  }
  const view = new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
  return fromBytes('tensorFromRaw', view, shape, dtype, device, requiresGrad);
}

/** A tensor filled with `value`. Throws ShapeError, DTypeError, OptionError, DeviceError, OutOfMemoryError. */
export function full(shape: readonly number[], value: number, options: TensorOptions = {}): Tensor {
  return filled('full', shape, value, options);
}

/** A tensor of zeros. Throws what {@link full} throws. */
export function zeros(shape: readonly number[], options: TensorOptions = {}): Tensor {
  return filled('zeros', shape, 0, options);
}

/** A tensor of ones. Throws what {@link full} throws. */
export function ones(shape: readonly number[], options: TensorOptions = {}): Tensor {
  return filled('ones', shape, 1, options);
}

function filled(op: string, shape: readonly number[], value: number, options: TensorOptions): Tensor {
  checkOptions(op, options, TENSOR_OPTIONS);
  checkShapeValue(op, shape);
  if (typeof value !== 'number') throw new OptionError(`${op}: expected a number for value, got ${describe(value)}`);
  const { dtype, device, requiresGrad } = resolve(op, options);
  const out = empty(op, shape, dtype, device);
  device.backend.fill({ out: out.arg, value });
  out.requiresGrad = requiresGrad;
  return out;
}

/**
 * The numbers start, start + step, … below stop (above it for a negative step), shape [ceil((stop - start) / step)].
 *
 * @param start default 0 when only one number is given: `arange(5)` is 0..4.
 * @param options dtype: default int32 if all three are integers, else float32.
 * @throws OptionError, DTypeError, DeviceError, OutOfMemoryError.
 */
export function arange(start: number, stop?: number, step = 1, options: TensorOptions = {}): Tensor {
  checkOptions('arange', options, TENSOR_OPTIONS);
  const from = stop === undefined ? 0 : start;
  const to = stop === undefined ? start : stop;
  for (const [name, value] of Object.entries({ start: from, stop: to, step })) {
    if (!Number.isFinite(value))
      throw new OptionError(`arange: expected a finite number for ${name}, got ${describe(value)}`);
  }
  const count = step === 0 ? 0 : Math.ceil((to - from) / step);
  if (count < 1) throw new OptionError(`arange: expected a step that leads from ${from} to ${to}, got ${step}`);
  const integers = [from, to, step].every(Number.isInteger);
  const { dtype, device, requiresGrad } = resolve('arange', options, integers ? 'int32' : 'float32');
  checkInteger('arange', 'length', count, 1, 2 ** 32);
  return inPieces('arange', [count], dtype, device, requiresGrad, (begin, length) =>
    Float64Array.from({ length }, (_, i) => from + (begin + i) * step),
  );
}

/**
 * Normally distributed numbers (Philox 4x32-10 and Box–Muller): the same on every device for the same seed and order of calls.
 *
 * @param options `mean` default 0, `std` default 1, not negative, `seed`: see {@link RandomOptions}; dtype must be a float type.
 * @throws ShapeError, DTypeError, OptionError, DeviceError, OutOfMemoryError.
 */
export function randn(shape: readonly number[], options: RandomOptions & { mean?: number; std?: number } = {}): Tensor {
  checkObject('randn', 'options', options);
  const { mean = 0, std = 1 } = options;
  checkNumber('randn', 'mean', mean);
  checkNumber('randn', 'std', std, 0);
  return random('randn', shape, options, ['mean', 'std'], (generator, count) => {
    const values = generator.normal(count);
    for (let i = 0; i < count; i++) values[i] = values[i] * std + mean;
    return values;
  });
}

/**
 * Numbers uniform in [low, high), from Philox 4x32-10: the same on every device for the same seed and order of calls.
 *
 * @param options `low` default 0, `high` default 1, not below it, `seed`: see {@link RandomOptions}; dtype must be a float type.
 * @throws ShapeError, DTypeError, OptionError, DeviceError, OutOfMemoryError.
 */
export function uniform(
  shape: readonly number[],
  options: RandomOptions & { low?: number; high?: number } = {},
): Tensor {
  checkObject('uniform', 'options', options);
  const { low = 0, high = 1 } = options;
  checkNumber('uniform', 'low', low);
  checkNumber('uniform', 'high', high, low);
  return random('uniform', shape, options, ['low', 'high'], (generator, count) => {
    const values = generator.uniform(count);
    for (let i = 0; i < count; i++) values[i] = low + values[i] * (high - low);
    return values;
  });
}

function random(
  op: string,
  shape: readonly number[],
  options: RandomOptions,
  ownOptions: string[],
  draw: (generator: Generator, count: number) => Float32Array,
): Tensor {
  checkOptions(op, options, [...TENSOR_OPTIONS, 'seed', ...ownOptions]);
  checkShapeValue(op, shape);
  const { dtype, device, requiresGrad } = resolve(op, options);
  if (!isFloat(dtype)) throw new DTypeError(`${op}: expected a float dtype, got ${dtype}`);
  if (device.isDry) {
    // Nobody will see the numbers, and the model may be too large to draw them.
    const out = empty(op, shape, dtype, device);
    out.requiresGrad = requiresGrad;
    return out;
  }
  const generator = options.seed === undefined ? defaultGenerator() : new Generator(checkSeed(op, options.seed));
  checkInteger(op, 'size', elementCount(shape), 1, 2 ** 32);
  return inPieces(op, shape, dtype, device, requiresGrad, (_, count) => draw(generator, count));
}
