// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkTensor } from '../check.js';
import { isFloat } from '../dtype.js';
import { OptionError } from '../errors.js';
import { defaultGenerator } from '../random.js';
import { tidy } from '../scope.js';
import { Tensor } from '../tensor.js';
import { addGradients, runBackward, sinkInForce } from './engine.js';
import { attach, edgesOf, GradNode, isGradEnabled, watchGradients, withGradMode } from './tape.js';

/**
 * Runs `fn(...inputs)` keeping nothing but its inputs for the backward pass, which runs it a second time to get the rest (Chen et al.,
 * "Training deep nets with sublinear memory cost", 2016). Memory falls from all of `fn`'s intermediate results to its inputs; the
 * forward work of `fn` is done twice. Results and gradients are bit-equal to calling `fn` directly: the library's random state is
 * restored for the second run. Gradients also reach tensors that `fn` uses without getting them as arguments; these have to be alive when the
 * backward pass comes.
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
  const { result, met, reached } = watchGradients(() => tidy(() => fn(...inputs)));
  const outputs = (Array.isArray(result) ? result : [result]) as Tensor[];
  for (const output of outputs) {
    if (!(output instanceof Tensor)) {
      throw new OptionError('checkpoint: expected fn to return a tensor or an array of tensors');
    }
  }
  const needed = outputs.map((output) => isFloat(output.dtype) && (output.requiresGrad || reached.has(output)));
  if (!needed.includes(true)) return result;

  const requires = inputs.map((input) => input.requiresGrad);
  // Computed tensors that fn uses beside its arguments: their gradients leave through edges of this node, like those of the arguments, so
  // that the second run does not go back through a graph that others use too.
  const closedOver = [...met].filter((tensor) => tensor.node && !inputs.includes(tensor));
  // A result that was not made here would get this node as its maker and lose its own: give it a handle of its own.
  const handles = outputs.map((output) => (inputs.includes(output) || output.requiresGrad ? output.detach() : output));
  const attached = handles.filter((_, i) => needed[i]);

  const rule = (gradients: readonly (Tensor | null)[], saved: readonly Tensor[]): (Tensor | null)[] => {
    const leaves = saved.map((tensor, i) => {
      const leaf = tensor.alias();
      leaf.requiresGrad = requires[i];
      return leaf;
    });
    const stops = [...leaves, ...closedOver];
    const nodes = closedOver.map((tensor) => tensor.node);
    for (const tensor of closedOver) tensor.node = null;
    const found = new Map<Tensor, Tensor>();
    const outer = sinkInForce();
    const now = defaultGenerator().state;
    defaultGenerator().state = random;
    try {
      const again = withGradMode(true, () => tidy(() => fn(...(leaves as unknown as A))));
      const repeated = ((Array.isArray(again) ? again : [again]) as Tensor[]).filter((_, i) => needed[i]);
      const roots: Tensor[] = [];
      const starts: Tensor[] = [];
      repeated.forEach((output, i) => {
        const gradient = gradients[i];
        if (!gradient || !output.requiresGrad) return;
        roots.push(output);
        starts.push(gradient.alias());
      });
      runBackward(roots, starts, (leaf, gradient) => {
        if (!stops.includes(leaf)) {
          outer(leaf, gradient);
          return;
        }
        const present = found.get(leaf);
        found.set(leaf, present ? addGradients(present, gradient) : gradient);
      });
      return stops.map((leaf) => found.get(leaf)?.detach() ?? null);
    } finally {
      closedOver.forEach((tensor, i) => (tensor.node = nodes[i]));
      defaultGenerator().state = now;
      for (const gradient of found.values()) gradient.dispose();
      for (const leaf of leaves) leaf.dispose();
    }
  };
  const edges = edgesOf([...inputs, ...closedOver]);
  attach(new GradNode('checkpoint', edges, attached.length, inputs, rule), attached);
  return (Array.isArray(result) ? handles : handles[0]) as R;
}
