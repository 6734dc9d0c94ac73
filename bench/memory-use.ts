// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device } from '../lib/device.js';
import { DEVICE } from './options.js';
import type { MemoryUse } from './schema.js';

/** What a run gives, and what it needs of the device's memory. That is counted when ops are called, so once is enough. */
export async function withMemory<T>(run: () => T | Promise<T>): Promise<{ value: T; memory: MemoryUse }> {
  const place = device(DEVICE);
  await place.synchronize();
  place.resetPeakMemory();
  const { bytes } = place.memory();
  const value = await run();
  await place.synchronize();
  const { peakBytes, peakWorkspaceBytes } = place.memory();
  return { value, memory: { heldBytes: bytes, peakBytes: peakBytes - bytes, workspaceBytes: peakWorkspaceBytes } };
}

/** The memory alone. */
export const memoryOf = async (run: () => unknown): Promise<MemoryUse> => (await withMemory(run)).memory;
