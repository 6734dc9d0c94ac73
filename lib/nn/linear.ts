// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkBoolean, checkFloat, checkInteger, checkOptions, checkShape, checkTogether } from '../check.js';
import type { Device, DeviceName } from '../device.js';
import type { FloatDType } from '../dtype.js';
import { isRecording } from '../autograd/tape.js';
import { bitLinear } from '../ops/bit-linear.js';
import { linear } from '../ops/linear.js';
import { checkTernary, quantizeTernary } from '../ops/quantize-ternary.js';
import { ternaryMatmul, ternaryMatmuls } from '../ops/ternary-matmul.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import { keep, tidy } from '../scope.js';
import { randn, zeros, type Tensor } from '../tensor.js';
import type { LoraAdapter } from './lora.js';
import { Module, parameter } from './module.js';

/** Options of {@link Linear} and {@link TernaryLinear}. */
export interface LinearOptions {
  /** Whether there is a bias. Default false. */
  bias?: boolean;
  /** Standard deviation of the initial weights. Default 1/√inputs. The bias starts at 0. */
  std?: number;
  /** Default float32. */
  dtype?: FloatDType;
  /** Default: the default device. */
  device?: DeviceName | Device;
}

const OPTIONS = ['bias', 'std', 'dtype', 'device'];

function initial(
  op: string,
  inputs: number,
  outputs: number,
  options: LinearOptions,
): { weight: Tensor; bias: Tensor | null } {
  checkInteger(op, 'inputs', inputs, 1, 2 ** 31 - 1);
  checkInteger(op, 'outputs', outputs, 1, 2 ** 31 - 1);
  checkOptions(op, options, OPTIONS);
  const { dtype = 'float32', device = 'auto', std = 1 / Math.sqrt(inputs) } = options;
  const hasBias = checkBoolean(op, 'bias', options.bias ?? false);
  const weight = parameter(randn([outputs, inputs], { std, dtype, device }));
  try {
    return { weight, bias: hasBias ? parameter(zeros([outputs], { dtype, device })) : null };
  } catch (error) {
    weight.dispose();
    throw error;
  }
}

function adapted(x: Tensor, lora: LoraAdapter | null, base: () => Tensor): Tensor {
  return lora ? tidy(() => lora.forward(x, base())) : base();
}

/** y = x Wᵀ + b: see the op {@link linear}. */
export class Linear extends Module {
  /** [outputs, inputs] */
  weight: Tensor;
  /** [outputs] or null */
  bias: Tensor | null;
  /** A low-rank update that is added to the result, or null; see {@link applyLora}. */
  lora: LoraAdapter | null = null;

  /**
   * Random weights, drawn from the library's generator.
   *
   * @param inputs features of x, K.
   * @param outputs features of y, N.
   * @throws OptionError, DeviceError, OutOfMemoryError.
   */
  constructor(inputs: number, outputs: number, options: LinearOptions = {}) {
    super();
    ({ weight: this.weight, bias: this.bias } = initial('Linear', inputs, outputs, options));
  }

  /**
   * @param x [..., inputs].
   * @returns [..., outputs].
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor): Tensor {
    return adapted(x, this.lora, () => linear(x, this.weight, this.bias));
  }
}

/**
 * The linear layer of BitNet b1.58. It trains a float weight that is rounded to trits on every call ({@link bitLinear}); `freeze()` replaces that
 * weight by the packed trits, which take a sixteenth of its memory and give the same results to the bit.
 */
export class TernaryLinear extends Module {
  /** [outputs, inputs], float while training, packed once frozen. */
  weight: Tensor | TernaryTensor;
  /** [outputs] or null */
  bias: Tensor | null;
  /** A low-rank update that is added to the result, or null; see {@link applyLora}. */
  lora: LoraAdapter | null = null;

  /**
   * Random weights, drawn from the library's generator.
   *
   * @param inputs features of x, K.
   * @param outputs features of y, N.
   * @throws OptionError, DeviceError, OutOfMemoryError.
   */
  constructor(inputs: number, outputs: number, options: LinearOptions = {}) {
    super();
    ({ weight: this.weight, bias: this.bias } = initial('TernaryLinear', inputs, outputs, options));
  }

  /**
   * A frozen layer of this weight and this bias, which is constant from now on: the layer takes them over.
   *
   * @throws OptionError, ShapeError, DTypeError, DeviceError, DisposedError.
   */
  static frozen(weight: TernaryTensor, bias: Tensor | null = null): TernaryLinear {
    const op = 'TernaryLinear.frozen';
    checkTernary(op, weight);
    if (bias !== null) {
      checkFloat(op, 'bias', bias);
      checkShape(op, 'bias', bias, [weight.shape[0]], 'to match weight');
      checkTogether(op, { weight: weight.scale, bias }, false);
    }
    // Not by the constructor, which draws random weights.
    const layer = Object.create(TernaryLinear.prototype) as TernaryLinear;
    weight.tensors().forEach(keep);
    layer.weight = weight;
    layer.bias = bias;
    layer.lora = null;
    layer.train(); // as every new module
    if (bias) {
      keep(bias).clearGrad();
      bias.requiresGrad = false;
    }
    return layer;
  }

  /** Whether the weight is packed. */
  get isFrozen(): boolean {
    return this.weight instanceof TernaryTensor;
  }

  /**
   * @param x [..., inputs].
   * @returns [..., outputs].
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor): Tensor {
    const { weight, bias } = this;
    return adapted(x, this.lora, () =>
      weight instanceof TernaryTensor ? ternaryMatmul(x, weight, { bias }) : bitLinear(x, weight, bias),
    );
  }

  /** Packs the weight and frees the float one. It cannot be trained any more. Does nothing the second time. */
  freeze(): void {
    if (this.weight instanceof TernaryTensor) return;
    const packed = quantizeTernary(this.weight);
    packed.tensors().forEach(keep);
    this.weight.dispose();
    this.weight = packed;
    if (this.bias) this.bias.requiresGrad = false;
  }
}

/**
 * @internal What each of the layers makes of x. Where no gradient is asked for, frozen ternary layers share the rounding of x, which for one token takes as long as a
 * product.
 */
export function forwardAll(layers: readonly (Linear | TernaryLinear)[], x: Tensor): Tensor[] {
  const products = layers.flatMap(({ weight, bias, lora }) =>
    weight instanceof TernaryTensor && lora === null ? [{ weight, bias }] : [],
  );
  return products.length === layers.length && !isRecording()
    ? ternaryMatmuls(x, products)
    : layers.map((layer) => layer.forward(x));
}
