// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { BufferHandle } from './backend.js';
import type { Device } from './device.js';
import { DisposedError } from './errors.js';

interface Block {
  device: Device;
  buffer: BufferHandle;
  bytes: number;
}

// The net below explicit disposal: a block nobody can reach any more is freed when the garbage collector notices.
const unreachable = new FinalizationRegistry<Block>((block) => block.device.free(block.buffer, block.bytes));

/**
 * A counted reference to a block of device memory. Tensors that are views of each other share one; so do the tensors an op keeps for
 * its backward pass.
 */
export class Storage {
  private references = 1;

  private constructor(
    readonly device: Device,
    readonly bytes: number,
    private readonly block: BufferHandle,
  ) {
    unreachable.register(this, { device, buffer: block, bytes }, this);
  }

  /** Throws OutOfMemoryError. */
  static allocate(op: string, device: Device, bytes: number): Storage {
    return new Storage(device, bytes, device.allocate(op, bytes));
  }

  get buffer(): BufferHandle {
    if (this.references === 0) throw new DisposedError('expected live memory, got memory that was already freed');
    return this.block;
  }

  /** True if exactly one tensor refers to this block, so that writing into it surprises nobody. */
  get isExclusive(): boolean {
    return this.references === 1;
  }

  retain(): this {
    this.references++;
    return this;
  }

  release(): void {
    if (--this.references > 0) return;
    unreachable.unregister(this);
    this.device.free(this.block, this.bytes);
  }
}
