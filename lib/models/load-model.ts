// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import * as path from 'node:path';
import { noGrad } from '../autograd/tape.js';
import { checkBoolean, checkFunction, checkOneOf, checkOptions, checkPath } from '../check.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { createDryDevice } from '../dry-device.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { DTypeError, FormatError, OptionError, ShapeError } from '../errors.js';
import { parseJsonText, readJson } from '../formats/json.js';
import { openTensors } from '../formats/open-tensors.js';
import { readFloats } from '../formats/read-floats.js';
import { readTernary, type StoredTernary } from '../formats/read-ternary.js';
import type { StoredTensor, TensorFile } from '../formats/stored-tensor.js';
import { TernaryLinear } from '../nn/linear.js';
import { embedding } from '../ops/embedding.js';
import { quantizeTernary } from '../ops/quantize-ternary.js';
import { reshape } from '../ops/reshape.js';
import type { TernaryTensor } from '../ops/ternary-tensor.js';
import { keep, outsideScopes, tidy } from '../scope.js';
import { tensor, type Tensor } from '../tensor.js';
import { CAUSAL_LM_FORMAT, CausalLM, type CausalLMOptions } from './causal-lm.js';
import { readGgufConfig, readTransformersConfig, type LinearWeights, type ModelConfig } from './model-config.js';
import { llamaRowOrder, namesElsewhere, type Naming } from './tensor-names.js';

/** Options of {@link loadModel}. */
export interface LoadModelOptions {
  /** Where it is to run. Default: the default device. */
  device?: DeviceName | Device;
  /** Of the weights that are not packed, and of activations. Default: what the checkpoint says, bfloat16 if it says nothing. */
  dtype?: FloatDType;
  /**
   * Float weights stay float and can be trained. Packed ones cannot: nobody knows the floats they were rounded from; train adapters on them, see
   * {@link applyLora}. Default false: all is constant, and masters of ternary weights are packed while they are read.
   */
  trainable?: boolean;
  /** Called with what is known to be wrong with such files and does not keep the model from running. Default: nobody is told. */
  onWarning?: (warning: string) => void;
}

/** A published checkpoint, its files open. */
export interface Checkpoint {
  config: ModelConfig;
  file: TensorFile;
  naming: Naming;
}

/**
 * Opens a checkpoint: a folder with config.json and safetensors files, as Transformers has them, or a GGUF file.
 *
 * @throws FormatError if it is not well formed or not a model that can be run; the error of the file system.
 */
