// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import {
  checkFloat,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkShape,
  checkTensor,
  checkTogether,
} from '../check.js';
import { empty, workspace, type Tensor } from '../tensor.js';

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions {
  /** Rows with this target count for nothing. Default -100. */
  ignoreIndex?: number;
  /** `mean` over the rows that count (default), or their `sum`. */
  reduction?: 'mean' | 'sum';
}

/**
 * Softmax cross entropy: per row, log(sum(exp(logits))) - logits[target], in nats. If every row is ignored the loss and its gradients are 0.
 *
 * @param logits [M, V], float dtype.
 * @param targets int32 [M], each in 0..V-1 or ignoreIndex.
 * @returns a float32 scalar, shape [].
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError; KernelError on the next read if a target is out
 * of range.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  checkFloat('crossEntropy', 'logits', logits);
  checkShape('crossEntropy', 'logits', logits, ['M', 'V']);
  checkTensor('crossEntropy', 'targets', targets, ['int32']);
  checkShape('crossEntropy', 'targets', targets, [logits.shape[0]], 'to match logits');
  checkOptions('crossEntropy', options, ['ignoreIndex', 'reduction']);
  const ignoreIndex = checkInteger('crossEntropy', 'ignoreIndex', options.ignoreIndex ?? -100, -(2 ** 31), 2 ** 31 - 1);
  const mean = checkOneOf('crossEntropy', 'reduction', options.reduction ?? 'mean', ['mean', 'sum']) === 'mean';
  const device = checkTogether('crossEntropy', { logits, targets }, false);
  const [rows, cols] = logits.shape;
  const loss = empty('crossEntropy', [], 'float32', device);
  const count = workspace('crossEntropy', [1], 'float32', device);
  const shared = { rows, cols, ignoreIndex, mean };
  device.backend.crossEntropy({
    ...shared,
    logits: logits.arg,
    targets: targets.arg,
    loss: loss.arg,
    count: count.arg,
  });
  record('crossEntropy', [logits], loss, [logits, targets, count], ([dLoss], [x, t, counted]) => {
    if (!dLoss) return [null];
    const dLogits = empty('crossEntropy', x.shape, x.dtype, device);
    device.backend.crossEntropyBackward({
      ...shared,
      logits: x.arg,
      targets: t.arg,
      count: counted.arg,
      dLoss: dLoss.arg,
      dLogits: dLogits.arg,
    });
    return [dLogits];
  });
  count.dispose();
  return loss;
}
