// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { needsGrad, record } from '../autograd/tape.js';
import { checkShape, checkTensor, checkTogether } from '../check.js';
import { empty, workspace, type Tensor } from '../tensor.js';
import { checkCrossEntropyOptions, type CrossEntropyOptions } from './cross-entropy.js';
import { checkLinear } from './linear.js';

/** Options of {@link linearCrossEntropy}. */
export interface LinearCrossEntropyOptions extends CrossEntropyOptions {
  /** [V], same dtype as weight, or null (default). */
  bias?: Tensor | null;
}

/** Logits held at a time, 4 bytes each, and the rows they are of: enough of both for matrix products at full speed. */
const BLOCK_LOGITS = 2 ** 20;
const BLOCK_ROWS = 1024;
/** What the kernels keep about a row while its logits pass by, in float32 numbers. */
const ROW_FLOATS = 8;

/** Blocks of nearly equal size. */
function blocksOf(rows: number, vocabulary: number): { blockRows: number; blockCols: number } {
  const evenly = (size: number, most: number): number => Math.ceil(size / Math.ceil(size / most));
  const blockRows = evenly(rows, BLOCK_ROWS);
  return { blockRows, blockCols: evenly(vocabulary, Math.floor(BLOCK_LOGITS / blockRows)) };
}

/**
 * `crossEntropy(linear(x, weight, bias), targets)` without the logits: they are computed, used and forgotten in blocks of at most 4 MB, and
 * computed again in the backward pass, so that memory does not grow with M · V, which for a large vocabulary is most of what a training step
 * takes. The price is a fourth matrix product beside the three of a step. Inspired by Hsu et al., "Liger Kernel", 2024, and Wijmans et al.,
 * "Cut Your Losses in Large-Vocabulary Language Models", 2024. Logits and their gradients are float32 whatever the dtype of x and weight.
 *
 * @param x [..., K], float dtype; the leading axes are M rows.
 * @param weight [V, K], same dtype.
 * @param targets int32 [...], one for each row of x, in 0..V-1 or ignoreIndex.
 * @param options those of {@link crossEntropy}, and `bias`.
 * @returns a float32 scalar, shape []; with `reduction: 'none'` float32 of the shape of targets. Gradients flow to x, weight and bias.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError; KernelError on the next read if a target is out
 * of range.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const op = 'linearCrossEntropy';
  const rule = checkCrossEntropyOptions(op, options, ['bias']);
  const bias = options.bias ?? null;
  const { device, m: rows, n: vocabulary, k: features } = checkLinear(op, x, weight, bias);
  checkTensor(op, 'targets', targets, ['int32']);
  checkShape(op, 'targets', targets, x.shape.slice(0, -1), 'to match x');
  checkTogether(op, { x, targets }, false);

  const { blockRows, blockCols } = blocksOf(rows, vocabulary);
  const shared = { ...rule, rows, vocabulary, features, blockRows, blockCols };
  const scratch = (shape: number[]): Tensor => workspace(op, shape, 'float32', device);
  const block = (): Tensor => scratch([blockRows * (blockCols + ROW_FLOATS)]);

  const loss = empty(op, rule.reduction === 'none' ? targets.shape : [], 'float32', device);
  const count = scratch([1]);
  const statistics = scratch([rows, 2]);
  const logits = block();
  device.backend.linearCrossEntropy({
    ...shared,
    x: x.arg,
    weight: weight.arg,
    bias: bias && bias.arg,
    targets: targets.arg,
    loss: loss.arg,
    count: count.arg,
    statistics: statistics.arg,
    workspace: logits.arg,
  });
  logits.dispose();

  const [needsX, needsWeight, needsBias] = [needsGrad(x), needsGrad(weight), needsGrad(bias)];
  const inputs = bias ? [x, weight, targets, count, statistics, bias] : [x, weight, targets, count, statistics];
  record(op, [x, weight, bias], loss, inputs, ([dLoss], [input, w, t, counted, perRow, b]) => {
    if (!dLoss) return [null, null, null];
    const gradient = (wanted: boolean, like: Tensor): Tensor | null =>
      wanted ? empty(op, like.shape, like.dtype, device) : null;
    const [dX, dWeight, dBias] = [gradient(needsX, input), gradient(needsWeight, w), gradient(needsBias, b)];
    // Sums over several blocks are kept in float32.
    const sum = (result: Tensor | null, blocks: number, shape: number[]): Tensor | null =>
      result && result.dtype !== 'float32' && blocks > 1 ? scratch(shape) : null;
    const rowBlocks = Math.ceil(rows / blockRows);
    const dXSum = sum(dX, Math.ceil(vocabulary / blockCols), [rows, features]);
    const dWeightSum = sum(dWeight, rowBlocks, [blockCols, features]);
    const dBiasSum = sum(dBias, rowBlocks, [blockCols]);
    const again = block();
    device.backend.linearCrossEntropyBackward({
      ...shared,
      x: input.arg,
      weight: w.arg,
      bias: b ? b.arg : null,
      targets: t.arg,
      count: counted.arg,
      statistics: perRow.arg,
      dLoss: dLoss.arg,
      dX: dX && dX.arg,
      dWeight: dWeight && dWeight.arg,
      dBias: dBias && dBias.arg,
      workspace: again.arg,
      dXSum: dXSum && dXSum.arg,
      dWeightSum: dWeightSum && dWeightSum.arg,
      dBiasSum: dBiasSum && dBiasSum.arg,
    });
    for (const each of [again, dXSum, dWeightSum, dBiasSum]) each?.dispose();
    return [dX, dWeight, dBias];
  });
  count.dispose();
  statistics.dispose();
  return loss;
}
