// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkTensor } from '../check.js';
import { isFloat } from '../dtype.js';
import { OptionError } from '../errors.js';
import { defaultGenerator } from '../random.js';
import { tidy } from '../scope.js';
import { Tensor } from '../tensor.js';
import { addGradients, runBackward, sinkInForce } from './engine.js';
import { attach, edgesOf, GradNode, isGradEnabled, noGrad, watchGradients, withGradMode } from './tape.js';

/**
 * Runs `fn(...inputs)` keeping nothing but its inputs for the backward pass, which runs it a second time to get the rest (Chen et al.,
 * "Training deep nets with sublinear memory cost", 2016). Memory falls from all of `fn`'s intermediate results to its inputs; the
 * forward work of `fn` is done twice. Results and gradients are bit-equal to calling `fn` directly: the library's random state is
 * restored for the second run. Gradients also reach parameters that `fn` uses without getting them as arguments.
 *
 * @param fn a function of tensors that gives a tensor or an array of tensors, and the same ones when called again.
 * @param inputs tensors of any dtype; gradients flow to the float ones.
 * @throws OptionError if `fn` returns anything else.
 */
export function checkpoint<A extends Tensor[], R extends Tensor | Tensor[]>(fn: (...inputs: A) => R, ...inputs: A): R {
  if (typeof fn !== 'function') throw new OptionError(`checkpoint: expected a function for fn, got ${typeof fn}`);
  inputs.forEach((input, i) => checkTensor('checkpoint', `input ${i}`, input));
  if (!isGradEnabled()) return tidy(() => fn(...inputs));

  const random = defaultGenerator().state;
  const { result, touched } = watchGradients(() => noGrad(() => tidy(() => fn(...inputs))));
  const outputs = (Array.isArray(result) ? result : [result]) as Tensor[];
  for (const output of outputs) {
    if (!(output instanceof Tensor))
      throw new OptionError('checkpoint: expected fn to return a tensor or an array of tensors');
  }
  if (!touched) return result;

  const requires = inputs.map((input) => input.requiresGrad);
  // A result that is one of the inputs would get this op as its maker and lose its own: give it a handle of its own.
  const handles = outputs.map((output) => (inputs.includes(output) ? output.detach() : output));
  const floats = handles.filter((output) => isFloat(output.dtype));

  const rule = (gradients: readonly (Tensor | null)[], saved: readonly Tensor[]): (Tensor | null)[] => {
    const leaves = saved.map((tensor, i) => {
      const leaf = tensor.alias();
      leaf.requiresGrad = requires[i];
      return leaf;
    });
    const found = new Map<Tensor, Tensor>();
    const outer = sinkInForce();
    const now = defaultGenerator().state;
    defaultGenerator().state = random;
    try {
      const again = withGradMode(true, () => tidy(() => fn(...(leaves as unknown as A))));
      const repeated = ((Array.isArray(again) ? again : [again]) as Tensor[]).filter((output) => isFloat(output.dtype));
      const roots: Tensor[] = [];
      const starts: Tensor[] = [];
      repeated.forEach((output, i) => {
        const gradient = gradients[i];
        if (!gradient || !output.requiresGrad) return;
        roots.push(output);
        starts.push(gradient.alias());
      });
      runBackward(roots, starts, (leaf, gradient) => {
        if (!leaves.includes(leaf)) {
          outer(leaf, gradient);
          return;
        }
        const present = found.get(leaf);
        found.set(leaf, present ? addGradients(present, gradient) : gradient);
      });
      return leaves.map((leaf) => found.get(leaf)?.detach() ?? null);
    } finally {
      defaultGenerator().state = now;
      for (const gradient of found.values()) gradient.dispose();
      for (const leaf of leaves) leaf.dispose();
    }
  };
  attach(new GradNode('checkpoint', edgesOf(inputs), floats.length, inputs, rule), floats);
  return (Array.isArray(result) ? handles : handles[0]) as R;
}
