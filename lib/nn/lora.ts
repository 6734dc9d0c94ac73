// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { isRecording, noGrad } from '../autograd/tape.js';
import {
  checkBoolean,
  checkFloat,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkPositive,
  checkShape,
} from '../check.js';
import { describe, shorten } from '../describe.js';
import { FLOAT_DTYPES, isFloat, type FloatDType } from '../dtype.js';
import { FormatError, OptionError } from '../errors.js';
import { parseJsonText } from '../formats/json.js';
import { readSafetensors, writeSafetensors } from '../formats/safetensors.js';
import { add } from '../ops/binary.js';
import { cast } from '../ops/cast.js';
import { dropout } from '../ops/dropout.js';
import { linear } from '../ops/linear.js';
import {
  checkQuantizeTernaryOptions,
  dequantizeTernary,
  QUANTIZE_TERNARY_OPTIONS,
  quantizeTernary,
  type QuantizeTernaryOptions,
} from '../ops/quantize-ternary.js';
import { scale } from '../ops/scale.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import { transpose } from '../ops/transpose.js';
import { dropoutThreshold } from '../random.js';
import { keep, tidy } from '../scope.js';
import { uniform, zeros, type Tensor } from '../tensor.js';
import { Linear, TernaryLinear } from './linear.js';
import { Module, parameter } from './module.js';

/** Options of {@link applyLora}. */
export interface LoraOptions {
  /** Features of the narrow middle, r. Default 8. */
  rank?: number;
  /** The update counts alpha / rank times. Default 16. */
  alpha?: number;
  /**
   * Probability that a feature of an adapter's input is dropped while the adapter trains ({@link Module.train}, at first it does) and gradients
   * are recorded; see {@link dropout}. Default 0.
   */
  dropout?: number;
  /**
   * Which linear layers get an adapter: names of layers, whole (`layers.0.attention.query`) or their last parts (`query`,
   * `attention.query`), or an expression that is searched in the whole name. Default: all of them.
   */
  targets?: readonly string[] | RegExp;
  /**
   * Of the adapters. Default: that of the layer's weight or, if it is packed, of its bias or else of the first float tensor of the model; so
   * that of the activations, normally. Any other is cast to and from.
   */
  dtype?: FloatDType;
}

/** A layer that can carry an adapter. */
type Adaptable = Linear | TernaryLinear;

/** What an adapter has besides its tensors. */
interface Scaling {
  alpha: number;
  dropout: number;
}

/**
 * The low-rank update of one linear layer: (alpha / rank) · (x Aᵀ) Bᵀ is added to what the layer gives (Hu et al., "LoRA: low-rank adaptation
 * of large language models", 2021). {@link applyLora} makes them.
 */
export class LoraAdapter extends Module {
  /** A, [rank, inputs] */
  a: Tensor;
  /** B, [outputs, rank] */
  b: Tensor;
  /** The update counts alpha / rank times. */
  readonly alpha: number;
  /** Probability that a feature of x is dropped in training. */
  readonly dropout: number;

  /** @internal Takes over both tensors, of one float dtype and device. */
  constructor(a: Tensor, b: Tensor, { alpha, dropout: probability }: Scaling) {
    super();
    this.a = parameter(a);
    this.b = parameter(b);
    this.alpha = alpha;
    this.dropout = probability;
  }

  /** Features of the narrow middle. */
  get rank(): number {
    return this.a.shape[0];
  }

