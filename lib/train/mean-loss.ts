// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { noGrad } from '../autograd/tape.js';
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
 * @throws TrainingError if there are no targets.
 */
export async function meanLoss<B extends Batch>(
  batches: Iterable<B> | AsyncIterable<B>,
  lossOf: (batch: B) => Tensor,
): Promise<number> {
  const before = defaultGenerator().state;
  let total = 0;
  let count = 0;
  try {
    for await (const batch of batches) {
      if (batch.count === 0) continue;
      const loss = keep(noGrad(() => tidy(() => lossOf(batch))));
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
  if (count === 0) throw new TrainingError('meanLoss: expected at least one target, got none');
  return total / count;
}
