// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { releasingTape } from './autograd/tape.js';
import type { GraphHandle } from './backend.js';
import { callNow } from './call-now.js';
import { refuseInCapture, whileCapturing, type Capturing } from './capturing.js';
import { checkOptions } from './check.js';
import { describe } from './describe.js';
import { device as deviceNamed, type Device, type DeviceName } from './device.js';
import { DeviceError, DisposedError, KernelError, OptionError } from './errors.js';
import { tidy } from './scope.js';

/** Options of {@link capture}. */
export interface CaptureOptions {
  /** The device whose ops are captured. Default: the default device. */
  device?: DeviceName | Device;
}

// The net below explicit disposal, as for tensors.
const unreachable = new FinalizationRegistry<{ device: Device; graph: GraphHandle }>(({ device, graph }) =>
  device.backend.freeGraph(graph),
);

/** Ops that were captured by {@link capture}, to be run again in one piece. */
export class CapturedGraph<T> {
  private graph: GraphHandle | null;

  /** @internal */
  constructor(
    /** The device it runs on. */
    readonly device: Device,
    graph: GraphHandle,
    /** What the step returned. The tensors in it are the caller's; every replay writes them again. */
    readonly result: T,
  ) {
    this.graph = graph;
    unreachable.register(this, { device, graph }, this);
  }

  /** Whether it was given up: it cannot be replayed any more. */
  get isDisposed(): boolean {
    return this.graph === null;
  }

  /**
   * Runs the ops again, after everything queued before and with the elements that their inputs have by then. Resolves when they have run; a second replay
   * need not wait for the first.
   *
   * @throws CaptureError, at once, inside a capture. Rejects with DisposedError; with KernelError if one of the ops, or one queued before, failed.
   */
  replay(): Promise<void> {
    if (this.graph === null)
      return Promise.reject(new DisposedError('replay: expected a live graph, got a disposed one'));
    return this.device.replay(this.graph);
  }

  /**
   * @internal Runs the ops again and says nothing of it: whoever waits for the device next, as a read of the result does, hears of a failure.
   *
   * @throws DisposedError.
   */
  enqueue(): void {
    if (this.graph === null) throw new DisposedError('replay: expected a live graph, got a disposed one');
    this.device.enqueue(this.graph);
  }

  /**
   * Gives up the graph and the memory that it alone holds, once the replays queued so far have run. The tensors of `result` stay. Safe to call
   * twice.
   */
  dispose(): void {
    if (this.graph === null) return;
    unreachable.unregister(this);
    this.device.backend.freeGraph(this.graph);
    this.graph = null;
  }

  /** Called at the end of a `using` block: see {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Runs `step` once, with its ops on one device captured into a graph instead of run: nothing is computed until {@link CapturedGraph.replay}, and the
 * tensors of the result hold nothing before that. On `cuda` a replay costs one launch however many ops there are (a CUDA graph); on `cpu` it saves what
 * the calls cost in JavaScript; the results are those of calling `step` itself, to the bit.
 *
 * ```
 * using x = zeros([1, 512]);
 * using graph = capture(() => noGrad(() => model.forward(x)));
 * x.write(values);
 * await graph.replay();
 * const logits = await graph.result.data();
 * ```
 *
 * - Inputs are tensors made before. A replay reads what they hold by then; {@link Tensor.write} gives them new elements. Everything else is fixed by
 *   the capture: shapes, options, numbers.
 * - Tensors that `step` makes and does not return are disposed, as by {@link tidy}; their memory is used again inside the graph.
 * - `step` may run a backward pass. A gradient that was there before is added to by every replay; one that the capture has made (`clearGrad()` before it)
 *   is written anew by every replay. Leave it in its place: after `clearGrad()` the replays write what nobody sees. What is returned is outside
 *   the graph of gradients: the backward pass belongs into `step`.
 * - Memory: what the graph uses, inputs included, is handed to nobody else while the graph lives, whoever disposes the tensors; it counts in
 *   `reservedBytes` of {@link memory}.
 *
 * What a replay could not do again throws CaptureError when `step` calls it: reading a tensor and `synchronize()`; new data (`tensor`, `write` and whatever
 * brings numbers from the host); random numbers (`randn`, dropout, sampling); counting (`AdamW.step`, new tokens in a KV cache whose lengths are not on the device); moving memory
 * (offload, transfers, limits); a capture inside. The capture then fails, also if `step` catches the error. If it fails, or `step` throws, nothing was
 * computed, what `step` made is disposed, and gradients are as before; the device goes on working.
 *
 * @param step called once; returns without a promise.
 * @returns the graph, and with it what `step` returned.
 * @throws CaptureError; DeviceError if the device cannot capture (`reference`); OptionError if `step` is async; KernelError if the device refuses the graph;
 * what `step` throws.
 */
export function capture<T>(step: () => T, options: CaptureOptions = {}): CapturedGraph<T> {
  const op = 'capture';
  refuseInCapture(op, 'nested');
  checkOptions(op, options, ['device']);
  if (typeof step !== 'function') throw new OptionError(`${op}: expected a function for step, got ${describe(step)}`);
  const device = deviceNamed(options.device ?? 'auto');
  const problem = device.backend.beginCapture();
  if (problem !== null)
    throw new DeviceError(`${op}: expected a device that can capture, got ${device.id}: ${problem}`);
  const { graph, result } = whileCapturing(device, (capturing) => {
    let underway = true;
    const end = (): ReturnType<Device['backend']['endCapture']> => {
      underway = false;
      return device.backend.endCapture();
    };
    try {
      return tidy(() => {
        const made = releasingTape(() => callNow(op, step));
        if (capturing.refused) throw capturing.refused;
        const ended = end();
        if ('failure' in ended)
          throw new KernelError(`${ended.failure.op}: ${ended.failure.message}`, ended.failure.op);
        return { graph: ended.graph, result: made };
      });
    } catch (error) {
      takeBackGradients(capturing);
      if (underway) {
        const ended = end();
        if ('graph' in ended) device.backend.freeGraph(ended.graph);
      }
      throw error;
    }
  });
  return new CapturedGraph(device, graph, result);
}

/** Gradients that were made in a capture that failed were never computed. */
function takeBackGradients({ gradients }: Capturing): void {
  for (const [leaf, before] of gradients) {
    if (leaf.isDisposed || leaf.grad === before) continue;
    leaf.clearGrad();
    leaf.grad = before?.isDisposed ? null : before;
  }
}
