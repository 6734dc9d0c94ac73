// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as library from '../../../lib/index.js';
import { FILE_CALLS } from './file-calls.js';
import { MODEL_CALLS } from './model-calls.js';
import { MODULE_CALLS } from './module-calls.js';
import { OP_CALLS } from './op-calls.js';
import { TENSOR_CALLS } from './tensor-calls.js';
import { TRAINING_CALLS } from './training-calls.js';
import type { World } from './world.js';

/**
 * The arguments of a call that is valid. Of methods, and of what is assigned, the object comes first.
 */
export type MakeArguments = (w: World) => unknown[] | Promise<unknown[]>;

/** A valid call of everything that `publicCalls` names, and of what those give: `grad()`. */
export const CALLS: Readonly<Record<string, MakeArguments>> = {
  ...TENSOR_CALLS,
  ...OP_CALLS,
  ...MODULE_CALLS,
  ...MODEL_CALLS,
  ...TRAINING_CALLS,
  ...FILE_CALLS,
};

type Callable = (...args: unknown[]) => unknown;

/** What is called without an export of its own. */
const OTHERS: Readonly<Record<string, Callable>> = {
  'grad()': (...inputs) => (library.grad((x, y) => library.sum(library.mul(x, y))) as Callable)(...inputs),
  'valueAndGrad()': (...inputs) =>
    (library.valueAndGrad((x, y) => library.sum(library.mul(x, y))) as Callable)(...inputs),
  'warmupCosine()': (step) => library.warmupCosine({ peak: 1, warmup: 1, total: 4 })(step as number),
  'StoredTensor#read': (stored, ...args) => (stored as { read: Callable }).read(...args),
};

/** Errors are made of whatever they are given: nothing is checked when something else has failed. */
const isError = (name: string): boolean => /^new \w+Error$/.test(name);

/** What is there to call and has no valid call here, or the other way round. */
export function unmatched(names: readonly string[]): string[] {
  const expected = names.filter((name) => !isError(name));
  return [
    ...expected.filter((name) => !(name in CALLS)).map((name) => `${name} is public and has no valid call`),
    ...Object.keys(CALLS)
      .filter((name) => !expected.includes(name) && !(name in OTHERS))
      .map((name) => `${name} has a valid call and is not public`),
  ];
}

/** Makes a call. */
export function invoke(name: string, args: readonly unknown[]): unknown {
  if (name in OTHERS) return OTHERS[name](...args);
  const exports = library as unknown as Record<string, Callable>;
  if (name.startsWith('new ')) {
    const made = exports[name.slice(4)] as unknown as new (...args: unknown[]) => unknown;
    return new made(...args);
  }
  const [self, ...rest] = args;
  const method = /#(\w+)(=?)$/.exec(name);
  if (method?.[2] === '=') return Reflect.set(self as object, method[1], rest[0]);
  if (method) return (self as Record<string, Callable>)[method[1]](...rest);
  const [owner, member] = name.split('.');
  const callable = member === undefined ? exports[owner] : (exports[owner] as unknown as Record<string, Callable>);
  return typeof callable === 'function' && member === undefined
    ? callable(...args)
    : (exports[owner] as unknown as Record<string, Callable>)[member](...args);
}

/** Whether the first argument is the object whose method is called. */
export const hasSelf = (name: string): boolean => name.includes('#');
