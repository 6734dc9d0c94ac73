// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { DeviceName } from '../device.js';
import type { FloatDType } from '../dtype.js';
import { WrongCall, type Output } from './command.js';

/** What commands that read a checkpoint are given of it. */
interface Values {
  device?: string;
  dtype?: string;
  quiet: boolean;
}

/** The same for who loads it. */
interface CheckpointOptions {
  device?: DeviceName;
  dtype?: FloatDType;
  onWarning: (warning: string) => void;
}

/** The values for `loadModel`, which checks them; warnings are written to `errors`. */
export function checkpointOptions({ device, dtype, quiet }: Values, errors: Output): CheckpointOptions {
  return {
    onWarning: (warning) => void (quiet || errors.write(`warning: ${warning}\n`)),
    ...(device !== undefined && { device: device as DeviceName }),
    ...(dtype !== undefined && { dtype: dtype as FloatDType }),
  };
}

/** What is read and what is written. Throws WrongCall. */
export function readTwoPlaces(positionals: readonly string[]): [from: string, to: string] {
  const [from, to, ...others] = positionals;
  if (from === undefined || to === undefined || others.length > 0)
    throw new WrongCall(`expected what to read and what to write, got ${positionals.length} names`);
  return [from, to];
}
