// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdir } from 'node:fs/promises';
import * as path from 'node:path';
import { checkObject, checkOneOf, checkOptions, checkPath } from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import { writeAtomically } from '../formats/atomic-file.js';
import { encodeTernary } from '../formats/encode-ternary.js';
import { bytesOf, typeNamed, type GgufType } from '../formats/gguf-types.js';
import type { GgufValue } from '../formats/gguf-values.js';
import { writeGguf, type GgufTensor } from '../formats/gguf-writer.js';
import { payloadOf, writePayloads, type TensorPayload } from '../formats/safetensors.js';
import { Linear, TernaryLinear } from '../nn/linear.js';
import { hasLora } from '../nn/lora.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import type { Tensor } from '../tensor.js';
import { CausalLM } from './causal-lm.js';
import { ggufArchitecture, ggufMetadata, ggufRopeFactors, transformersConfig } from './config-files.js';
import { llamaRowOrder, namesElsewhere, type Naming } from './tensor-names.js';

/** Options of {@link exportModel}. */
export interface ExportModelOptions {
  /** Default: `gguf` if the name ends so, else `transformers`. */
  format?: 'transformers' | 'gguf';
  /** How a GGUF file holds frozen ternary layers. I2_S is what bitnet.cpp reads, the others llama.cpp. Default TQ2_0. */
  ternary?: 'TQ1_0' | 'TQ2_0' | 'I2_S';
  /** More metadata of a GGUF file, such as its tokenizer. Default none. */
  metadata?: Readonly<Record<string, GgufValue>>;
}

/**
 * Writes a model so that others read it: for Transformers a folder with config.json and model.safetensors, for llama.cpp and bitnet.cpp a GGUF file. Frozen
 * ternary layers are written as packed trits and their scale (for Transformers `autobitlinear`, `offline`), others as their float masters (`online`; GGUF
 * files hold none). Every file appears whole or not at all.
 *
 * What is lost: nothing in a Transformers folder and with I2_S; TQ1_0 and TQ2_0 hold scales as float16, and a GGUF file holds what is trained in one axis, norms
 * and biases, as float32. {@link loadModel} reads all of them.
 *
 * @param location a folder, which is made if it is not there, or the name of a GGUF file. Files of the same names are replaced.
 * @throws OptionError if the format has no words for the model: no architecture that computes the same, a scale for each row in a ternary layer, adapters (merge
 * them before); ShapeError if a ternary layer does not fill whole blocks of the layout; the error of the file system.
 */
export async function exportModel(model: CausalLM, location: string, options: ExportModelOptions = {}): Promise<void> {
  const op = 'exportModel';
  checkOptions(op, options, ['format', 'ternary', 'metadata']);
  if (!(model instanceof CausalLM))
    throw new OptionError(`${op}: expected a CausalLM for model, got ${describe(model)}`);
  checkPath(op, 'location', location);
  if (options.metadata !== undefined) checkObject(op, 'metadata', options.metadata);
  const format = checkOneOf(op, 'format', formatOf(location, options), ['transformers', 'gguf']);
  const ternary = checkOneOf(op, 'ternary', options.ternary ?? 'TQ2_0', ['TQ1_0', 'TQ2_0', 'I2_S']);
  if (hasLora(model)) throw new OptionError(`${op}: expected a model without LoRA adapters, got one with some`);
  const modules = [...model.modules().values()];
  const layers = modules.filter((each) => each instanceof TernaryLinear);
  if (layers.length > 0 && modules.some((each) => each instanceof Linear))
    throw new OptionError(`${op}: expected linear layers that are all ternary or all not, got some of both`);
  const modelConfig = { ...model.config, ternary: layers.length > 0 };
  const frozen = layers.filter((each) => each.isFrozen).length;
  if (frozen !== 0 && frozen !== layers.length)
    throw new OptionError(
      `${op}: expected ternary layers that are all frozen or all not, got ${frozen} of ${layers.length}`,
    );
  if (format === 'gguf' && frozen < layers.length)
    throw new OptionError(`${op}: expected frozen ternary layers for a GGUF file, got some that are trained`);
  if (format === 'transformers') {
    const config = transformersConfig(op, modelConfig, frozen > 0);
    const payloads = transformersPayloads(op, model);
    await mkdir(location, { recursive: true });
    await writePayloads(path.join(location, 'model.safetensors'), payloads, { format: 'pt' });
    const text = `${JSON.stringify(config, null, 2)}\n`;
    await writeAtomically(path.join(location, 'config.json'), (handle) => handle.writeFile(text));
    return;
  }
  const metadata = {
    ...ggufMetadata(op, modelConfig),
    'general.file_type': { type: 'u32', value: fileType(model, frozen > 0 ? ternary : null) } as const,
    ...options.metadata,
  };
  const tensors = new Map<string, GgufTensor>();
  for (const [name, payload] of ggufPayloads(model, ggufArchitecture(op, modelConfig), ternary))
    tensors.set(name, inPieces(payload));
  await writeGguf(location, { metadata, tensors });
}

