// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkOptions, checkStrings, checkTensor } from '../check.js';
import { isFloat } from '../dtype.js';
import { OptionError } from '../errors.js';
import {
  checkQuantizeTernaryOptions,
  QUANTIZE_TERNARY_OPTIONS,
  quantizeTernary,
  type QuantizeTernaryOptions,
} from '../ops/quantize-ternary.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import { keep } from '../scope.js';
import { Tensor } from '../tensor.js';
import { Linear, TernaryLinear } from './linear.js';
import { hasLora } from './lora.js';
import { Module } from './module.js';
import { QuantizationSummary, type PreservedSummary, type QuantizedSummary } from './quantization-summary.js';

/** Options of {@link quantizeWeights} and {@link quantizeModel}. */
export interface QuantizeModelOptions extends QuantizeTernaryOptions {
  /** Smaller weights, counted in numbers, stay as they are. Default 1024. */
  minLayerSize?: number;
  /** Weights whose names contain one of these, in whatever case, stay as they are. Default embed, norm, lm_head. */
  skipPatterns?: readonly string[];
}

type Checked = Required<Pick<QuantizeModelOptions, 'minLayerSize' | 'skipPatterns'>> & {
  quantization: QuantizeTernaryOptions;
};

function checkModelOptions(op: string, options: QuantizeModelOptions): Checked {
  checkOptions(op, options, [...QUANTIZE_TERNARY_OPTIONS, 'minLayerSize', 'skipPatterns']);
  const { minLayerSize = 1024, skipPatterns = ['embed', 'norm', 'lm_head'], ...quantization } = options;
  checkQuantizeTernaryOptions(op, quantization);
  checkInteger(op, 'minLayerSize', minLayerSize, 0, 2 ** 53 - 1);
  checkStrings(op, 'skipPatterns', skipPatterns);
  return { minLayerSize, skipPatterns, quantization };
}

/** Why a weight stays as it is, or null. */
function skipReason(name: string, weight: Tensor, { minLayerSize, skipPatterns }: Checked): string | null {
  if (!isFloat(weight.dtype)) return `its dtype is ${weight.dtype}`;
  if (weight.shape.length !== 2) return `its rank is ${weight.shape.length}`;
  const pattern = skipPatterns.find((each) => name.toLowerCase().includes(each.toLowerCase()));
  if (pattern !== undefined) return `its name contains ${pattern}`;
  return weight.size < minLayerSize ? `it has fewer than ${minLayerSize} numbers` : null;
}

/** The ternary form of each weight; all of them or, if one cannot be rounded, none. */
async function quantizeAll(
  op: string,
  weights: ReadonlyMap<string, Tensor>,
  { quantization }: Checked,
): Promise<{ quantized: Map<string, TernaryTensor>; layers: QuantizedSummary[] }> {
  const { method, granularity } = checkQuantizeTernaryOptions(op, quantization);
  const quantized = new Map<string, TernaryTensor>();
  const layers: QuantizedSummary[] = [];
  try {
    for (const [name, weight] of weights) {
      const ternary = quantizeTernary(weight, quantization);
      ternary.tensors().forEach(keep);
      quantized.set(name, ternary);
      const scales = (await ternary.scale.data()) as Float32Array;
      if (!scales.every(Number.isFinite)) {
        throw new OptionError(`${op}: expected finite numbers for ${name}, got NaN or Infinity`);
      }
      const error = await ternary.quantizationError(weight);
      layers.push({
        name,
        shape: ternary.shape,
        method,
        granularity,
        ...(await ternary.statistics()),
        meanError: error.mean,
        maxError: error.max,
        relativeError: error.relative,
        bytesBefore: weight.bytes,
        bytesAfter: ternary.bytes,
      });
    }
  } catch (error) {
    for (const each of quantized.values()) each.dispose();
    throw error;
  }
  return { quantized, layers };
}

/**
 * Rounds the weight matrices among named tensors to trits: those of two axes and a float dtype that neither their size nor their name excludes.
 *
 * @param weights are not changed.
 * @returns `quantized`: new tensors, the caller's to dispose; `preserved`: the tensors given that stay as they are; and what was done.
 * @throws OptionError, also if a weight holds NaN or Infinity; DisposedError, OutOfMemoryError. Nothing is left behind then.
 */
