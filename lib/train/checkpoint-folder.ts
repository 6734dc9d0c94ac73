// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdir, readdir, rm } from 'node:fs/promises';
import * as path from 'node:path';
import type { DeviceName, Device } from '../device.js';
import { checkPath } from '../check.js';
import { describe } from '../describe.js';
import { FormatError } from '../errors.js';
import { removePartials, writeAtomically } from '../formats/atomic-file.js';
import { parseJsonText, readTextIfThere } from '../formats/json.js';
import { readSafetensors, writeSafetensors } from '../formats/safetensors.js';
import type { Tensor } from '../tensor.js';
import type { Json } from './data.js';

/** A checkpoint of a training run: tensors by name, and everything else. */
export interface CheckpointContent {
  /** By name. */
  tensors: Map<string, Tensor>;
  /** Everything else, as JSON. */
  state: { [key: string]: Json };
}

const FORMAT = 'ternflash-training-checkpoint';
const LATEST = 'latest';
const MAX_NAME_BYTES = 1024;
const NAME = /^step-(\d{8,})\.safetensors$/;

/**
 * The last checkpoints of a run: `step-00000100.safetensors`, and a file `latest` that names the newest. Each appears whole or not at all, and the
 * old ones go when the new one is on the disk: whenever the process is killed, `latest` names a whole checkpoint. One run at a time may write
 * to a folder.
 */
export class CheckpointFolder {
  constructor(
    private readonly folder: string,
    /** How many checkpoints stay. */
    private readonly keep: number,
  ) {}

  /** The newest checkpoint; null if there is none. Throws FormatError if `latest` does not name one. */
  async latest(): Promise<string | null> {
    const file = path.join(this.folder, LATEST);
    const bytes = await readTextIfThere(file, MAX_NAME_BYTES);
    if (bytes === null) return null;
    const name = new TextDecoder().decode(bytes).trim();
    if (!NAME.test(name))
      throw new FormatError(`${file}: expected the name of a checkpoint, got ${describe(name)}`, file, 0);
    return path.join(this.folder, name);
  }

  /** Writes the checkpoint of a step and gives its file. */
  async write(step: number, { tensors, state }: CheckpointContent): Promise<string> {
    await mkdir(this.folder, { recursive: true });
    await removePartials(this.folder, (name) => NAME.test(name));
    const name = `step-${String(step).padStart(8, '0')}.safetensors`;
    const file = path.join(this.folder, name);
    await writeSafetensors(file, tensors, { format: FORMAT, version: '1', state: JSON.stringify(state) });
    await writeAtomically(path.join(this.folder, LATEST), (handle) => handle.writeFile(`${name}\n`));
    await this.removeOld(step);
    return file;
  }

  /** Later checkpoints, of a run that was resumed before them, are nobody's to remove. */
  private async removeOld(step: number): Promise<void> {
    const steps = (await readdir(this.folder))
      .map((name) => ({ name, step: Number(NAME.exec(name)?.[1] ?? NaN) }))
      .filter((each) => each.step <= step)
      .sort((a, b) => b.step - a.step);
    for (const { name } of steps.slice(this.keep)) await rm(path.join(this.folder, name));
  }
}

/**
 * Reads a checkpoint of a training run, as {@link Trainer} writes them. Its tensors are those of the model as `model.NAME`, and those of the
 * optimizer as `optimizer.NAME`.
 *
 * @throws FormatError if the file is not one; the error of the file system if it cannot be read; OutOfMemoryError.
 */
export async function readTrainingCheckpoint(
  file: string,
  options: { device?: DeviceName | Device } = {},
): Promise<CheckpointContent> {
  checkPath('readTrainingCheckpoint', 'file', file);
  const { tensors, metadata } = await readSafetensors(file, options);
  try {
    if (metadata.format !== FORMAT || metadata.version !== '1') {
      throw new FormatError(
        `${file}: expected format ${FORMAT} of version 1, got ${metadata.format} of version ${metadata.version}`,
        file,
        8,
      );
    }
    return { tensors, state: parseJsonText(file, 8, metadata.state) as CheckpointContent['state'] };
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  }
}
