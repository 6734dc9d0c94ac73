// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Backend, Parcel } from './backend.js';
import { refuseInCapture } from './capturing.js';
import { checkBoolean, checkOneOf, checkShapeValue, checkTensor } from './check.js';
import { device as deviceNamed, type Device, type DeviceName } from './device.js';
import { bytesPerElement, DTYPES, isFloat, type DType } from './dtype.js';
import { DTypeError, OptionError } from './errors.js';
import { native } from './native.js';
import { Storage } from './storage.js';
import { elementCount, Tensor } from './tensor.js';

/**
 * Tensors from one worker thread to another, without a copy. A tensor belongs to one thread at a time: {@link Tensor.transfer} disposes it in
 * this thread and makes a message, a plain object for `postMessage` or `workerData`; {@link receiveTensor} makes it a tensor of the other thread.
 */

/** A tensor on its way to another thread of this process. A plain object that can be cloned; what is in it is for `receiveTensor` alone. */
export interface TensorMessage {
  /** What tells it from other messages. */
  readonly kind: 'ternflash.tensor';
  /** Id of the device. */
  readonly device: string;
  /** Of the tensor. */
  readonly dtype: DType;
  /** Of the tensor. */
  readonly shape: readonly number[];
  /** Of the tensor. */
  readonly requiresGrad: boolean;
  /** @internal Claims the memory. */
  readonly parcel: Parcel;
}

/** What {@link Tensor.transfer} gives: `worker.postMessage(message, transferList)`. */
export interface TensorTransfer {
  /** What {@link receiveTensor} takes. */
  message: TensorMessage;
  /**
   * Empty but for tensors of the `reference` device, whose memory is an ArrayBuffer: a message posted without it takes a copy of the
   * elements along.
   */
  transferList: ArrayBuffer[];
}

/** How much is on its way. */
export interface TransferTotal {
  /** Tensors sent and not received yet. */
  tensors: number;
  /** Bytes they hold. */
  bytes: number;
}

/** @internal See Tensor.transfer. */
export async function transfer(tensor: Tensor): Promise<TensorTransfer> {
  checkTensor('transfer', 'this', tensor);
  if (tensor.node) throw new OptionError(`transfer: expected a leaf, got the result of ${tensor.node.op}`);
  const storage = tensor.storage as Storage;
  if (!storage.isExclusive) {
    throw new OptionError(
      'transfer: expected a tensor that shares its memory with no view or graph, got one that does',
    );
  }
  if (storage.device.backend.isUsedByGraph(storage.buffer)) {
    throw new OptionError('transfer: expected a tensor that no captured graph uses, got one that a graph does');
  }
  const { device, dtype, shape, requiresGrad, bytes } = tensor;
  const { parcel, sent } = device.send(storage.surrender(), bytes);
  tensor.dispose();
  try {
    await sent;
  } catch (error) {
    device.backend.discard(parcel); // nobody else knows of it yet
    throw error;
  }
  const message = {
    kind: 'ternflash.tensor',
    device: device.id,
    dtype,
    shape: [...shape],
    requiresGrad,
    parcel,
  } as const;
  return { message, transferList: typeof parcel === 'string' ? [] : [parcel] };
}

function checkMessage(op: string, message: TensorMessage): { device: Device; bytes: number } {
  if (typeof message !== 'object' || message === null || message.kind !== 'ternflash.tensor') {
    throw new OptionError(`${op}: expected what Tensor.transfer gave for message, got something else`);
  }
  checkOneOf(op, 'message.dtype', message.dtype, DTYPES);
  checkShapeValue(op, message.shape);
  if (checkBoolean(op, 'message.requiresGrad', message.requiresGrad) && !isFloat(message.dtype))
    throw new DTypeError(`${op}: expected a float dtype with requiresGrad, got ${message.dtype}`);
  const bytes = elementCount(message.shape) * bytesPerElement(message.dtype);
  return { device: deviceNamed(message.device as DeviceName), bytes };
}

/**
 * The tensor that another thread, or this one, gave away by {@link Tensor.transfer}: the same memory, under the same shape, dtype and
 * `requiresGrad`. Its contents are complete: everything that was queued on it over there has run.
 *
 * A message that nobody receives keeps its memory (on `cpu`; on `reference` the message owns the memory), also after the thread that sent it has
 * ended, so that a worker may post a result and end. It is given up by {@link discardTransfer}, or by {@link reclaimTransfers} once the sender
 * has ended, and at the end of the last thread that uses the library. A tensor that was received ends with the thread that received it.
 *
 * @param message can be received once, by one thread of the process that sent it.
 * @throws OptionError if it is no message, or one that was received or discarded before or comes from another process; DeviceError if this
 * thread cannot use its device.
 */
export function receiveTensor(message: TensorMessage): Tensor {
  const { device, bytes } = checkMessage('receiveTensor', message);
  refuseInCapture('receiveTensor', 'move', device);
  const buffer = device.receive(message.parcel, bytes);
  if (buffer === null) {
    throw new OptionError(
      'receiveTensor: expected a message of this process that was neither received nor discarded, got another',
    );
  }
  const { dtype, requiresGrad } = message;
  const shape = Object.freeze([...message.shape]);
  const storage = Storage.adopt('receiveTensor', device, bytes, dtype, shape, buffer);
  return new Tensor(storage, shape, dtype, requiresGrad, true);
}

/**
 * Frees the memory of a message that will not be received, in any thread. False if there is nothing to free: it was received or discarded.
 *
 * @throws OptionError if it is no message; DeviceError.
 */
export function discardTransfer(message: TensorMessage): boolean {
  const { device } = checkMessage('discardTransfer', message);
  refuseInCapture('discardTransfer', 'move', device);
  return device.backend.discard(message.parcel);
}

/** Any backend of the addon: the devices of an addon share one table. */
function sharedTable(): Backend {
  return deviceNamed(native ? 'cpu' : 'reference').backend;
}

/** Messages of all threads of the process that were neither received nor discarded; those of `reference` are not known. */
export function pendingTransfers(): TransferTotal {
  return sharedTable().pending();
}

/**
 * Frees the memory of all messages whose sender has ended and that were neither received nor discarded: they cannot be received any more. For
 * when workers were terminated and what they had sent may be lost. Gives how much that was.
 */
export function reclaimTransfers(): TransferTotal {
  refuseInCapture('reclaimTransfers', 'move');
  return sharedTable().reclaim();
}
