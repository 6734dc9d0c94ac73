// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { checkBoolean, checkFunction, checkOptions, checkPath } from '../check.js';
import type { Device, DeviceName } from '../device.js';
import { FormatError, OptionError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import type { CausalLM } from './causal-lm.js';
import type { ExportModelOptions } from './export-model.js';
import { exportWithText } from './export-with-text.js';
import { loadModel } from './load-model.js';

/** Options of {@link convertModel}. */
export interface ConvertModelOptions extends ExportModelOptions {
  /** Where the work is done. Default: the default device. */
  device?: DeviceName | Device;
  /** Keep the float masters of ternary layers, where the checkpoint has them. Default false: they become packed trits. */
  masters?: boolean;
  /** Read what was written and compare it with what it was made of. Default false. */
  verify?: boolean;
  /** Called with what `loadModel` has to say, and if a GGUF file gets no tokenizer. Default: nobody is told. */
  onWarning?: (warning: string) => void;
}

/** What {@link convertModel} found different between the two checkpoints. */
export interface Difference {
  /** As in `model.state()`. */
  name: string;
  /** How many of its numbers, or bytes of packed trits, differ. */
  count: number;
  /** By how much at most; of packed trits 0. */
  largest: number;
  /** By what share of the number it was at most; of packed trits 0. */
  relative: number;
}

/** What {@link convertModel} has done. */
export interface Conversion {
  /** Tensors of the model. */
  tensors: number;
  /** Their bytes on the device. */
  bytes: number;
  /** What differs; empty where nothing does, null without `verify`. Only scales that float16 has to hold can. */
  differences: Difference[] | null;
  /** Files of the tokenizer that were copied. */
  copied: string[];
}

/**
 * Writes a checkpoint in another format: {@link loadModel} and {@link exportModel}, and the tokenizer: its files from folder to folder, and into a GGUF file if it
 * is a byte-level BPE.
 *
 * @param from as `loadModel` takes it.
 * @param to as `exportModel` takes it; not where `from` is.
 * @throws what those two throw.
 */
export async function convertModel(from: string, to: string, options: ConvertModelOptions = {}): Promise<Conversion> {
  const op = 'convertModel';
  checkOptions(op, options, ['device', 'masters', 'verify', 'onWarning', 'format', 'ternary', 'metadata']);
  const { device, masters, verify, onWarning, ...output } = options;
  const trainable = checkBoolean(op, 'masters', masters ?? false);
  if (onWarning !== undefined) checkFunction(op, 'onWarning', onWarning);
  checkPath(op, 'from', from);
  checkPath(op, 'to', to);
  if (path.resolve(from) === path.resolve(to))
    throw new OptionError(`${op}: expected another place to write to, got ${to}`);
  const placement = { ...(device !== undefined && { device }), trainable };
  using model = await loadModel(from, { ...placement, ...(onWarning && { onWarning }) });
  const copied = await exportWithText(from, model, to, { ...output, onWarning });
  let differences: Difference[] | null = null;
  if (checkBoolean(op, 'verify', verify ?? false)) {
    using written = await loadModel(to, { ...placement, dtype: model.config.dtype });
    differences = await compare(to, model, written);
  }
  const state = [...model.state().values()];
  return { tensors: state.length, bytes: state.reduce((sum, each) => sum + each.bytes, 0), differences, copied };
}

async function compare(file: string, model: CausalLM, written: CausalLM): Promise<Difference[]> {
  const [ours, theirs] = [model.state(), written.state()];
  if ([...ours.keys()].join() !== [...theirs.keys()].join())
    throw new FormatError(`${file}: expected the tensors it was made of, got others`, file, 0);
  const differences: Difference[] = [];
  for (const [name, tensor] of ours) {
    const found = await difference(name, tensor, theirs.get(name) as Tensor);
    if (found) differences.push(found);
  }
  return differences;
}

async function difference(name: string, a: Tensor, b: Tensor): Promise<Difference | null> {
  const [rawA, rawB] = await Promise.all([a.raw(), b.raw()]);
  const bytes = (raw: ArrayBufferView): Buffer => Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
  if (bytes(rawA).equals(bytes(rawB))) return null;
  const [valuesA, valuesB] = (await Promise.all([a.data(), b.data()])) as [Float32Array, Float32Array];
  let [count, largest, relative] = [0, 0, 0];
  for (let i = 0; i < valuesA.length; i++) {
    if (Object.is(valuesA[i], valuesB[i])) continue;
    count++;
    if (a.dtype === 'uint8') continue;
    const apart = Math.abs(valuesA[i] - valuesB[i]);
    largest = Math.max(largest, apart);
    relative = Math.max(relative, apart / Math.abs(valuesA[i]));
  }
  return { name, count, largest, relative };
}
