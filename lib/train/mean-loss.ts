// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { noGrad } from '../autograd/tape.js';
import { checkFunction, checkIterable, checkNumber, checkTensor } from '../check.js';
import { TrainingError } from '../errors.js';
import { defaultGenerator } from '../random.js';
import { keep, tidy } from '../scope.js';
import type { Tensor } from '../tensor.js';
import type { Batch } from './data.js';

/**
 * The mean loss over all targets of all batches, without gradients. Whatever random numbers the loss takes from the library, the next ones are
 * the same as if it had not.
 *
 * @param lossOf the mean loss of a batch over its `count` targets; runs inside a `tidy`.
 * @throws TrainingError if there are no targets; OptionError; ShapeError if a loss has more than one element.
 */
export async function meanLoss<B extends Batch>(
  batches: Iterable<B> | AsyncIterable<B>,
  lossOf: (batch: B) => Tensor,
): Promise<number> {
  const op = 'meanLoss';
  const isAsync = typeof (batches as Partial<AsyncIterable<B>> | null)?.[Symbol.asyncIterator] === 'function';
  const all = isAsync ? batches : checkIterable(op, 'batches', batches as Iterable<B>);
  checkFunction(op, 'lossOf', lossOf);
  const before = defaultGenerator().state;
  let total = 0;
  let count = 0;
  try {
    for await (const batch of all) {
      checkNumber(op, 'count of a batch', (batch as Partial<B> | null)?.count as number, 0);
      if (batch.count === 0) continue;
      const loss = keep(noGrad(() => tidy(() => checkTensor(op, 'loss', lossOf(batch)))));
      try {
        total += (await loss.item()) * batch.count;
      } finally {
        loss.dispose();
      }
      count += batch.count;
    }
  } finally {
    defaultGenerator().state = before;
  }
  if (count === 0) throw new TrainingError(`${op}: expected at least one target, got none`);
  return total / count;
}
