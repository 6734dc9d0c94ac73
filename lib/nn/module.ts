// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { noGrad } from '../autograd/tape.js';
import { checkBoolean, checkOptions, checkShape, checkTensor } from '../check.js';
import { describe } from '../describe.js';
import { FLOAT_DTYPES, isFloat, type FloatDType } from '../dtype.js';
import { DTypeError, OptionError } from '../errors.js';
import { cast } from '../ops/cast.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import { keep } from '../scope.js';
import { Tensor } from '../tensor.js';

/**
 * A part of a model: a class whose fields hold tensors, ternary tensors, other modules, and arrays of modules. Their names, joined by
 * dots, name the parameters: `layers.0.attention.query.weight`. A field whose name begins with an underscore is not part of the model's state.
 */
export abstract class Module {
  /** Every tensor of the state by name, ternary weights as `name.packed` and `name.scale`; a tensor used twice under its first name. */
  state(): Map<string, Tensor> {
    const found = new Map<string, Tensor>();
    const seen = new Set<Tensor>();
    const visit = (path: string, value: unknown): void => {
      if (value instanceof Tensor) {
        if (!seen.has(value)) found.set(path, value);
        seen.add(value);
      } else if (value instanceof TernaryTensor) {
        visit(`${path}.packed`, value.packed);
        visit(`${path}.scale`, value.scale);
      } else if (value instanceof Module) {
        for (const [name, field] of Object.entries(value)) {
          if (!name.startsWith('_')) visit(path === '' ? name : `${path}.${name}`, field);
        }
      } else if (Array.isArray(value)) {
        value.forEach((each, index) => visit(`${path}.${index}`, each));
      }
    };
    visit('', this);
    return found;
  }

  /** This module, under the empty name, and every module inside it by name; one used twice under its first name. */
  modules(): Map<string, Module> {
    const found = new Map<string, Module>();
    const seen = new Set<Module>();
    const visit = (path: string, value: unknown): void => {
      if (value instanceof Module) {
        if (seen.has(value)) return;
        seen.add(value);
        found.set(path, value);
        for (const [name, field] of Object.entries(value)) {
          if (!name.startsWith('_')) visit(path === '' ? name : `${path}.${name}`, field);
        }
      } else if (Array.isArray(value)) {
        value.forEach((each, index) => visit(`${path}.${index}`, each));
      }
    };
    visit('', this);
    return found;
  }

  private _training = true;

  /** Whether dropout, where the module has any, drops. True at the start. */
  get training(): boolean {
    return this._training;
  }

  /** Turns dropout on, or off, in this module and all inside it. Gives the module. Throws OptionError. */
  train(mode = true): this {
    checkBoolean('train', 'mode', mode);
    const visit = (value: unknown): void => {
      if (value instanceof Module) {
        value._training = mode;
        Object.values(value).forEach(visit);
      } else if (Array.isArray(value)) value.forEach(visit);
    };
    visit(this);
    return this;
  }

  /** Turns dropout off: `train(false)`. */
  eval(): this {
    return this.train(false);
  }

  /** The tensors that are trained, by name. */
  namedParameters(): Map<string, Tensor> {
    return new Map([...this.state()].filter(([, tensor]) => tensor.requiresGrad));
  }

  /** The tensors that are trained. */
  parameters(): Tensor[] {
    return [...this.namedParameters().values()];
  }

  /** Number of trained numbers. */
  parameterCount(): number {
    return this.parameters().reduce((count, parameter) => count + parameter.size, 0);
  }

  /** Drops the gradients of all parameters. */
  clearGrad(): void {
    for (const parameter of this.parameters()) parameter.clearGrad();
  }

  /**
   * Overwrites the state with tensors of the same names, shapes and dtypes, on any device.
   *
   * @param source names to tensors, as {@link state} gives them.
   * @throws OptionError if a name is missing or unknown, ShapeError, DTypeError; nothing is changed then.
   */
  async loadState(source: ReadonlyMap<string, Tensor>): Promise<void> {
    await overwrite('loadState', this.state(), source);
  }

  /**
   * Turns every float tensor of the state into another dtype, rounding to nearest; packed ternary weights stay. The module holds new tensors
   * afterwards, without gradients, and those it held are disposed: make optimizers after this.
   *
   * @throws OptionError, DTypeError, DisposedError, OutOfMemoryError; nothing is changed then.
   */
  to(options: { dtype: FloatDType }): void {
    checkOptions('to', options, ['dtype']);
    const { dtype } = options;
    if (!FLOAT_DTYPES.includes(dtype)) {
      throw new DTypeError(`to: expected one of ${FLOAT_DTYPES.join(', ')} for dtype, got ${describe(dtype)}`);
    }
    const places: { holder: Record<string, unknown>; field: string; from: Tensor }[] = [];
    const seen = new Set<object>();
    const visit = (holder: object): void => {
      if (seen.has(holder)) return;
      seen.add(holder);
      for (const [field, value] of Object.entries(holder)) {
        if (holder instanceof Module && field.startsWith('_')) continue;
        if (value instanceof Tensor && isFloat(value.dtype) && value.dtype !== dtype) {
          places.push({ holder: holder as Record<string, unknown>, field, from: value });
        } else if (value instanceof Module || Array.isArray(value)) visit(value);
      }
    };
    visit(this);
    const converted = new Map<Tensor, Tensor>();
    try {
      for (const { from } of places) {
        if (converted.has(from)) continue;
        const result = keep(noGrad(() => cast(from, dtype)));
        result.requiresGrad = from.requiresGrad;
        converted.set(from, result);
      }
    } catch (error) {
      for (const result of converted.values()) result.dispose();
      throw error;
    }
    for (const { holder, field, from } of places) holder[field] = converted.get(from);
    for (const from of converted.keys()) from.dispose();
  }

  /** Frees all tensors of the state. */
  dispose(): void {
    for (const tensor of this.state().values()) tensor.dispose();
  }

  /** Called at the end of a `using` block: see {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @internal A parameter outlives every tidy. */
export function parameter(tensor: Tensor): Tensor {
  tensor.requiresGrad = true;
  return keep(tensor);
}

/**
 * @internal Overwrites the tensors of `own` with those of the same name in `source`, of the same shapes and dtypes, on any device. Nothing is
 * changed if one does not fit.
 */
export async function overwrite(
  op: string,
  own: ReadonlyMap<string, Tensor>,
  source: ReadonlyMap<string, Tensor>,
): Promise<void> {
  if (!(source instanceof Map)) throw new OptionError(`${op}: expected a Map of tensors, got ${describe(source)}`);
  for (const name of source.keys()) {
    if (!own.has(name))
      throw new OptionError(
        `${op}: expected only the names of this state, got ${typeof name === 'string' ? name : describe(name)}`,
      );
  }
  for (const [name, target] of own) {
    const tensor = source.get(name);
    if (!tensor) throw new OptionError(`${op}: expected a tensor named ${name}, got none`);
    checkTensor(op, name, tensor);
    checkTensor(op, `${name} of this state`, target);
    checkShape(op, name, tensor, target.shape);
    if (tensor.dtype !== target.dtype) {
      throw new DTypeError(`${op}: expected ${name} of dtype ${target.dtype}, got ${tensor.dtype}`);
    }
  }
  for (const [name, target] of own) {
    const bits = await (source.get(name) as Tensor).raw();
    target.device.write(op, target.arg.buffer, new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
  }
}