  /**
   * y + (alpha / rank) · (dropout(x) Aᵀ) Bᵀ. The factor is applied in the middle, where there is least to multiply. Nothing is dropped under
   * {@link noGrad}, or after {@link Module.eval}.
   *
   * @param x [..., inputs], the layer's input.
   * @param y [..., outputs], what the layer makes of it.
   * @returns [..., outputs], y's dtype.
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor, y: Tensor): Tensor {
    checkFloat('LoraAdapter', 'x', x);
    checkFloat('LoraAdapter', 'y', y);
    return tidy(() => {
      const kept = this.training && isRecording() ? dropout(x, this.dropout) : x;
      const middle = linear(as(kept, this.a.dtype), this.a);
      const update = linear(scale(middle, this.alpha / this.rank), this.b);
      return add(y, as(update, y.dtype));
    });
  }
}

function as(x: Tensor, dtype: Tensor['dtype']): Tensor {
  return x.dtype === dtype ? x : cast(x, dtype);
}

/** What a layer's activations are, as far as the model shows it. */
function dtypeOf({ weight, bias }: Adaptable, model: Module): FloatDType {
  if (!(weight instanceof TernaryTensor)) return weight.dtype as FloatDType;
  if (bias) return bias.dtype as FloatDType;
  const scales = new Set(
    [...model.modules().values()].map(
      (each) => each instanceof TernaryLinear && 'scale' in each.weight && each.weight.scale,
    ),
  );
  const other = [...model.state().values()].find((each) => isFloat(each.dtype) && !scales.has(each));
  return (other?.dtype ?? 'float32') as FloatDType;
}

/** The linear layers of a model by name. */
function linearLayers(op: string, model: Module): Map<string, Adaptable> {
  if (!(model instanceof Module)) throw new OptionError(`${op}: expected a Module for model, got ${describe(model)}`);
  const found = [...model.modules()].filter((each): each is [string, Adaptable] => {
    return each[1] instanceof Linear || each[1] instanceof TernaryLinear;
  });
  return new Map(found);
}

function adaptersOf(op: string, model: Module): { name: string; layer: Adaptable; lora: LoraAdapter }[] {
  return [...linearLayers(op, model)].flatMap(([name, layer]) =>
    layer.lora ? [{ name, layer, lora: layer.lora }] : [],
  );
}

function chosen(
  op: string,
  layers: ReadonlyMap<string, Adaptable>,
  targets: LoraOptions['targets'],
): [string, Adaptable][] {
  const all = [...layers];
  if (targets === undefined) {
    if (all.length === 0) throw new OptionError(`${op}: expected a model with linear layers, got none`);
    return all;
  }
  if (targets instanceof RegExp) {
    // String.search looks from the start whatever the expression's flags and history are.
    const matching = all.filter(([name]) => name.search(targets) >= 0);
    if (matching.length === 0) {
      throw new OptionError(
        `${op}: expected an expression that names linear layers for targets, got ${String(targets)}`,
      );
    }
    return matching;
  }
  if (!Array.isArray(targets) || targets.length === 0) {
    throw new OptionError(`${op}: expected a RegExp or an array of names for targets, got ${describe(targets)}`);
  }
  const isNamed = (name: string, target: string): boolean => name === target || name.endsWith(`.${target}`);
  for (const target of targets as readonly string[]) {
    if (typeof target !== 'string' || !all.some(([name]) => isNamed(name, target))) {
      throw new OptionError(`${op}: expected names of linear layers for targets, got ${describe(target)}`);
    }
  }
  return all.filter(([name]) => (targets as readonly string[]).some((target) => isNamed(name, target)));
}

function checkBare(op: string, layers: readonly [string, Adaptable][]): void {
  const taken = layers.find(([, layer]) => layer.lora);
  if (taken) throw new OptionError(`${op}: expected layers without an adapter, got ${taken[0] || 'one'} with one`);
}

/** Puts adapters on layers. What else the model has is constant from now on. */
function attachAdapters(model: Module, adapters: readonly { layer: Adaptable; lora: LoraAdapter }[]): void {
  for (const { layer, lora } of adapters) layer.lora = lora;
  const trained = new Set(adaptersOf('applyLora', model).flatMap(({ lora }) => [lora.a, lora.b]));
  for (const tensor of model.state().values()) {
    if (trained.has(tensor)) continue;
    tensor.clearGrad();
    tensor.requiresGrad = false;
  }
}

/**
 * Puts a low-rank adapter on linear layers, in place: y becomes base(x) + (alpha / rank) · (x Aᵀ) Bᵀ (Hu et al., 2021). A is drawn from the
 * library's generator, uniform within ±1/√inputs (Kaiming's bound as the PEFT library takes it), and B is zero, so that the model computes at
 * first what it did before. Only adapters are trained from now on: every other tensor of the model no longer requires a gradient, and drops
 * the one it has. Give `model.parameters()` to a new optimizer.
 *
 * The layers may be {@link Linear} or {@link TernaryLinear}, also frozen ones: the packed weight then stays as it is, and gradients pass to x
 * through it. The adapter sees x itself, not its rounding to int8. Parameters are named after the layer: `layers.0.attention.query.lora.a`,
 * `….lora.b`.
 *
 * @throws OptionError if targets name no linear layer, or one that has an adapter; OutOfMemoryError. Nothing is changed then.
 */
export function applyLora(model: Module, options: LoraOptions = {}): void {
  const op = 'applyLora';
  const layers = linearLayers(op, model);
  checkOptions(op, options, ['rank', 'alpha', 'dropout', 'targets', 'dtype']);
  const rank = checkInteger(op, 'rank', options.rank ?? 8, 1, 2 ** 31 - 1);
  const scaling = { alpha: checkPositive(op, 'alpha', options.alpha ?? 16), dropout: options.dropout ?? 0 };
  dropoutThreshold(op, scaling.dropout);
  if (options.dtype !== undefined) checkOneOf(op, 'dtype', options.dtype, FLOAT_DTYPES);
  const targets = chosen(op, layers, options.targets);
  checkBare(op, targets);

  const made: Tensor[] = [];
  const make = (tensor: Tensor): Tensor => {
    made.push(keep(tensor));
    return tensor;
  };
  try {
    const adapters = targets.map(([, layer]) => {
      const [outputs, inputs] = layer.weight.shape;
      const { device } = layer.weight;
      const dtype = options.dtype ?? dtypeOf(layer, model);
      const bound = 1 / Math.sqrt(inputs);
      const a = make(uniform([rank, inputs], { low: -bound, high: bound, dtype, device }));
      const b = make(zeros([outputs, rank], { dtype, device }));
      return { layer, lora: new LoraAdapter(a, b, scaling) };
    });
    attachAdapters(model, adapters);
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  }
}

/**
 * Folds every adapter of a model into the weight it is on, and removes it: W becomes W + (alpha / rank) · B A, computed in float32 and rounded
 * once to W's dtype. Results are the same but for that rounding and the order of sums. The weights stay constant until you set `requiresGrad`.
 *
 * @param options `requantize` (default false): allow it for {@link TernaryLinear} too. Its weight is rounded to trits, after which the update
 * is there only as far as it changed a trit or the scale: results differ, and an update smaller than half the scale may vanish. A frozen
 * layer gets a new packed weight, {@link quantizeTernary} of the sum: with its defaults for true, or with the options given instead.
 * @throws OptionError if there is no adapter, or one on a TernaryLinear without `requantize`; nothing is changed then. OutOfMemoryError: the
 * layers before are merged, this one and those behind it are not.
 */
export function mergeLora(model: Module, options: { requantize?: boolean | QuantizeTernaryOptions } = {}): void {
  const op = 'mergeLora';
  const adapters = adaptersOf(op, model);
  checkOptions(op, options, ['requantize']);
  const requantize = options.requantize ?? false;
  const quantization = typeof requantize === 'object' ? requantize : {};
  if (requantize !== quantization) checkBoolean(op, 'requantize', requantize as boolean);
  checkOptions(op, quantization, QUANTIZE_TERNARY_OPTIONS);
  checkQuantizeTernaryOptions(op, quantization);
  if (adapters.length === 0) throw new OptionError(`${op}: expected a model with adapters, got none`);
  const ternary = adapters.find(({ layer }) => layer instanceof TernaryLinear);
  if (ternary && requantize === false) {
    throw new OptionError(
      `${op}: expected requantize: true, as the sum is rounded to trits, for a ternary layer, got ${ternary.name || 'one'} without it`,
    );
  }
  noGrad(() => {
    for (const { layer, lora } of adapters) {
      tidy(() => merge(layer, lora, quantization));
      lora.dispose();
      layer.lora = null;
    }
  });
}

function merge(layer: Adaptable, { a, b, alpha, rank }: LoraAdapter, quantization: QuantizeTernaryOptions): void {
  const product = linear(as(b, 'float32'), transpose(as(a, 'float32'))); // B A, [outputs, inputs]
  const update = scale(product, alpha / rank);
  const { weight } = layer;
  if (weight instanceof TernaryTensor) {
    const packed = quantizeTernary(add(dequantizeTernary(weight), update), quantization);
    packed.tensors().forEach(keep);
    weight.dispose();
    layer.weight = packed;
  } else {
    const sum = add(as(weight, 'float32'), update);
    weight.device.backend.cast({ x: sum.arg, out: weight.arg });
  }
}

/**
 * The adapters of a model, by name: `layers.0.attention.query.lora.a`. The tensors are the model's own.
 *
 * @throws OptionError if model is no Module.
 */
export function loraState(model: Module): Map<string, Tensor> {
  return new Map(
    adaptersOf('loraState', model).flatMap(({ name, lora }) => [
      [parameterName(name, 'a'), lora.a],
      [parameterName(name, 'b'), lora.b],
    ]),
  );
}

function parameterName(layer: string, which: 'a' | 'b'): string {
  return `${layer === '' ? '' : `${layer}.`}lora.${which}`;
}

const FORMAT = 'ternflash-lora';

/**
 * Writes the adapters of a model, and nothing else of it, to a safetensors file; each layer's alpha and dropout are in the file's metadata. The
 * file appears whole or not at all.
 *
 * @throws OptionError if there is no adapter; the error of the file system.
 */
export async function saveLora(model: Module, file: string): Promise<void> {
  const adapters = adaptersOf('saveLora', model);
  if (adapters.length === 0) throw new OptionError('saveLora: expected a model with adapters, got none');
  const scalings = adapters.map(({ name, lora: { alpha, dropout: probability } }): [string, Scaling] => [
    name,
    { alpha, dropout: probability },
  ]);
  const layers = JSON.stringify(Object.fromEntries(scalings));
  await writeSafetensors(file, loraState(model), { format: FORMAT, layers });
}

/**
 * Puts the adapters of a file that {@link saveLora} wrote on the layers they name, as {@link applyLora} does: the model needs no adapters
 * there yet, and only adapters are trained from now on. They drop if the model trains, and not if it is in evaluation.
 *
 * @throws FormatError if the file is not one; OptionError if it names a layer that the model lacks, or that has an adapter; ShapeError if an
 * adapter does not fit its layer; OutOfMemoryError. Nothing is changed then.
 */
export async function loadLora(model: Module, file: string): Promise<void> {
  const op = 'loadLora';
  const layers = linearLayers(op, model);
  const { tensors, metadata } = await readSafetensors(file, { device: 'reference' });
  const made: Tensor[] = [];
  try {
    const scalings = readScalings(op, file, metadata);
    const expected = new Set(
      Object.keys(scalings).flatMap((name) => [parameterName(name, 'a'), parameterName(name, 'b')]),
    );
    const extra = [...tensors.keys()].find((name) => !expected.has(name));
    if (extra !== undefined) throw new FormatError(`${op}: expected only the adapters listed, got ${extra}`, file, 8);
    const parts = Object.entries(scalings).map(([name, scaling]) => {
      const layer = layers.get(name);
      if (!layer) throw new OptionError(`${op}: expected names of linear layers of this model, got ${name}`);
      const [a, b] = (['a', 'b'] as const).map((which) => {
        const tensor = tensors.get(parameterName(name, which));
        if (!tensor) throw new FormatError(`${op}: expected a tensor ${parameterName(name, which)}, got none`, file, 8);
        return tensor;
      });
      const [outputs, inputs] = layer.weight.shape;
      checkShape(op, parameterName(name, 'a'), a, ['rank', inputs], 'to match the layer');
      checkShape(op, parameterName(name, 'b'), b, [outputs, a.shape[0]], 'to match the layer');
      const dtype = FLOAT_DTYPES.find((each) => each === a.dtype && each === b.dtype);
      if (!dtype) throw new FormatError(`${op}: expected one float dtype, got ${a.dtype} and ${b.dtype}`, file, 8);
      return { name, layer, a, b, scaling };
    });
    const adapters = [];
    for (const { layer, a, b, scaling } of parts) {
      const { device } = layer.weight;
      for (const tensor of [a, b]) made.push(keep(await tensor.to({ device })));
      const [ownA, ownB] = made.slice(-2);
      adapters.push({ layer, lora: new LoraAdapter(ownA, ownB, scaling).train(model.training) });
    }
    // Looked at last, with nothing awaited in between: two loads at once must not both find a layer bare.
    checkBare(
      op,
      parts.map(({ name, layer }) => [name, layer]),
    );
    attachAdapters(model, adapters);
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  } finally {
    for (const tensor of tensors.values()) tensor.dispose();
  }
}

function readScalings(op: string, file: string, metadata: Record<string, string>): Record<string, Scaling> {
  if (metadata.format !== FORMAT) {
    throw new FormatError(`${op}: expected adapters saved by saveLora, got format ${metadata.format}`, file, 8);
  }
  try {
    const layers = parseJsonText(file, 8, metadata.layers) as Record<string, Scaling>;
    for (const { alpha, dropout: probability } of Object.values(layers)) {
      checkPositive(op, 'alpha', alpha);
      dropoutThreshold(op, probability);
    }
    return layers;
  } catch {
    const got = shorten(String(metadata.layers));
    throw new FormatError(`${op}: expected alpha and dropout by layer, got ${got}`, file, 8);
  }
}

/** @internal Whether any layer carries an adapter. */
export function hasLora(model: Module): boolean {
  return adaptersOf('hasLora', model).length > 0;
}
