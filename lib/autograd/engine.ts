// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { noteGradient } from '../capturing.js';
import { checkFunction, checkShape, checkTensor, checkTogether } from '../check.js';
import { OptionError, ShapeError } from '../errors.js';
import { tidy, keep } from '../scope.js';
import { ones, type Tensor, workspace } from '../tensor.js';
import { noGrad, withGradMode, type Edge, type GradNode } from './tape.js';

/** Receives the gradient of a leaf; it now owns the tensor. */
export type LeafSink = (leaf: Tensor, gradient: Tensor) => void;

// The sink of the backward pass under way: a checkpointed segment sends its parameters' gradients there too.
let currentSink: LeafSink = accumulate;

/** @internal See Tensor.backward. */
export function backward(root: Tensor, gradient?: Tensor): void {
  checkTensor('backward', 'this', root);
  runBackward([root], [startGradient(root, gradient)], accumulate);
}

function startGradient(root: Tensor, gradient: Tensor | undefined): Tensor {
  if (!root.requiresGrad)
    throw new OptionError('backward: expected a tensor that requires a gradient, got one that does not');
  if (gradient !== undefined) {
    checkTensor('backward', 'gradient', gradient);
    checkShape('backward', 'gradient', gradient, root.shape, 'to match the tensor');
    checkTogether('backward', { tensor: root, gradient });
    return gradient.alias();
  }
  if (root.size !== 1) {
    throw new ShapeError(
      `backward: expected a tensor of one element or a gradient, got shape [${root.shape.join(', ')}]`,
    );
  }
  return keep(ones(root.shape, { dtype: root.dtype, device: root.device }));
}

/** Adds a gradient to `leaf.grad`. */
function accumulate(leaf: Tensor, gradient: Tensor): void {
  if (leaf.isDisposed) {
    gradient.dispose();
  } else {
    noteGradient(leaf);
    leaf.grad = leaf.grad ? addGradients(leaf.grad, gradient) : ownCopy(gradient);
  }
}

/** The gradient in memory of its own: optimizers and clipping write into it. */
function ownCopy(gradient: Tensor): Tensor {
  if (gradient.storage?.isExclusive) return gradient;
  const copy = workspace('backward', gradient.shape, gradient.dtype, gradient.device);
  gradient.device.backend.cast({ x: gradient.arg, out: copy.arg });
  gradient.dispose();
  return copy;
}

/** @internal a + b, in the memory of a where nobody else sees it. Consumes both. */
export function addGradients(a: Tensor, b: Tensor): Tensor {
  const out = a.storage?.isExclusive ? a : workspace('backward', a.shape, a.dtype, a.device);
  const shape = [a.size];
  a.device.backend.binary({ kind: 'add', a: a.arg, b: b.arg, out: out.arg, shape, aStrides: [1], bStrides: [1] });
  b.dispose();
  if (out !== a) a.dispose();
  return out;
}

/** Nodes from the roots back, each before all nodes that feed it. */
function reverseOrder(roots: readonly GradNode[]): GradNode[] {
  const order: GradNode[] = [];
  const seen = new Set<GradNode>();
  const stack: { node: GradNode; next: number }[] = [];
  for (const root of roots) {
    if (seen.has(root)) continue;
    seen.add(root);
    stack.push({ node: root, next: 0 });
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      if (top.next === top.node.edges.length) {
        order.push(top.node);
        stack.pop();
        continue;
      }
      const edge = top.node.edges[top.next++];
      if (edge && 'node' in edge && !seen.has(edge.node)) {
        seen.add(edge.node);
        stack.push({ node: edge.node, next: 0 });
      }
    }
  }
  return order.reverse();
}