export async function openCheckpoint(location: string): Promise<Checkpoint> {
  const isFolder = (await stat(location)).isDirectory();
  const json = isFolder ? await readConfig(path.join(location, 'config.json')) : null;
  const file = await openTensors(location);
  try {
    if (json) return { config: json, file, naming: 'transformers' };
    if (file.format !== 'gguf') {
      throw new FormatError(
        `${location}: expected a folder with config.json and safetensors files, or a GGUF file, got a safetensors file alone`,
        location,
        0,
      );
    }
    const config = readGgufConfig(location, file.metadata, {
      has: (name) => file.tensors.has(name),
      shapeOf: (name) => file.tensors.get(name)?.shape,
      typeOf: (name) => file.tensors.get(name)?.type,
    });
    return { config, file, naming: 'gguf' };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** What a config.json says. */
async function readConfig(file: string): Promise<ModelConfig> {
  return readTransformersConfig(file, await readJson(file));
}

/**
 * Reads a published checkpoint: Llama, Mistral, Qwen2, Qwen3 and BitNet b1.58 models as Transformers or llama.cpp store them, ternary weights in any of the
 * layouts in use. What is computed is what those libraries compute: the integer path for ternary layers, the rest in `dtype`. Also what `CausalLM.save`
 * wrote.
 *
 * @param location a folder with config.json and safetensors files, a GGUF file, or a file of `CausalLM.save`, which may be model.safetensors in a folder.
 * @throws FormatError if it is not well formed, is no model that can be run (it is named), or is known to compute nonsense; OptionError; DeviceError;
 * OutOfMemoryError; the error of the file system.
 */
export async function loadModel(location: string, options: LoadModelOptions = {}): Promise<CausalLM> {
  const op = 'loadModel';
  checkOptions(op, options, ['device', 'dtype', 'trainable', 'onWarning']);
  const device = deviceNamed(options.device ?? 'auto');
  const trainable = checkBoolean(op, 'trainable', options.trainable ?? false);
  if (options.dtype !== undefined) checkOneOf(op, 'dtype', options.dtype, FLOAT_DTYPES);
  if (options.onWarning !== undefined) checkFunction(op, 'onWarning', options.onWarning);
  checkPath(op, 'location', location);
  const own = await ownFile(location);
  if (own !== null) return loadOwn(own, options, device, trainable);
  const checkpoint = await openCheckpoint(location);
  try {
    const { config } = checkpoint;
    if (trainable && config.linear !== 'float' && config.linear !== 'masters') {
      throw new OptionError(
        `${op}: expected float weights to train, got packed trits: read it without \`trainable\` and train adapters (applyLora)`,
      );
    }
    const dtype = options.dtype ?? config.dtype ?? 'bfloat16';
    return await new Reader(checkpoint, { ...config.options, dtype }, device, trainable, options.onWarning).read();
  } finally {
    await checkpoint.file.close();
  }
}

/**
 * @internal Tokens that the model at `location` takes at most, 0 if it names no limit; what is there is not read further.
 *
 * @throws as {@link loadModel}.
 */
export async function contextLengthOf(location: string): Promise<number> {
  const own = await ownFile(location);
  if (own === null) {
    const { config, file } = await openCheckpoint(location);
    await file.close();
    return config.options.contextLength ?? 0;
  }
  const source = await openTensors(own);
  await source.close();
  const { config } = source.metadata;
  const { contextLength } = parseJsonText(own, 8, String(config)) as Partial<CausalLMOptions>;
  return typeof contextLength === 'number' ? contextLength : 0;
}

/** The file, if `CausalLM.save` wrote what is there; else null. */
async function ownFile(location: string): Promise<string | null> {
  const isFolder = (await stat(location)).isDirectory();
  const file = isFolder ? path.join(location, 'model.safetensors') : location;
  if (isFolder && (existsSync(path.join(location, 'config.json')) || !existsSync(file))) return null;
  const source = await openTensors(file);
  const isOwn = source.format === 'safetensors' && source.metadata.format === CAUSAL_LM_FORMAT;
  await source.close();
  return isOwn ? file : null;
}

async function loadOwn(file: string, options: LoadModelOptions, device: Device, trainable: boolean): Promise<CausalLM> {
  const model = await CausalLM.load(file, { device });
  try {
    if (options.dtype !== undefined) model.to({ dtype: options.dtype });
    if (!trainable) model.freeze();
    else if (model.parameters().length === 0)
      throw new OptionError(`loadModel: expected float weights to train, got a frozen model`);
    return model;
  } catch (error) {
    model.dispose();
    throw error;
  }
}

class Reader {
  private readonly state = new Map<string, Tensor>();
  private readonly used = new Set<string>();

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly options: CausalLMOptions & { dtype: FloatDType },
    private readonly device: Device,
    private readonly trainable: boolean,
    private readonly warn: (warning: string) => void = () => undefined,
  ) {}

  async read(): Promise<CausalLM> {
    const { file, naming } = this.checkpoint;
    try {
      if (naming === 'gguf') await this.readRopeFactors();
      const { shapes, ternary } = this.outline();
      for (const [name, shape] of shapes) {
        const stored = this.find(name);
        if (ternary.has(name)) await this.readWeight(name, stored, shape);
        else await this.readFloat(name, stored, shape);
      }
      this.checkTheRest();
      return CausalLM.fromState('loadModel', this.options, this.state, this.device);
    } catch (error) {
      for (const each of this.state.values()) each.dispose();
      if ([ShapeError, DTypeError, OptionError].some((type) => error instanceof type))
        throw new FormatError(`${file.path}: ${(error as Error).message}`, file.path, 0);
      throw error;
    }
  }

  /** The shapes of all tensors by name, and which are weights of ternary layers. */
  private outline(): { shapes: [name: string, shape: readonly number[]][]; ternary: Set<string> } {
    using model = outsideScopes(() => new CausalLM(this.options, { device: createDryDevice() }));
    const layers = [...model.modules()].filter(([, each]) => each instanceof TernaryLinear);
    return {
      shapes: [...model.state()].map(([name, { shape }]) => [name, shape]),
      ternary: new Set(layers.map(([name]) => `${name}.weight`)),
    };
  }

  private find(name: string): StoredTensor {
    const { file, naming } = this.checkpoint;
    const names = namesElsewhere(name, naming);
    const found = names.find((each) => file.tensors.has(each));
    if (found === undefined)
      throw new FormatError(`${file.path}: expected a tensor named ${names.join(' or ')}, got none`, file.path, 0);
    this.used.add(found);
    return file.tensors.get(found) as StoredTensor;
  }

  private async readFloat(name: string, stored: StoredTensor, shape: readonly number[]): Promise<void> {
    checkStoredShape(stored, shape);
    const floats = await readFloats(stored, { dtype: this.options.dtype, device: this.device });
    this.put(name, this.inOrder(floats, this.rowOrder(name)));
  }

  private async readWeight(name: string, stored: StoredTensor, shape: readonly number[]): Promise<void> {
    const { linear } = this.checkpoint.config;
    const { device } = this;
    const [rows, cols] = shape;
    if (linear === 'masters') {
      checkStoredShape(stored, shape);
      const dtype = this.trainable ? this.options.dtype : storedDType(stored);
      const masters = await readFloats(stored, { dtype, device });
      if (this.trainable) return this.put(name, masters);
      const weight = noGrad(() => outsideScopes(() => quantizeTernary(masters)));
      masters.dispose();
      return this.putTrits(name, weight);
    }
    if (linear === 'ternary blocks') {
      checkStoredShape(stored, shape);
      const weight = this.checked(stored, await readTernary(stored, { device }));
      await putTritsInOrder(weight, this.rowOrder(name));
      return this.putTrits(name, weight);
    }
    checkStoredShape(stored, [Math.ceil(rows / 4), cols]);
    const scale = await this.readScale(stored, linear);
    this.putTrits(name, this.checked(stored, await readTernary(stored, { rows, device, scale })));
  }

  /** The weight, unless what is computed with it would be nonsense. */
  private checked(stored: StoredTensor, { weight, invalidCodes, isZero }: StoredTernary): TernaryTensor {
    const { file, name, offset } = stored;
    if (weight === null)
      throw new FormatError(
        `${file}: expected one scale for all of ${name}, or one for each row, got others`,
        file,
        offset,
      );
    if (invalidCodes > 0) {
      weight.dispose();
      throw new FormatError(
        `${file}: expected codes from 0 to 2 in ${name}, got ${invalidCodes} codes of 3`,
        file,
        offset,
      );
    }
    if (isZero) this.warn(`${name} holds zeros only`);
    return weight;
  }

  /** The number that trits are multiplied by. */
  private async readScale(stored: StoredTensor, linear: LinearWeights): Promise<number> {
    const name = `${stored.name}_scale`;
    const scale = this.checkpoint.file.tensors.get(name);
    if (!scale)
      throw new FormatError(
        `${stored.file}: expected a scale named ${name} for packed trits, got none`,
        stored.file,
        stored.offset,
      );
    this.used.add(name);
    checkStoredShape(scale, [1]);
    const read = await readFloats(scale, { dtype: 'float32', device: this.device });
    const [value] = (await read.data()) as Float32Array;
    read.dispose();
    if (!(value > 0 && Number.isFinite(value)))
      throw new FormatError(
        `${scale.file}: expected a number above 0 for ${name}, got ${value}`,
        scale.file,
        scale.offset,
      );
    const divides = linear === 'packed, scale divides';
    // Mean magnitudes of weights lie far below 20, their inverses far above 1/20.
    if (divides ? value < 0.05 : value > 20) {
      this.warn(
        `${name} is ${value}: with linear_class ${divides ? 'bitlinear results are divided' : 'autobitlinear results are multiplied'} by it, which looks like the other way round`,
      );
    }
    return divides ? 1 / value : value;
  }

  private putTrits(name: string, weight: TernaryTensor): void {
    this.put(`${name}.packed`, weight.packed);
    this.put(`${name}.scale`, weight.scale);
  }

  private put(name: string, weight: Tensor): void {
    keep(weight).requiresGrad = this.trainable;
    this.state.set(name, weight);
  }

  /** Where each row of a tensor is in the file; null if in its place. */
  private rowOrder(name: string): Int32Array | null {
    if (this.checkpoint.naming !== 'gguf' || this.checkpoint.config.architecture !== 'llama') return null;
    const { heads, keyHeads = heads, hidden, headDim = hidden / heads } = this.options;
    return llamaRowOrder({ heads, keyHeads, headDim }, name);
  }

  private inOrder(weight: Tensor, order: Int32Array | null): Tensor {
    if (!order) return weight;
    const arranged = noGrad(() =>
      outsideScopes(() =>
        tidy(() => {
          const table = weight.shape.length === 1 ? reshape(weight, [order.length, 1]) : weight;
          return reshape(embedding(table, tensor(order, { device: this.device })), weight.shape);
        }),
      ),
    );
    weight.dispose();
    return arranged;
  }

  /** Llama 3.1 and its descendants: a factor for each frequency, which llama.cpp stores as a tensor. */
  private async readRopeFactors(): Promise<void> {
    const name = 'rope_freqs.weight';
    const stored = this.checkpoint.file.tensors.get(name);
    if (!stored) return;
    this.used.add(name);
    const read = await readFloats(stored, { dtype: 'float32', device: this.device });
    this.options.ropeScaling = { type: 'factors', factors: [...((await read.data()) as Float32Array)] };
    read.dispose();
  }

  /** What has no use: told, but for scales, without which the rest means something else. */
  private checkTheRest(): void {
    const { file, config } = this.checkpoint;
    const rest = [...file.tensors.keys()].filter((name) => !this.used.has(name) && !isKnownExtra(name));
    const scale = rest.find((name) => /[._]scale$/.test(name));
    if (scale !== undefined) {
      const { file: place, offset } = file.tensors.get(scale) as StoredTensor;
      throw new FormatError(
        `${place}: expected no scale named ${scale}, which nothing here is multiplied by`,
        place,
        offset,
      );
    }
    if (rest.length > 0) {
      const shown = rest.slice(0, 4).join(', ') + (rest.length > 4 ? `, and ${rest.length - 4} more` : '');
      this.warn(`${config.architecture} has no use for ${shown}`);
    }
    if (this.options.dtype === 'float16' && this.options.activation === 'relu2Glu')
      this.warn('squared ReLU overflows float16 in published models: bfloat16 is what they were trained in');
  }
}

/** Tables that older versions stored, and an output projection that is the embedding. */
const isKnownExtra = (name: string): boolean => /rotary_emb\.inv_freq$/.test(name) || name === 'lm_head.weight';

function checkStoredShape(stored: StoredTensor, expected: readonly number[]): void {
  if (stored.shape.length === expected.length && expected.every((size, axis) => size === stored.shape[axis])) return;
  throw new FormatError(
    `${stored.file}: expected ${stored.name} of shape [${expected.join(', ')}], got [${stored.shape.join(', ')}]`,
    stored.file,
    stored.offset,
  );
}

/** Of masters, which are rounded from what is stored and not from a rounding of it. */
function storedDType({ type }: StoredTensor): FloatDType {
  return type === 'F16' ? 'float16' : type === 'BF16' ? 'bfloat16' : 'float32';
}

async function putTritsInOrder({ packed, scale }: TernaryTensor, order: Int32Array | null): Promise<void> {
  if (!order) return;
  const from = (await packed.raw()) as Uint8Array;
  const rowBytes = packed.shape[1];
  const to = new Uint8Array(from.length);
  order.forEach((source, row) => to.set(from.subarray(source * rowBytes, (source + 1) * rowBytes), row * rowBytes));
  packed.write(to);
  if (scale.size === 1) return;
  const scales = (await scale.data()) as Float32Array;
  scale.write(Float32Array.from(order, (source) => scales[source]));
}
