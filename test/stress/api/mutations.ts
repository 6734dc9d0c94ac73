// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { Tensor, TernaryTensor, zeros, type DeviceName } from '../../../lib/index.js';
import { DTYPES } from '../../../lib/dtype.js';
import type { Random } from '../../random.js';
import type { World } from './world.js';

/** A call with one thing in it made wrong. */
export interface Mutated {
  args: unknown[];
  /** Where: `2.causal` is the option of the third argument. */
  path: string;
  /** What is there instead. */
  kind: string;
}

type Path = readonly (string | number)[];

interface Place {
  path: Path;
  value: unknown;
}

const cyclic: unknown[] = [];
cyclic.push(cyclic);

const deep = (depth: number): unknown => {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = [value];
  return value;
};

/** What plain JavaScript may hand in for anything. */
const JUNK: readonly [string, () => unknown][] = [
  ['undefined', () => undefined],
  ['null', () => null],
  ['NaN', () => NaN],
  ['Infinity', () => Infinity],
  ['-1', () => -1],
  ['0', () => 0],
  ['0.5', () => 0.5],
  ['2^31', () => 2 ** 31],
  ['2^45', () => 2 ** 45],
  ['2^53', () => 2 ** 53],
  ['1e308', () => 1e308],
  ['empty text', () => ''],
  ['text', () => 'x'],
  ['text of a number', () => '3'],
  ['text of a million letters', () => 'x'.repeat(1e6)],
  ['text with NUL', () => 'a\0b'],
  ['true', () => true],
  ['false', () => false],
  ['{}', () => ({})],
  ['[]', () => []],
  ['[NaN]', () => [NaN]],
  ['[null]', () => [null]],
  ['array in 100,000 arrays', () => deep(100_000)],
  ['array in itself', () => cyclic],
  ['array of 2^32 - 1 holes', () => new Array(2 ** 32 - 1)],
  ['function', () => () => undefined],
  ['class', () => class {}],
  ['symbol', () => Symbol('x')],
  ['bigint', () => 10n],
  ['date', () => new Date(0)],
  ['regular expression', () => /x/],
  ['map', () => new Map()],
  ['set', () => new Set([1])],
  ['promise', () => Promise.resolve(1)],
  ['rejected promise', () => rejected()],
  ['object without prototype', () => Object.create(null) as object],
  ['array-like of length 2^31', () => ({ length: 2 ** 31 })],
  ['array-like of length NaN', () => ({ length: NaN })],
  ['Float64Array', () => Float64Array.of(1, NaN)],
  ['BigInt64Array', () => new BigInt64Array(2)],
  ['Uint8Array of none', () => new Uint8Array(0)],
  ['ArrayBuffer', () => new ArrayBuffer(8)],
  ['detached array', detached],
  ['SharedArrayBuffer', () => new SharedArrayBuffer(8)],
  ['boxed number', () => Object(2) as object],
  ['what looks like a tensor', () => ({ shape: [2], dtype: 'float32', size: 2, storage: {}, isDisposed: false })],
  ['frozen object of unknown keys', () => Object.freeze({ __proto__: null, unknown: 1 })],
  ['object whose text throws', () => ({ toString: () => ({}) })],
];

function rejected(): Promise<never> {
  const promise = Promise.reject(new CallersError('of the caller'));
  promise.catch(() => undefined);
  return promise;
}

function detached(): Float32Array {
  const array = new Float32Array(2);
  structuredClone(array.buffer, { transfer: [array.buffer] });
  return array;
}

function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  return Object.getPrototypeOf(value) === Object.prototype;
}

/** Every place of the arguments, from `first` on. */
function placesIn(args: readonly unknown[], first: number): Place[] {
  const places: Place[] = [];
  const visit = (path: Path, value: unknown): void => {
    places.push({ path, value });
    if (Array.isArray(value)) value.forEach((each, i) => visit([...path, i], each));
    else if (isPlain(value)) for (const [key, each] of Object.entries(value)) visit([...path, key], each);
  };
  args.slice(first).forEach((value, i) => visit([first + i], value));
  return places;
}

/** The arguments with something else at a place; what was given stays as it is. */
function replaced(args: readonly unknown[], path: Path, value: unknown): unknown[] {
  const copy = (holder: unknown, depth: number): unknown => {
    if (depth === path.length) return value;
    const key = path[depth];
    if (Array.isArray(holder)) {
      const list = [...(holder as unknown[])];
      list[key as number] = copy(list[key as number], depth + 1);
      return list;
    }
    const object = { ...(holder as Record<string, unknown>) };
    return { ...object, [key]: copy(object[key], depth + 1) };
  };
  return copy(args, 0) as unknown[];
}

