// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Storage } from '../storage.js';
import { Tensor } from '../tensor.js';

/** Where what a checkpoint keeps waits for the backward pass. */
export type Offload = 'none' | 'host';

/**
 * The contents of a tensor, held for later. With offload `host` they move to host memory as soon as nobody else holds them on the device; of
 * a tensor that stays alive elsewhere (a parameter) nothing is copied, as that would free nothing.
 */
export class HeldTensor {
  private storage: Storage | null;
  private readonly shape: readonly number[];
  private readonly dtype: Tensor['dtype'];

  constructor(
    tensor: Tensor,
    private readonly offload: Offload,
  ) {
    const storage = tensor.storage as Storage;
    this.storage = offload === 'host' ? storage.retainDormant() : storage.retain();
    this.shape = tensor.shape;
    this.dtype = tensor.dtype;
  }

  /**
   * A handle on it, outside the graph, which the caller owns; what was held is given up. Throws OutOfMemoryError if it has to come back from the
   * host and there is no room; it is then still held.
   *
   * @param tracked whether the handle belongs to the innermost tidy.
   */
  take(tracked: boolean): Tensor {
    const storage = this.storage as Storage;
    if (this.offload === 'host') storage.wake('checkpoint');
    this.storage = null;
    return new Tensor(storage, this.shape, this.dtype, false, tracked);
  }

  dispose(): void {
    const { storage } = this;
    this.storage = null;
    if (this.offload === 'host') storage?.releaseDormant();
    else storage?.release();
  }
}
