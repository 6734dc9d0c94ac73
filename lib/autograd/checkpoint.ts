// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { refuseInCapture } from '../capturing.js';
import { checkOneOf, checkOptions, checkTensor } from '../check.js';
import { describe } from '../describe.js';
import { isFloat } from '../dtype.js';
import { OptionError } from '../errors.js';
import { defaultGenerator, type RandomState } from '../random.js';
import { tidy } from '../scope.js';
import { Tensor } from '../tensor.js';
import { addGradients, runBackward, sinkInForce } from './engine.js';
import { HeldTensor, type Offload } from './held-tensor.js';
import { Journal, readingFrom, writingTo } from './remember.js';
import {
  attach,
  edgesOf,
  GradNode,
  isGradEnabled,
  watchGradients,
  withGradMode,
  type OutputGradients,
} from './tape.js';

/** Options of {@link checkpointWith}. */
export interface CheckpointOptions {
  /**
   * What the second run computes again. `full` (default): everything; only the inputs of `fn` are kept. `selective`: all but attention and
   * matrix products (`flashAttention`, `linear`, `bitLinear`, `ternaryMatmul`), the results of which are kept: more memory, little time.
   */
  policy?: 'full' | 'selective';
  /**
   * `host`: what is kept moves to host memory as soon as nothing else holds it, and back when the backward pass gets there, both in the order
   * of the device's stream. It pays on a device with memory of its own; on `cpu` and `reference` it is a copy that frees nothing for the
   * system. `memory()` counts it as `offloadedBytes`. What the host has no room for stays on the device. Default `none`.
   */
  offload?: Offload;
}

/**
 * Runs `fn(...inputs)` keeping nothing but its inputs for the backward pass, which runs it a second time to get the rest (Chen et al.,
 * "Training deep nets with sublinear memory cost", 2016). Memory falls from all of `fn`'s intermediate results to its inputs; the
 * forward work of `fn` is done twice. Results and gradients are bit-equal to calling `fn` directly: the library's random state is
 * restored for the second run. Gradients also reach tensors that `fn` uses without getting them as arguments; these have to be alive when the
 * backward pass comes. For other trades of time against memory see {@link checkpointWith}.
 *
 * @param fn a function of tensors that gives a tensor or an array of tensors, and the same ones when called again.
 * @param inputs tensors of any dtype; gradients flow to the float ones.
 * @throws OptionError if `fn` returns anything else.
 */
export function checkpoint<A extends Tensor[], R extends Tensor | Tensor[]>(fn: (...inputs: A) => R, ...inputs: A): R {
  return checkpointWith({}, fn, ...inputs);
}

/**
 * {@link checkpoint} with a choice of what is kept for the backward pass, and where. Results and gradients are the same bits under every
 * choice. Of checkpoints inside each other the inner ones follow the outer one's choice until the backward pass runs that again.
 *
 * @param options see {@link CheckpointOptions}.
 * @throws CaptureError with `offload` inside {@link capture}; OptionError if an option is unknown or `fn` returns anything but tensors; from `backward()`, if with `selective` the second run of
 * `fn` calls other ops, or with other shapes or options, than the first.
 */
export function checkpointWith<A extends Tensor[], R extends Tensor | Tensor[]>(
  options: CheckpointOptions,
  fn: (...inputs: A) => R,
  ...inputs: A
): R {
  checkOptions('checkpoint', options, ['policy', 'offload']);
  const policy = checkOneOf('checkpoint', 'policy', options.policy ?? 'full', ['full', 'selective']);
  const offload = checkOneOf('checkpoint', 'offload', options.offload ?? 'none', ['none', 'host']);
  if (offload === 'host') refuseInCapture('checkpoint', 'move');
  if (typeof fn !== 'function') throw new OptionError(`checkpoint: expected a function for fn, got ${describe(fn)}`);
  inputs.forEach((input, i) => checkTensor('checkpoint', `input ${i}`, input));
  if (!isGradEnabled()) return tidy(() => fn(...inputs));

  // Looked at before fn runs, which may dispose its inputs.
  const edges = edgesOf(inputs);
  const requires = inputs.map((input) => input.requiresGrad);
  const kept = new Kept(inputs, policy === 'selective' ? new Journal(offload) : null, offload);
  let node: GradNode | null = null;
  try {
    const random = defaultGenerator().state;
    const run = (): R => tidy(() => fn(...inputs));
    const { result, met, reached } = watchGradients(() => writingTo(kept.journal, run));
    const outputs = (Array.isArray(result) ? result : [result]) as Tensor[];
    for (const output of outputs) {
      if (!(output instanceof Tensor)) {
        throw new OptionError('checkpoint: expected fn to return a tensor or an array of tensors');
      }
    }
    const needed = outputs.map((output) => isFloat(output.dtype) && (output.requiresGrad || reached.has(output)));
    if (!needed.includes(true)) return result;

    // Computed tensors that fn uses beside its arguments: their gradients leave through edges of this node, like those of the arguments, so
    // that the second run does not go back through a graph that others use too.
    const closedOver = [...met].filter((tensor) => tensor.node && !inputs.includes(tensor));
    const segment = { fn: fn as Segment['fn'], requires, needed, random };
    const rule = (gradients: OutputGradients): (Tensor | null)[] => goBack(segment, kept, closedOver, gradients);
    // A result that was not made here would get this node as its maker and lose its own: give it a handle of its own.
    const handles = outputs.map((output) =>
      inputs.includes(output) || output.requiresGrad ? output.detach() : output,
    );
    const attached = handles.filter((_, i) => needed[i]);
    node = new GradNode('checkpoint', [...edges, ...edgesOf(closedOver)], attached.length, [], rule, kept);
    attach(node, attached);
    return (Array.isArray(result) ? handles : handles[0]) as R;
  } finally {
    if (!node) kept.dispose();
  }
}

/** What is kept between the runs. */
class Kept {
  readonly inputs: readonly HeldTensor[];

  constructor(
    inputs: readonly Tensor[],
    /** Null for the policy `full`. */
    readonly journal: Journal | null,
    offload: Offload,
  ) {
    this.inputs = inputs.map((input) => new HeldTensor(input, offload));
  }

  dispose(): void {
    for (const input of this.inputs) input.dispose();
    this.journal?.dispose();
  }
}

/** What was run. */
interface Segment {
  fn(...inputs: Tensor[]): Tensor | Tensor[];
  /** Which inputs require a gradient. */
  requires: readonly boolean[];
  /** Which outputs do. */
  needed: readonly boolean[];
  /** Where the random sequence stood. */
  random: RandomState;
}

/** The second run and the way back through it: the gradients of the inputs and of the tensors closed over. */
function goBack(
  { fn, requires, needed, random }: Segment,
  kept: Kept,
  closedOver: readonly Tensor[],
  gradients: OutputGradients,
): (Tensor | null)[] {
  const leaves: Tensor[] = [];
  const nodes = closedOver.map((tensor) => tensor.node);
  for (const tensor of closedOver) tensor.node = null;
  const found = new Map<Tensor, Tensor>();
  const outer = sinkInForce();
  const now = defaultGenerator().state;
  defaultGenerator().state = random;
  try {
    for (const [i, input] of kept.inputs.entries()) {
      const leaf = input.take(false);
      leaf.requiresGrad = requires[i];
      leaves.push(leaf);
    }
    const stops = [...leaves, ...closedOver];
    const again = withGradMode(true, () => readingFrom(kept.journal, () => tidy(() => fn(...leaves))));
    const repeated = (Array.isArray(again) ? again : [again]).filter((_, i) => needed[i]);
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
}
