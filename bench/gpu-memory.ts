// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { FloatDType } from '../lib/dtype.js';
import { cast } from '../lib/ops/cast.js';
import { swiglu } from '../lib/ops/gated-activation.js';
import { layerNorm } from '../lib/ops/layer-norm.js';
import { quantizeTernary } from '../lib/ops/quantize-ternary.js';
import { rmsNorm } from '../lib/ops/rms-norm.js';
import { rope } from '../lib/ops/rope.js';
import { Generator } from '../lib/random.js';
import { keep, tidy } from '../lib/scope.js';
import { tensor, type Tensor } from '../lib/tensor.js';
import { AdamW } from '../lib/train/adamw.js';
import { clearGrads, disposeAll, SHORT_NAMES, size, type GpuCase } from './gpu-case.js';
import { expectNear, operand, readerOf, type Operand } from './operands.js';
import { DEVICE } from './options.js';
import { subject } from './schema.js';

const DTYPE = 'bfloat16';
const ROWS = size(16384, 64);
const COLS = size(4096, 128);
const HEAD_DIM = size(128, 32);
const HEADS = COLS / HEAD_DIM;
const INNER = size(11008, 352);
const EPS = 1e-5;
const SAMPLES = 50;
/** Of an op that computes in float32 a handful of operations an element. */
const FLOAT32_ERROR = 2 ** -18;

/** The name the results of all others are held against. */
export const COPY_CASE = 'memory copy bf16';

function copyCase(): GpuCase {
  return {
    name: COPY_CASE,
    subject: subject('copy', DTYPE),
    prepare() {
      const x = operand([size(2 ** 28, 2 ** 12)], DTYPE);
      return {
        flops: 0,
        bytes: 2 * x.tensor.bytes,
        async check() {
          using out = cast(x.tensor, DTYPE);
          const result = await readerOf(out);
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const i = random.integer(x.tensor.size);
            expectNear(COPY_CASE, 'float32', result(i), x.at(i), 0);
          }
        },
        run: () => cast(x.tensor, DTYPE).dispose(),
        dispose: () => x.tensor.dispose(),
      };
    },
  };
}

interface MemoryOp {
  op: string;
  /** Tensors of this shape are read and written: so many forward, so many more backward. */
  shape: readonly number[];
  inputs: number;
  forwardTensors: number;
  backwardTensors: number;
  /** Prepares what else it needs; gives the op and how to free that. */
  make(backward: boolean): {
    call(inputs: readonly Tensor[]): Tensor;
    /** The exact out and gradient of the first input at one element. */
    exact(inputs: readonly Operand[], dOut: Operand, index: number): { out: number; gradient: number; scale: number };
    tensors: readonly Tensor[];
  };
}

function normOp(kind: 'rmsNorm' | 'layerNorm'): MemoryOp {
  return {
    op: kind,
    shape: [ROWS, COLS],
    inputs: 1,
    forwardTensors: 2,
    backwardTensors: 3,
    make(backward) {
      const weight = operand([COLS], DTYPE, { seed: 5, requiresGrad: backward });
      const bias = operand([COLS], DTYPE, { seed: 6, requiresGrad: backward });
      const isLayer = kind === 'layerNorm';
      return {
        call: ([x]) =>
          isLayer ? layerNorm(x, weight.tensor, bias.tensor, { eps: EPS }) : rmsNorm(x, weight.tensor, { eps: EPS }),
        exact([x], dOut, index) {
          const [row, col] = [Math.floor(index / COLS), index % COLS];
          const values = x.part(row * COLS, COLS);
          const center = isLayer ? values.reduce((sum, value) => sum + value, 0) / COLS : 0;
          const rstd = 1 / Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / COLS + EPS);
          const normed = Float64Array.from(values, (value) => (value - center) * rstd);
          const g = normed.map((_, i) => dOut.at(row * COLS + i) * weight.at(i));
          const mean = isLayer ? g.reduce((sum, value) => sum + value, 0) / COLS : 0;
          const along = g.reduce((sum, value, i) => sum + value * normed[i], 0) / COLS;
          return {
            out: normed[col] * weight.at(col) + (isLayer ? bias.at(col) : 0),
            gradient: rstd * (g[col] - mean - normed[col] * along),
            scale: 16,
          };
        },
        tensors: isLayer ? [weight.tensor, bias.tensor] : [weight.tensor],
      };
    },
  };
}

const ropeOp: MemoryOp = {
  op: 'rope',
  shape: [1, ROWS, HEADS, HEAD_DIM],
  inputs: 1,
  forwardTensors: 2,
  backwardTensors: 2,
  make() {
    const positions = tensor(
      Int32Array.from({ length: ROWS }, (_, i) => i),
      { shape: [1, ROWS], device: DEVICE },
    );
    const rotated = (x: Operand, index: number, sign: number): number => {
      const [token, feature] = [Math.floor(index / COLS), index % HEAD_DIM];
      const half = HEAD_DIM / 2;
      const angle = token * 10000 ** ((-2 * (feature % half)) / HEAD_DIM);
      const other = feature < half ? -x.at(index + half) : x.at(index - half);
      return x.at(index) * Math.cos(angle) + sign * other * Math.sin(angle);
    };
    return {
      call: ([x]) => rope(x, { positions }),
      exact: ([x], dOut, index) => ({ out: rotated(x, index, 1), gradient: rotated(dOut, index, -1), scale: 16 }),
      tensors: [positions],
    };
  },
};