/** @internal What {@link exportModel} writes to a place. */
export function formatOf(location: string, { format }: ExportModelOptions): Naming {
  return format ?? (location.toLowerCase().endsWith('.gguf') ? 'gguf' : 'transformers');
}

/** A payload as the writer of GGUF files reads it: from the beginning to the end. */
function inPieces(payload: TensorPayload): GgufTensor {
  let whole: Uint8Array | null = null;
  return {
    type: payload.type,
    shape: payload.shape,
    async read(begin = 0, length = payload.byteLength - begin) {
      const bytes = whole ?? (await payload.bytes());
      whole = begin + length < payload.byteLength ? bytes : null;
      return bytes.subarray(begin, begin + length);
    },
  };
}

/** llama.cpp's name for what most of a file is made of (llama.h: enum llama_ftype); 40 is bitnet.cpp's. */
function fileType(model: CausalLM, ternary: ExportModelOptions['ternary'] | null): number {
  if (ternary) return { TQ1_0: 36, TQ2_0: 37, I2_S: 40 }[ternary];
  return { float32: 0, float16: 1, bfloat16: 32 }[model.config.dtype];
}

/** Every tensor under its name in Transformers. */
function transformersPayloads(op: string, model: CausalLM): Map<string, TensorPayload> {
  const payloads = new Map<string, TensorPayload>();
  for (const [name, weight] of weightsIn(model)) {
    const [elsewhere] = namesElsewhere(name, 'transformers');
    if (!(weight instanceof TernaryTensor)) {
      payloads.set(elsewhere, payloadOf(weight));
      continue;
    }
    if (weight.scale.size !== 1)
      throw new OptionError(
        `${op}: expected one scale for ${name}, got ${weight.scale.size}, for which Transformers has no place`,
      );
    payloads.set(elsewhere, packedTrits(weight));
    payloads.set(`${elsewhere}_scale`, payloadOf(weight.scale));
  }
  return payloads;
}

/** Every tensor under its name in llama.cpp. */
function ggufPayloads(
  model: CausalLM,
  architecture: string,
  layout: 'TQ1_0' | 'TQ2_0' | 'I2_S',
): Map<string, TensorPayload> {
  const payloads = new Map<string, TensorPayload>();
  for (const [name, weight] of weightsIn(model)) {
    const [elsewhere] = namesElsewhere(name, 'gguf');
    const payload =
      weight instanceof TernaryTensor
        ? ternaryBlocks(weight, layout)
        : weight.shape.length === 1
          ? inFloat32(weight)
          : payloadOf(weight);
    const order = architecture === 'llama' ? llamaRowOrder(model.config, name) : null;
    payloads.set(elsewhere, order ? arranged(payload, order) : payload);
  }
  const factors = ggufRopeFactors(model.config);
  if (factors) {
    payloads.set('rope_freqs.weight', {
      type: 'F32',
      shape: [factors.length],
      byteLength: factors.byteLength,
      bytes: () => Promise.resolve(new Uint8Array(factors.buffer)),
    });
  }
  return payloads;
}

/** The model's tensors by the names of its state; a ternary weight is one of them. */
function weightsIn(model: CausalLM): Map<string, Tensor | TernaryTensor> {
  const weights = new Map<string, Tensor | TernaryTensor>();
  const modules = model.modules();
  for (const [name, each] of model.state()) {
    const layer = modules.get(name.replace(/\.weight\.(packed|scale)$/, ''));
    if (layer instanceof TernaryLinear && layer.isFrozen)
      weights.set(name.replace(/\.(packed|scale)$/, ''), layer.weight);
    else weights.set(name, each);
  }
  return weights;
}

function packedTrits(weight: TernaryTensor): TensorPayload {
  const [rows, cols] = weight.shape;
  const shape = [Math.ceil(rows / 4), cols];
  return { type: 'U8', shape, byteLength: shape[0] * cols, bytes: () => encodeTernary(weight, 'transformers') };
}

function ternaryBlocks(weight: TernaryTensor, layout: 'TQ1_0' | 'TQ2_0' | 'I2_S'): TensorPayload {
  return {
    type: layout,
    shape: weight.shape,
    byteLength: bytesOf(typeNamed(layout) as GgufType, weight.shape[0] * weight.shape[1]),
    bytes: () => encodeTernary(weight, layout),
  };
}

function inFloat32(tensor: Tensor): TensorPayload {
  return {
    type: 'F32',
    shape: tensor.shape,
    byteLength: tensor.size * 4,
    async bytes() {
      const values = (await tensor.data()) as Float32Array;
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    },
  };
}

/** Rows in another order: row r goes where `order[r]` says. */
function arranged(payload: TensorPayload, order: Int32Array): TensorPayload {
  return {
    ...payload,
    async bytes() {
      const from = await payload.bytes();
      const tail = typeNamed(payload.type)?.tailBytes ?? 0;
      const rowBytes = (from.length - tail) / order.length;
      const to = from.slice();
      order.forEach((place, row) => to.set(from.subarray(row * rowBytes, (row + 1) * rowBytes), place * rowBytes));
      return to;
    },
  };
}
