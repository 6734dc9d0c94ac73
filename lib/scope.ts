// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { callNow } from './call-now.js';
import { describe } from './describe.js';
import { DisposedError, OptionError } from './errors.js';
import type { Tensor } from './tensor.js';

/**
 * Lifetimes. Device memory is freed when the last tensor that holds it is disposed; `tidy` disposes all tensors made inside it but its
 * result. What the backward pass needs is held by the graph, not by these tensors, so tidying a forward pass is safe.
 */

const scopes: Set<Tensor>[] = [];

/** @internal Called for every tensor a user could see. */
export function enterScope(tensor: Tensor): void {
  scopes[scopes.length - 1]?.add(tensor);
}

/** @internal */
export function leaveScopes(tensor: Tensor): void {
  for (const scope of scopes) scope.delete(tensor);
}

/** What `tidy` may return: tensors, anything that holds them in arrays and plain objects, or no tensor at all. */
export type TensorContainer = unknown;

/** Without the class itself, which is made of what is in here. */
const isTensor = (value: object): value is Tensor => 'storage' in value && 'shape' in value && 'arg' in value;

function collect(value: TensorContainer, found: Set<object>): void {
  if (typeof value !== 'object' || value === null || found.has(value)) return;
  found.add(value);
  if (isTensor(value)) return;
  const holder = value as { tensors?: unknown };
  if (typeof holder.tensors === 'function') {
    for (const each of (holder.tensors as () => Tensor[]).call(value)) found.add(each);
  } else if (Array.isArray(value)) {
    for (const each of value) collect(each, found);
  } else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const each of Object.values(value)) collect(each, found);
  }
}

/**
 * Runs `fn` and disposes every tensor made inside it, except those in its result (in arrays and plain objects too) and those given to
 * {@link keep}. Scopes nest: a tensor that survives an inner one belongs to the outer one.
 *
 * @throws OptionError if `fn` returns a promise: what is made after an `await` could not be attributed. Await the result instead:
 * `const loss = tidy(() => step()); await loss.item()`.
 */
export function tidy<T>(fn: () => T): T {
  const scope = new Set<Tensor>();
  scopes.push(scope);
  const survivors = new Set<object>();
  try {
    const result = callNow('tidy', fn);
    collect(result, survivors);
    return result;
  } finally {
    scopes.pop();
    for (const tensor of scope) {
      if (survivors.has(tensor)) enterScope(tensor);
      else tensor.dispose();
    }
  }
}

/** Takes a tensor out of every `tidy` under way: it lives until `dispose()`. Returns it. Throws OptionError, DisposedError. */
export function keep<T extends Tensor>(tensor: T): T {
  if (typeof tensor !== 'object' || tensor === null || !isTensor(tensor))
    throw new OptionError(`keep: expected a Tensor for tensor, got ${describe(tensor)}`);
  if (tensor.isDisposed) throw new DisposedError('keep: expected a live tensor, got a disposed one');
  leaveScopes(tensor);
  return tensor;
}

/** @internal Runs `fn` as if no `tidy` were under way. */
export function outsideScopes<T>(fn: () => T): T {
  const outer = scopes.splice(0, scopes.length);
  try {
    return fn();
  } finally {
    scopes.splice(0, scopes.length, ...outer);
  }
}
