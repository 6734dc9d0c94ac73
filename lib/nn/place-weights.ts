// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, OptionError, ShapeError } from '../errors.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import { keep } from '../scope.js';
import { Tensor } from '../tensor.js';
import { Linear, TernaryLinear } from './linear.js';
import { Module } from './module.js';

/** Weights by the name that {@link Module.state} has for them; a ternary one by the name of its layer's weight. */
export type Weights = ReadonlyMap<string, Tensor | TernaryTensor>;

/** @internal Names and tensors of a saved state, `name.packed` and `name.scale` put together again; `shapeOf` tells the shape of such a weight. */
export function weightsOf(
  state: ReadonlyMap<string, Tensor>,
  shapeOf: (name: string) => readonly number[] | undefined,
): Weights {
  const weights = new Map<string, Tensor | TernaryTensor>();
  for (const [name, tensor] of state) {
    const weight = name.replace(/\.(packed|scale)$/, '');
    const [packed, scale] = [state.get(`${weight}.packed`), state.get(`${weight}.scale`)];
    if (weight === name || !packed || !scale) {
      weights.set(name, tensor);
    } else if (!weights.has(weight)) {
      const [rows, cols] = shapeOf(weight) ?? [packed.shape[0], packed.shape[1] * 4];
      weights.set(weight, new TernaryTensor(packed, scale, [rows, cols]));
    }
  }
  return weights;
}

/**
 * @internal Gives a module, made on a device that computes nothing, its weights, which are the module's from then on. A Linear layer whose weight
 * is ternary becomes a frozen TernaryLinear.
 *
 * @throws OptionError if a name is missing or unknown, ShapeError, DTypeError; nothing is changed then.
 */
export function placeWeights(op: string, module: Module, weights: Weights): void {
  const steps: (() => void)[] = [];
  const used = new Set<string>();
  const take = (name: string, like: Tensor | TernaryTensor): Tensor | TernaryTensor => {
    const weight = weights.get(name);
    if (!weight) throw new OptionError(`${op}: expected a tensor named ${name}, got none`);
    used.add(name);
    checkWeight(op, name, weight, like);
    (weight instanceof Tensor ? [weight] : weight.tensors()).forEach(keep);
    return weight;
  };
  const visit = (path: string, holder: object): void => {
    for (const [key, value] of Object.entries(holder) as [string, unknown][]) {
      if (holder instanceof Module && key.startsWith('_')) continue;
      const name = path === '' ? key : `${path}.${key}`;
      const fields = holder as Record<string, unknown>;
      if (value instanceof Linear && weights.get(`${name}.weight`) instanceof TernaryTensor) {
        const weight = take(`${name}.weight`, value.weight) as TernaryTensor;
        const bias = value.bias && (take(`${name}.bias`, value.bias) as Tensor);
        steps.push(() => (fields[key] = TernaryLinear.frozen(weight, bias)));
      } else if (value instanceof Module || Array.isArray(value)) {
        visit(name, value);
      } else if (value instanceof Tensor) {
        const weight = take(name, value);
        if (weight instanceof TernaryTensor && !(holder instanceof TernaryLinear && key === 'weight'))
          throw new DTypeError(`${op}: expected ${name} of dtype ${value.dtype}, got packed trits`);
        steps.push(() => (fields[key] = weight));
      }
    }
  };
  visit('', module);
  for (const name of weights.keys()) {
    if (!used.has(name)) throw new OptionError(`${op}: expected only the names of this model, got ${name}`);
  }
  for (const step of steps) step();
}

function checkWeight(op: string, name: string, weight: Tensor | TernaryTensor, like: Tensor | TernaryTensor): void {
  if (weight.shape.length !== like.shape.length || weight.shape.some((size, axis) => size !== like.shape[axis])) {
    throw new ShapeError(
      `${op}: expected ${name} of shape [${like.shape.join(', ')}], got [${weight.shape.join(', ')}]`,
    );
  }
  if (weight instanceof Tensor && like instanceof Tensor && weight.dtype !== like.dtype) {
    throw new DTypeError(`${op}: expected ${name} of dtype ${like.dtype}, got ${weight.dtype}`);
  }
  if (weight instanceof TernaryTensor) {
    const [rows, cols] = weight.shape;
    const expected = [rows, Math.ceil(cols / 4)];
    if (weight.packed.shape.join() !== expected.join()) {
      throw new ShapeError(
        `${op}: expected ${name}.packed of shape [${expected.join(', ')}], got [${weight.packed.shape.join(', ')}]`,
      );
    }
  }
}
