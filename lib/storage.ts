// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { BufferHandle, HostHandle } from './backend.js';
import type { Device } from './device.js';
import type { DType } from './dtype.js';
import { DisposedError } from './errors.js';
import { noteFreed, noteMade } from './tracking.js';

/** Memory of one storage: on its device, or moved to the host while nobody needs it, or given away: then neither handle is there. */
class Block {
  private host: HostHandle | null = null;

  constructor(
    readonly device: Device,
    readonly bytes: number,
    public buffer: BufferHandle | null,
  ) {}

  free(): void {
    noteFreed(this);
    if (this.buffer !== null) this.device.free(this.buffer, this.bytes);
    else if (this.host !== null) this.device.freeHost(this.host, this.bytes);
  }

  toHost(): void {
    if (this.buffer === null) return;
    const host = this.device.offload(this.buffer, this.bytes);
    if (host === null) return; // the host has no room: it stays where it is
    this.host = host;
    this.buffer = null;
  }

  toDevice(op: string): void {
    if (this.buffer !== null) return;
    this.buffer = this.device.restore(op, this.host, this.bytes);
    this.host = null;
  }
}

// The net below explicit disposal: a block nobody can reach any more is freed when the garbage collector notices.
const unreachable = new FinalizationRegistry<Block>((block) => block.free());

/**
 * A counted reference to a block of device memory. Tensors that are views of each other share one; so do the tensors an op keeps for
 * its backward pass.
 *
 * A reference may be dormant: whoever has it wants the contents later and not now. When all that are left are dormant, and only then does
 * it free anything, the block moves to host memory; it comes back when one of them wakes.
 */
export class Storage {
  private references = 1;
  /** How many of them are dormant. */
  private dormant = 0;

  private constructor(private readonly block: Block) {
    unreachable.register(this, block, this);
  }

  /** Memory for that tensor. Throws OutOfMemoryError. */
  static allocate(op: string, device: Device, bytes: number, dtype: DType, shape: readonly number[]): Storage {
    return Storage.adopt(op, device, bytes, dtype, shape, device.allocate(op, bytes));
  }

  /** The same of a buffer that is already the device's. */
  static adopt(
    op: string,
    device: Device,
    bytes: number,
    dtype: DType,
    shape: readonly number[],
    buffer: BufferHandle,
  ): Storage {
    const block = new Block(device, bytes, buffer);
    noteMade(block, op, dtype, shape);
    return new Storage(block);
  }

  get device(): Device {
    return this.block.device;
  }

  get bytes(): number {
    return this.block.bytes;
  }

  get buffer(): BufferHandle {
    if (this.references === 0) throw new DisposedError('expected live memory, got memory that was already freed');
    return this.block.buffer;
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
    this.references--;
    if (this.references === 0) {
      unreachable.unregister(this);
      this.block.free();
    } else if (this.references === this.dormant) {
      this.block.toHost();
    }
  }

  retainDormant(): this {
    this.dormant++;
    return this.retain();
  }

  releaseDormant(): void {
    this.dormant--;
    this.release();
  }

  /** Makes a dormant reference an ordinary one. Throws OutOfMemoryError; the reference is then dormant still. */
  wake(op: string): this {
    this.block.toDevice(op);
    this.dormant--;
    return this;
  }

  /** The buffer of an exclusive storage, which whoever calls this owns from now on. */
  surrender(): BufferHandle {
    const { buffer } = this;
    this.block.buffer = null;
    return buffer;
  }
}
