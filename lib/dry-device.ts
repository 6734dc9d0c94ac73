// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Backend } from './backend.js';
import { Device } from './device.js';

/**
 * @internal A device that counts memory as every device does, but has none and computes nothing: what runs on it shows how much memory it would
 * take. Nothing can be read from it.
 */
export function createDryDevice(): Device {
  const answers: Partial<Backend> = {
    allocate: () => 'dry',
    offload: () => 'dry',
    fault: () => null,
    reservedBytes: () => 0,
    isUsedByGraph: () => false,
  };
  const backend = new Proxy(answers, { get: (own, name) => Reflect.get(own, name) ?? (() => undefined) }) as Backend;
  return new Device('dry', 'reference', backend, true);
}