export async function quantizeWeights(
  weights: ReadonlyMap<string, Tensor>,
  options: QuantizeModelOptions = {},
): Promise<{
  quantized: Map<string, TernaryTensor>;
  preserved: Map<string, Tensor>;
  summary: QuantizationSummary;
}> {
  const op = 'quantizeWeights';
  if (!(weights instanceof Map)) throw new OptionError(`${op}: expected a Map of tensors for weights`);
  const checked = checkModelOptions(op, options);
  for (const [name, weight] of weights) checkTensor(op, name, weight as Tensor);
  const chosen = new Map<string, Tensor>();
  const preserved = new Map<string, Tensor>();
  const reasons: PreservedSummary[] = [];
  for (const [name, weight] of weights as ReadonlyMap<string, Tensor>) {
    const reason = skipReason(name, weight, checked);
    if (reason === null) {
      chosen.set(name, weight);
    } else {
      preserved.set(name, weight);
      reasons.push({ name, shape: weight.shape, bytes: weight.bytes, reason });
    }
  }
  const { quantized, layers } = await quantizeAll(op, chosen, checked);
  return { quantized, preserved, summary: new QuantizationSummary(layers, reasons) };
}

/** Where a module holds another: in a field of its own or in an array. */
interface Slot {
  holder: object;
  key: string;
  layer: Linear;
}

/** The Linear layers below a module by the name of their weight, each with all the places that hold it. */
function findLinear(model: Module): Map<string, Slot[]> {
  const names = new Map<Linear, string>();
  const found = new Map<string, Slot[]>();
  const visit = (path: string, holder: object): void => {
    for (const [key, value] of Object.entries(holder) as [string, unknown][]) {
      if (holder instanceof Module && key.startsWith('_')) continue;
      const name = path === '' ? key : `${path}.${key}`;
      // A class derived from it may hold more than weight and bias.
      if (value instanceof Linear && value.constructor === Linear) {
        const weight = names.get(value) ?? `${name}.weight`;
        names.set(value, weight);
        found.set(weight, [...(found.get(weight) ?? []), { holder, key, layer: value }]);
      } else if (value instanceof Module || Array.isArray(value)) {
        visit(name, value);
      }
    }
  };
  visit('', model);
  return found;
}

function replaceLayer(slots: readonly Slot[], replacement: TernaryLinear): void {
  for (const { holder, key } of slots) (holder as Record<string, unknown>)[key] = replacement;
}

/** How many places of a model hold each tensor. */
function countUses(model: Module): Map<Tensor, number> {
  const uses = new Map<Tensor, number>();
  const seen = new Set<object>();
  const visit = (value: unknown): void => {
    if (value instanceof Tensor) uses.set(value, (uses.get(value) ?? 0) + 1);
    else if ((value instanceof Module || Array.isArray(value)) && !seen.has(value)) {
      seen.add(value);
      for (const [key, each] of Object.entries(value)) if (Array.isArray(value) || !key.startsWith('_')) visit(each);
    }
  };
  visit(model);
  return uses;
}

/**
 * Replaces the {@link Linear} layers of a model, in place, by frozen {@link TernaryLinear} layers, whose activations are rounded to int8, and frees
 * their float weights. A weight that other parts of the model hold too stays as it is. So does what is not the weight of a Linear layer: embeddings,
 * norms, biases, layers of classes derived from Linear. Biases of replaced layers become constant.
 *
 * @returns what was done. Its names are those of `model.state()` before.
 * @throws OptionError, also if a weight holds NaN or Infinity; DisposedError, OutOfMemoryError. The model is unchanged then.
 */
export async function quantizeModel(model: Module, options: QuantizeModelOptions = {}): Promise<QuantizationSummary> {
  const op = 'quantizeModel';
  if (!(model instanceof Module)) throw new OptionError(`${op}: expected a Module for model`);
  if (model instanceof Linear) {
    throw new OptionError(`${op}: expected a module that holds Linear layers for model, got a Linear layer`);
  }
  if (hasLora(model)) throw new OptionError(`${op}: expected a model without LoRA adapters, got one with some`);
  const checked = checkModelOptions(op, options);
  const state = model.state();
  for (const [name, tensor] of state) checkTensor(op, name, tensor);
  const layers = findLinear(model);
  const uses = countUses(model);
  const chosen = new Map<string, Tensor>();
  const preserved: PreservedSummary[] = [];
  for (const [name, tensor] of state) {
    const shared = (uses.get(tensor) ?? 0) > 1;
    const reason = layers.has(name)
      ? (skipReason(name, tensor, checked) ?? (shared ? 'another part of the model holds it too' : null))
      : 'it is not the weight of a Linear layer';
    if (reason === null) chosen.set(name, tensor);
    else preserved.push({ name, shape: tensor.shape, bytes: tensor.bytes, reason });
  }
  const { quantized, layers: summaries } = await quantizeAll(op, chosen, checked);
  for (const [name, ternary] of quantized) {
    const slots = layers.get(name) as Slot[];
    const { weight, bias } = slots[0].layer;
    replaceLayer(slots, TernaryLinear.frozen(ternary, bias));
    weight.dispose();
  }
  return new QuantizationSummary(summaries, preserved);
}