const swigluOp: MemoryOp = {
  op: 'swiglu',
  shape: [ROWS / 2, INNER],
  inputs: 2,
  forwardTensors: 3,
  backwardTensors: 5,
  make: () => ({
    call: ([gate, up]) => swiglu(gate, up),
    exact([gate, up], dOut, index) {
      const [g, u] = [gate.at(index), up.at(index)];
      const sigmoid = 1 / (1 + Math.exp(-g));
      return { out: g * sigmoid * u, gradient: dOut.at(index) * u * sigmoid * (1 + g * (1 - sigmoid)), scale: 16 };
    },
    tensors: [],
  }),
};

function memoryCase(op: MemoryOp, backward: boolean): GpuCase {
  const pass = backward ? 'forward+backward' : 'forward';
  const name = `memory ${op.op} ${pass} bf16`;
  return {
    name,
    subject: subject(op.op, DTYPE, { pass }),
    prepare() {
      const { call, exact, tensors } = op.make(backward);
      const inputs = Array.from({ length: op.inputs }, (_, i) =>
        operand(op.shape, DTYPE, { seed: i + 1, requiresGrad: backward }),
      );
      const dOut = operand(op.shape, DTYPE, { seed: 4 });
      const leaves = inputs.map((each) => each.tensor);
      const once = (): Tensor => {
        const out = call(leaves);
        if (backward) out.backward(dOut.tensor);
        return out;
      };
      const clear = (): void => clearGrads([...leaves, ...tensors]);
      return {
        flops: 0,
        bytes: dOut.tensor.bytes * (op.forwardTensors + (backward ? op.backwardTensors : 0)),
        async check() {
          const out = await readerOf(tidy(once));
          const gradient = backward ? await readerOf(leaves[0].grad as Tensor) : null;
          clear();
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const index = random.integer(dOut.tensor.size);
            const expected = exact(inputs, dOut, index);
            expectNear(name, DTYPE, out(index), expected.out, FLOAT32_ERROR * expected.scale);
            if (gradient) {
              expectNear(`${name} gradient`, DTYPE, gradient(index), expected.gradient, FLOAT32_ERROR * expected.scale);
            }
          }
        },
        run() {
          tidy(() => void once());
          clear();
        },
        dispose: () => disposeAll([...leaves, dOut.tensor, ...tensors]),
      };
    },
  };
}

const PARAMETERS = size(2 ** 26, 2 ** 12);
const LEARNING_RATE = 1e-3;
const WEIGHT_DECAY = 0.1;

function adamwCase(dtype: FloatDType): GpuCase {
  const hasMaster = dtype !== 'float32';
  const name = `memory AdamW ${SHORT_NAMES[dtype]}${hasMaster ? ' with fp32 masters' : ''}`;
  return {
    name,
    subject: subject('AdamW', dtype),
    prepare() {
      const parameter = operand([PARAMETERS], dtype, { seed: 1, requiresGrad: true });
      const gradient = operand([PARAMETERS], dtype, { seed: 2 });
      parameter.tensor.grad = keep(gradient.tensor);
      const optimizer = new AdamW([parameter.tensor], { learningRate: LEARNING_RATE, weightDecay: WEIGHT_DECAY });
      const { bytes } = parameter.tensor;
      return {
        flops: 0,
        // Gradient read; parameter written and, without a master, read; master and both moments read and written.
        bytes: bytes * (hasMaster ? 2 : 3) + 8 * PARAMETERS * (hasMaster ? 3 : 2),
        async check() {
          optimizer.step();
          const updated = await readerOf(optimizer.state().tensors.get('0.master') ?? parameter.tensor);
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const i = random.integer(PARAMETERS);
            // The moments of the first step, corrected, are g and g^2.
            const update = (LEARNING_RATE * gradient.at(i)) / (Math.abs(gradient.at(i)) + 1e-8);
            const expected = parameter.at(i) * (1 - LEARNING_RATE * WEIGHT_DECAY) - update;
            expectNear(name, 'float32', updated(i), expected, 2 ** -22 * Math.abs(expected) + 1e-9);
          }
        },
        run: () => optimizer.step(),
        dispose() {
          optimizer.dispose();
          parameter.tensor.dispose();
        },
      };
    },
  };
}

function quantizeCase(): GpuCase {
  const name = 'memory quantizeTernary bf16';
  const [rows, cols] = [size(8192, 64), size(4096, 128)];
  return {
    name,
    subject: subject('quantizeTernary', DTYPE),
    prepare() {
      const weight = operand([rows, cols], DTYPE);
      return {
        flops: 0,
        // The scale is known only after a first reading, so that there are two.
        bytes: rows * cols * 4.25,
        async check() {
          using packed = quantizeTernary(weight.tensor);
          const [trits, scale] = [await packed.trits(), await packed.scale.item()];
          const values = weight.part(0, rows * cols);
          const mean = values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length;
          expectNear(`${name} scale`, 'float32', scale, mean, 0);
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const i = random.integer(values.length);
            const scaled = Math.fround(values[i] * Math.fround(1 / scale));
            expectNear(name, 'float32', trits[i], Math.abs(scaled) <= 0.5 ? 0 : Math.sign(scaled), 0);
          }
        },
        run: () => quantizeTernary(weight.tensor).dispose(),
        dispose: () => weight.tensor.dispose(),
      };
    },
  };
}

export function memoryCases(): GpuCase[] {
  const ops = [normOp('rmsNorm'), normOp('layerNorm'), ropeOp, swigluOp];
  return [
    copyCase(),
    ...ops.flatMap((op) => [memoryCase(op, false), memoryCase(op, true)]),
    adamwCase('float32'),
    adamwCase('bfloat16'),
    quantizeCase(),
  ];
}