/** Something of the same kind that does not fit: [what, value]. */
function misfits(w: World, value: unknown): [string, () => unknown][] {
  if (value instanceof Tensor) {
    const { shape, dtype } = value;
    const other = (
      name: string,
      more: Partial<{ shape: readonly number[]; dtype: typeof dtype; device: DeviceName }>,
    ) =>
      [
        name,
        () => w.own(zeros(more.shape ?? shape, { dtype: more.dtype ?? dtype, device: more.device ?? w.device })),
      ] as [string, () => unknown];
    return [
      ['disposed tensor', () => (value.dispose(), value)],
      other('tensor on another device', { device: w.device === 'cpu' ? 'reference' : 'cpu' }),
      other('tensor of one more axis', { shape: [...shape, 7] }),
      other('tensor of one axis less', { shape: shape.slice(1) }),
      other('tensor of other sizes', { shape: shape.length === 0 ? [7] : shape.map((size) => size + 6) }),
      ...DTYPES.filter((each) => each !== dtype).map((each) => other(`tensor of ${each}`, { dtype: each })),
    ];
  }
  if (value instanceof TernaryTensor) {
    return [
      ['disposed ternary tensor', () => (value.dispose(), value)],
      ['ternary tensor of other sizes', () => w.ternary(value.shape[0] + 1, value.shape[1] + 3)],
      ['tensor for a ternary one', () => w.t(value.shape)],
    ];
  }
  if (typeof value === 'object' && value !== null && 'dispose' in value) {
    return [['disposed object', () => ((value as { dispose(): void }).dispose(), value)]];
  }
  if (Array.isArray(value)) {
    return [
      ['longer list', () => [...(value as unknown[]), 1e9]],
      ['shorter list', () => value.slice(0, -1)],
      ['list with a hole', () => Object.assign([...(value as unknown[])], { length: value.length + 1 })],
      ['object of the same entries', () => ({ ...(value as unknown[]) })],
    ];
  }
  if (isPlain(value)) return [['unknown key', () => ({ ...value, unknownKey: 1 })]];
  if (value instanceof Map) {
    return [
      ['map without its first entry', () => new Map([...(value as Map<unknown, unknown>)].slice(1))],
      ['map with another key', () => new Map([...(value as Map<unknown, unknown>), ['unknown', w.t([2])]])],
      ['map of numbers', () => new Map([...value.keys()].map((key) => [key, 1]))],
      ['object of the same entries', () => Object.fromEntries(value as Map<string, unknown>)],
    ];
  }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    const list = value as Uint8Array;
    return [
      ['longer array', () => new (list.constructor as Uint8ArrayConstructor)(list.length + 1)],
      ['array of another type', () => BigUint64Array.from({ length: list.length }, () => 1n)],
      ['array of large numbers', () => Float64Array.from(list, () => 2 ** 40)],
    ];
  }
  if (typeof value === 'function') {
    return [
      ['function that throws', () => () => fail()],
      ['async function', () => async () => Promise.resolve()],
      ['function that returns a number', () => () => 7],
    ];
  }
  return [];
}

/** What functions of the caller throw: it has to come out as it is. */
export class CallersError extends Error {}

function fail(): never {
  throw new CallersError('of the caller');
}

/**
 * Makes one thing wrong in the arguments of a valid call: at any place inside them, the object whose method it is included, which can be disposed only. Null
 * if there is nothing that could be wrong.
 */
export function mutate(w: World, random: Random, args: readonly unknown[], hasSelf: boolean): Mutated | null {
  const pick = <T>(list: readonly T[]): T => list[random.integer(0, list.length - 1)];
  const first = hasSelf ? 1 : 0;
  const self = args[0];
  const places = placesIn(args, first);
  const selfCanGo = hasSelf && typeof self === 'object' && self !== null && 'dispose' in self;
  if (places.length === 0 || (selfCanGo && random.next() < 0.1)) {
    if (!selfCanGo) return null;
    (self as { dispose(): void }).dispose();
    return { args: [...args], path: 'this', kind: 'disposed object' };
  }
  if (random.next() < 0.05) {
    const count = random.integer(first, args.length - 1);
    return { args: args.slice(0, count), path: `${count}…`, kind: 'arguments left out' };
  }
  const { path, value } = pick(places);
  const fitting = misfits(w, value);
  const [kind, make] = fitting.length > 0 && random.next() < 0.5 ? pick(fitting) : pick(JUNK);
  return { args: replaced(args, path, make()), path: path.join('.'), kind };
}
