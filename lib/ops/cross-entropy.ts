// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { CrossEntropyRule } from '../backend.js';
import { record } from '../autograd/tape.js';
import {
  checkFloat,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkShape,
  checkTensor,
  checkTogether,
} from '../check.js';
import { OptionError } from '../errors.js';
import { empty, workspace, type Tensor } from '../tensor.js';

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions {
  /** Rows with this target count for nothing. Default -100. */
  ignoreIndex?: number;
  /** `mean` over the rows that count (default), their `sum`, or `none`: the loss of each row, 0 where it is ignored. */
  reduction?: 'mean' | 'sum' | 'none';
  /**
   * ε, 0 to 1: the target gets probability 1 − ε and all V classes share ε evenly (Szegedy et al., "Rethinking the Inception Architecture",
   * 2016; as PyTorch). Default 0.
   */
  labelSmoothing?: number;
  /** Adds zLoss · lse² to each row that counts, which keeps logits from drifting (Chowdhery et al., "PaLM", 2022). Default 0. */
  zLoss?: number;
  /** Logits become softcap · tanh(logits / softcap) first (Gemma Team, "Gemma 2", 2024). Default 0: none. */
  softcap?: number;
}

const OPTION_NAMES = ['ignoreIndex', 'reduction', 'labelSmoothing', 'zLoss', 'softcap'] as const;

/** @internal The options with their defaults; `others` are those that the op looks at itself. */
export function checkCrossEntropyOptions(
  op: string,
  options: CrossEntropyOptions,
  others: readonly string[] = [],
): CrossEntropyRule {
  checkOptions(op, options, [...OPTION_NAMES, ...others]);
  const labelSmoothing = checkNumber(op, 'labelSmoothing', options.labelSmoothing ?? 0, 0);
  if (labelSmoothing > 1) {
    throw new OptionError(`${op}: expected a number from 0 to 1 for labelSmoothing, got ${labelSmoothing}`);
  }
  return {
    ignoreIndex: checkInteger(op, 'ignoreIndex', options.ignoreIndex ?? -100, -(2 ** 31), 2 ** 31 - 1),
    reduction: checkOneOf(op, 'reduction', options.reduction ?? 'mean', ['mean', 'sum', 'none']),
    labelSmoothing,
    zLoss: checkNumber(op, 'zLoss', options.zLoss ?? 0, 0),
    softcap: checkNumber(op, 'softcap', options.softcap ?? 0, 0),
  };
}

/**
 * Softmax cross entropy, in nats: per row, with z the logits (capped, if there is a softcap) and lse = log(sum(exp(z))),
 * (1 − ε) (lse − z[target]) + ε (lse − mean(z)) + zLoss · lse². If every row is ignored the loss and its gradients are 0.
 *
 * A logit of −Infinity is a class that cannot be, unless a softcap makes it −softcap: the loss is finite where the target's logit is, and the
 * gradients too. Smoothing gives such a class a share, which makes the loss Infinity. A row of −Infinity alone, or with a NaN or, without a
 * softcap, a +Infinity in it, gives NaN, as do its gradients; not if it is ignored.
 *
 * @param logits [M, V], float dtype.
 * @param targets int32 [M], each in 0..V-1 or ignoreIndex.
 * @returns a float32 scalar, shape []; with `reduction: 'none'` float32 [M].
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError; KernelError on the next read if a target is out
 * of range.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const op = 'crossEntropy';
  checkFloat(op, 'logits', logits);
  checkShape(op, 'logits', logits, ['M', 'V']);
  checkTensor(op, 'targets', targets, ['int32']);
  checkShape(op, 'targets', targets, [logits.shape[0]], 'to match logits');
  const rule = checkCrossEntropyOptions(op, options);
  const device = checkTogether(op, { logits, targets }, false);
  const [rows, cols] = logits.shape;
  const loss = empty(op, rule.reduction === 'none' ? [rows] : [], 'float32', device);
  const count = workspace(op, [1], 'float32', device);
  const statistics = workspace(op, [rows, 2], 'float32', device);
  const shared = { ...rule, rows, cols };
  device.backend.crossEntropy({
    ...shared,
    logits: logits.arg,
    targets: targets.arg,
    loss: loss.arg,
    count: count.arg,
    statistics: statistics.arg,
  });
  record(op, [logits], loss, [logits, targets, count, statistics], ([dLoss], [x, t, counted, perRow]) => {
    if (!dLoss) return [null];
    const dLogits = empty(op, x.shape, x.dtype, device);
    device.backend.crossEntropyBackward({
      ...shared,
      logits: x.arg,
      targets: t.arg,
      count: counted.arg,
      statistics: perRow.arg,
      dLoss: dLoss.arg,
      dLogits: dLogits.arg,
    });
    return [dLogits];
  });
  count.dispose();
  statistics.dispose();
  return loss;
}
