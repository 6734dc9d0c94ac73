// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkShape } from '../check.js';
import { DTypeError, OptionError } from '../errors.js';
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
    const own = this.state();
    for (const name of source.keys()) {
      if (!own.has(name)) throw new OptionError(`loadState: expected only the names of this model, got ${name}`);
    }
    for (const [name, target] of own) {
      const tensor = source.get(name);
      if (!tensor) throw new OptionError(`loadState: expected a tensor named ${name}, got none`);
      checkShape('loadState', name, tensor, target.shape);
      if (tensor.dtype !== target.dtype) {
        throw new DTypeError(`loadState: expected ${name} of dtype ${target.dtype}, got ${tensor.dtype}`);
      }
    }
    for (const [name, target] of own) {
      const bits = await (source.get(name) as Tensor).raw();
      target.device.backend.write(target.arg.buffer, new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
    }
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
