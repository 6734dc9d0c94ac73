// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { callNow } from '../call-now.js';
import { OptionError } from '../errors.js';
import type { Tensor } from '../tensor.js';

/** Gradients of an op's outputs; null where none arrived. */
export type OutputGradients = readonly (Tensor | null)[];

/** Gives the gradients of an op's inputs, in their order; null where none is needed or defined. */
export type GradientRule = (gradients: OutputGradients, saved: readonly Tensor[]) => (Tensor | null)[];

/** Where the gradient of one input goes: on to the op that made it, or into the leaf it is. */
export type Edge = { node: GradNode; output: number } | { leaf: Tensor };

/**
 * One recorded op. The tape is the graph of these, reached from the result; it holds the memory its gradient rules need, and neither
 * the inputs nor the outputs themselves.
 */
export class GradNode {
  private saved: readonly Tensor[] | null;

  constructor(
    readonly op: string,
    readonly edges: readonly (Edge | null)[],
    readonly outputCount: number,
    saved: readonly Tensor[],
    private readonly rule: GradientRule,
    /** What the rule needs besides and takes for itself; disposed when the node is released. */
    private readonly held: { dispose(): void } | null = null,
  ) {
    this.saved = saved.map((tensor) => tensor.alias());
  }

  /** True if the gradient of this input is wanted. */
  wants(input: number): boolean {
    return this.edges[input] !== null;
  }

  apply(gradients: OutputGradients): (Tensor | null)[] {
    if (!this.saved) {
      throw new OptionError(
        `backward: expected a graph not used before, got one whose ${this.op} was already released`,
      );
    }
    return this.rule(gradients, this.saved);
  }

  /** Frees what was saved; the node cannot be applied again. */
  release(): void {
    if (!this.saved) return;
    for (const tensor of this.saved) tensor.dispose();
    this.held?.dispose();
    this.saved = null;
  }

  get isReleased(): boolean {
    return this.saved === null;
  }
}

let enabled = true;

/** What was seen of gradients while somebody watched. */
export interface Watched {
  /** Tensors that require a gradient and were given to an op. */
  met: Set<Tensor>;
  /** Results that depend on one of them. */
  reached: Set<Tensor>;
}

let watched: Watched | null = null;

/** Whether ops are recorded. */
export function isGradEnabled(): boolean {
  return enabled;
}

/** @internal */
export function withGradMode<T>(mode: boolean, fn: () => T): T {
  const before = enabled;
  enabled = mode;
  try {
    return fn();
  } finally {
    enabled = before;
  }
}

/** @internal Whether gradients through what is computed now will be asked for: it is recorded, or will be when its checkpoint goes back. */
export function isRecording(): boolean {
  return enabled || watched !== null;
}

/**
 * Runs `fn` without recording: its results require no gradient and keep nothing for a backward pass.
 *
 * @throws OptionError if `fn` returns a promise: what runs after an `await` would be recorded again.
 */
export function noGrad<T>(fn: () => T): T {
  return unrecorded(null, () => callNow('noGrad', fn));
}

/** Without recording, watched or not: also by a checkpoint, whose second run will not record what `noGrad` encloses either. */
function unrecorded<T>(watch: Watched | null, fn: () => T): T {
  const outer = watched;
  watched = watch;
  try {
    return withGradMode(false, fn);
  } finally {
    watched = outer;
  }
}

/** @internal Runs `fn` without recording, and sees what would have been recorded. */
export function watchGradients<T>(fn: () => T): Watched & { result: T } {
  const own: Watched = { met: new Set(), reached: new Set() };
  return { result: unrecorded(own, fn), ...own };
}

/** @internal True if an op on these inputs has to be recorded. */
export function needsGrad(...inputs: (Tensor | null | undefined)[]): boolean {
  return enabled && inputs.some((input) => input?.requiresGrad);
}

function edgeOf(input: Tensor | null): Edge | null {
  if (!input?.requiresGrad) return null;
  return input.node ? { node: input.node, output: input.nodeOutput } : { leaf: input };
}

/**
 * @internal Puts an op on the tape, if a gradient can flow through it.
 *
 * @param inputs the differentiable inputs, null where absent.
 * @param saved what the rule needs; held until the backward pass has used it. Only looked at when the op is recorded.
 */
export function record(
  op: string,
  inputs: readonly (Tensor | null)[],
  outputs: Tensor | readonly Tensor[],
  saved: readonly Tensor[],
  rule: GradientRule,
): GradNode | null {
  if (watched) see(watched, inputs, outputs);
  if (!needsGrad(...inputs)) return null;
  const list = Array.isArray(outputs) ? (outputs as readonly Tensor[]) : [outputs as Tensor];
  return attach(new GradNode(op, inputs.map(edgeOf), list.length, saved, rule), list);
}

function see({ met, reached }: Watched, inputs: readonly (Tensor | null)[], outputs: Tensor | readonly Tensor[]): void {
  let depends = false;
  for (const input of inputs) {
    if (input?.requiresGrad) met.add(input);
    if (input && (input.requiresGrad || reached.has(input))) depends = true;
  }
  if (!depends) return;
  for (const output of Array.isArray(outputs) ? (outputs as readonly Tensor[]) : [outputs as Tensor])
    reached.add(output);
}

let attached: { node: GradNode; outputs: readonly Tensor[] }[] | null = null;

/** @internal Runs `fn`, and takes off the tape again what it has put there: results are then outside the graph. */
export function releasingTape<T>(fn: () => T): T {
  const outer = attached;
  const own: typeof attached = (attached = []);
  try {
    return fn();
  } finally {
    attached = outer;
    for (const { node, outputs } of own) {
      node.release();
      for (const output of outputs) {
        if (output.node !== node) continue;
        output.node = null;
        output.requiresGrad = false;
      }
    }
  }
}

/** @internal */
export function attach(node: GradNode, outputs: readonly Tensor[]): GradNode {
  attached?.push({ node, outputs });
  outputs.forEach((output, index) => {
    output.requiresGrad = true;
    output.node = node;
    output.nodeOutput = index;
  });
  return node;
}

/** @internal The edges of a node that differentiates with respect to these inputs. */
export function edgesOf(inputs: readonly (Tensor | null)[]): (Edge | null)[] {
  return inputs.map(edgeOf);
}