/** @internal Back-propagates from several tensors at once. Consumes the gradients. Each leaf's gradient goes to `sink`. */
export function runBackward(roots: readonly Tensor[], gradients: readonly Tensor[], sink: LeafSink): void {
  const pending = new Map<GradNode, (Tensor | null)[]>();
  const outer = currentSink;
  currentSink = sink;

  const deliver = (edge: Edge, gradient: Tensor): void => {
    if ('leaf' in edge) {
      sink(edge.leaf, gradient);
      return;
    }
    const slots = pending.get(edge.node) ?? new Array<Tensor | null>(edge.node.outputCount).fill(null);
    pending.set(edge.node, slots);
    const present = slots[edge.output];
    slots[edge.output] = present ? addGradients(present, gradient) : gradient;
  };

  try {
    noGrad(() => {
      const order = reverseOrder(roots.flatMap((root) => root.node ?? []));
      const used = order.find((node) => node.isReleased);
      if (used) {
        for (const gradient of gradients) gradient.dispose();
        used.apply([]); // throws, before anything is changed
      }
      roots.forEach((root, i) => {
        deliver(root.node ? { node: root.node, output: root.nodeOutput } : { leaf: root }, gradients[i]);
      });
      for (const node of order) {
        const arrived = pending.get(node);
        pending.delete(node);
        if (!arrived) {
          node.release();
          continue;
        }
        // What the rule makes is tidied away; the gradients it returns live on as handles of the engine's own.
        const owned: (Tensor | null)[] = [];
        try {
          tidy(() => {
            for (const [i, gradient] of node.apply(arrived).entries()) {
              owned.push(gradient && node.wants(i) ? gradient.alias() : null);
            }
          });
        } finally {
          for (const gradient of arrived) gradient?.dispose();
          node.release();
        }
        owned.forEach((gradient, i) => {
          if (gradient) deliver(node.edges[i] as Edge, gradient);
        });
      }
    });
  } finally {
    currentSink = outer;
    for (const slots of pending.values()) for (const gradient of slots) gradient?.dispose();
  }
}

/** @internal The sink of the backward pass under way. */
export function sinkInForce(): LeafSink {
  return currentSink;
}

/**
 * Turns `fn`, which maps tensors to a tensor of one element, into a function that gives the value and the gradients with respect to
 * every tensor argument (null for arguments of an integer dtype). `grad` fields are left alone, also those of leaves that `fn` uses without getting them as
 * arguments.
 *
 * @param fn called once, with tensors of the same contents as those given.
 * @throws ShapeError if the result of `fn` has more than one element; OptionError if it depends on no argument.
 */
export function valueAndGrad<A extends Tensor[]>(
  fn: (...inputs: A) => Tensor,
): (...inputs: A) => { value: Tensor; gradients: (Tensor | null)[] } {
  checkFunction('valueAndGrad', 'fn', fn);
  return (...inputs: A) => {
    inputs.forEach((input, i) => checkTensor('grad', `argument ${i}`, input));
    const leaves = inputs.map((input) => {
      const leaf = input.alias();
      leaf.requiresGrad = input.dtype === 'float32' || input.dtype === 'float16' || input.dtype === 'bfloat16';
      return leaf;
    });
    try {
      return tidy(() => {
        const value = withGradMode(true, () => fn(...(leaves as unknown as A)));
        checkTensor('grad', 'the result of fn', value);
        const found = new Map<Tensor, Tensor>();
        runBackward([value], [startGradient(value, undefined)], (leaf, gradient) => {
          const present = found.get(leaf);
          if (!leaves.includes(leaf)) gradient.dispose();
          else found.set(leaf, present ? addGradients(present, gradient) : ownCopy(gradient));
        });
        const gradients = leaves.map((leaf, i) => {
          if (!leaf.requiresGrad) return null;
          const gradient = found.get(leaf);
          if (!gradient) return filledLike(inputs[i]);
          const handle = gradient.detach();
          gradient.dispose();
          return handle;
        });
        return { value: value.detach(), gradients };
      });
    } finally {
      for (const leaf of leaves) leaf.dispose();
    }
  };
}

function filledLike(input: Tensor): Tensor {
  const out = ones(input.shape, { dtype: input.dtype, device: input.device });
  input.device.backend.fill({ out: out.arg, value: 0 });
  return out;
}

/** Like {@link valueAndGrad}, without the value: the gradients with respect to every tensor argument. */
export function grad<A extends Tensor[]>(fn: (...inputs: A) => Tensor): (...inputs: A) => (Tensor | null)[] {
  checkFunction('grad', 'fn', fn);
  const both = valueAndGrad(fn);
  return (...inputs: A) => {
    const { value, gradients } = both(...inputs);
    value.dispose();
    return gradients;
  };
}
