// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  applyLora,
  CausalLM,
  exportModel,
  loadModel,
  manualSeed,
  noGrad,
  OptionError,
  ShapeError,
  tensor,
  TernaryLinear,
  TernaryTensor,
  tidy,
  type CausalLMOptions,
  type ExportModelOptions,
  type Tensor,
} from '../../lib/index.js';
import { openGguf } from '../../lib/formats/gguf.js';
import { packageRoot } from '../../lib/native.js';
import { roundedTo } from '../arithmetic.js';
import { bitsOf, describeBackends } from '../harness.js';

let folder: string;
let made = 0;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(folder, { recursive: true }));
const place = (ending = ''): string => path.join(folder, `model-${made++}${ending}`);

const TERNARY: CausalLMOptions = { vocabulary: 40, layers: 2, hidden: 256, heads: 4, keyHeads: 2, intermediate: 256 };
const DENSE: CausalLMOptions = { ...TERNARY, hidden: 32, intermediate: 40, ternary: false, tieEmbeddings: false };
const LLAMA3 = { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 32 } as const;

interface Case {
  name: string;
  config: CausalLMOptions;
  /** The names of its architecture there; null where there is none. */
  transformers: string | null;
  gguf: string | null;
}
const CASES: Case[] = [
  {
    name: 'BitNet b1.58 2B-4T',
    config: { ...TERNARY, activation: 'relu2Glu', ropeTheta: 500000, contextLength: 4096 },
    transformers: 'BitNetForCausalLM',
    gguf: 'bitnet-b1.58',
  },
  { name: 'BitNet with SiLU', config: TERNARY, transformers: null, gguf: 'bitnet' },
  {
    name: 'a ternary Llama',
    config: { ...TERNARY, subNorm: false, tieEmbeddings: false },
    transformers: 'LlamaForCausalLM',
    gguf: 'llama',
  },
  { name: 'Llama', config: { ...DENSE, attentionBias: 'all' }, transformers: 'LlamaForCausalLM', gguf: 'llama' },
  {
    name: 'Llama 3.1',
    config: { ...DENSE, headDim: 16, ropeScaling: LLAMA3, tieEmbeddings: true },
    transformers: 'LlamaForCausalLM',
    gguf: 'llama',
  },
  {
    name: 'Mistral',
    config: { ...DENSE, window: 4, ropeScaling: { type: 'linear', factor: 2 } },
    transformers: 'MistralForCausalLM',
    gguf: 'llama',
  },
  { name: 'Qwen2', config: { ...DENSE, attentionBias: 'qkv' }, transformers: 'Qwen2ForCausalLM', gguf: 'qwen2' },
  { name: 'Qwen3', config: { ...DENSE, queryKeyNorm: true }, transformers: 'Qwen3ForCausalLM', gguf: 'qwen3' },
];

describeBackends((device) => {
  /** With norms and biases that are not what every model begins with, and scales that float16 holds. */
  const create = async (config: CausalLMOptions): Promise<CausalLM> => {
    manualSeed(3);
    const model = new CausalLM({ ...config, dtype: 'bfloat16' }, { device });
    for (const each of model.parameters()) {
      if (each.shape.length === 1) each.write(Float32Array.from({ length: each.size }, (_, i) => 0.5 + (i % 7) / 8));
    }
    model.freeze();
    for (const layer of model.modules().values()) {
      if (!(layer instanceof TernaryLinear)) continue;
      const { scale } = layer.weight as TernaryTensor;
      const [value] = (await scale.data()) as Float32Array;
      scale.write([roundedTo('float16', value)]);
    }
    return model;
  };
  const logitsOf = (model: CausalLM): Promise<number[]> => {
    const ids = tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9]], { dtype: 'int32', device });
    return bitsOf(noGrad(() => tidy(() => model.forward(ids))));
  };
  const stateOf = async (model: CausalLM): Promise<Record<string, string>> => {
    const bits: Record<string, string> = {};
    for (const [name, each] of model.state()) {
      const { buffer, byteOffset, byteLength } = await each.raw();
      bits[name] = Buffer.from(buffer, byteOffset, byteLength).toString('base64');
    }
    return bits;
  };
  const roundTrip = async (model: CausalLM, to: string, options: ExportModelOptions = {}): Promise<string[]> => {
    await exportModel(model, to, options);
    const warnings: string[] = [];
    using read = await loadModel(to, { device, onWarning: (each) => warnings.push(each) });
    expect(await stateOf(read)).toEqual(await stateOf(model));
    expect(await logitsOf(read)).toEqual(await logitsOf(model));
    return warnings;
  };

  describe.each(CASES)('$name', ({ config, transformers, gguf }) => {
    test('through a folder of Transformers', async () => {
      using model = await create(config);
      const to = place();
      if (transformers === null) {
        await expect(exportModel(model, to)).rejects.toThrow(OptionError);
        expect(existsSync(to)).toBe(false);
        return;
      }
      expect(await roundTrip(model, to)).toEqual([]);
      expect(readdirSync(to).sort()).toEqual(['config.json', 'model.safetensors']);
      const json = JSON.parse(readFileSync(path.join(to, 'config.json'), 'utf8')) as { architectures: string[] };
      expect(json.architectures).toEqual([transformers]);
    });

    test.each(config.ternary === false ? (['TQ2_0'] as const) : (['TQ1_0', 'TQ2_0', 'I2_S'] as const))(
      'through a GGUF file, %s',
      async (ternary) => {
        using model = await create(config);
        const to = place('.gguf');
        expect(await roundTrip(model, to, { ternary, metadata: { 'general.name': 'small' } })).toEqual([]);
        const file = await openGguf(to);
        expect(file.metadata['general.architecture']).toBe(gguf);
        expect(file.metadata['general.name']).toBe('small');
        const types = [...file.tensors.values()].map(({ type }) => type);
        expect(types.includes(ternary)).toBe(config.ternary !== false);
        await file.close();
      },
    );
  });

  test('layers that are trained are written as masters, and read back to be trained', async () => {
    manualSeed(4);
    using model = new CausalLM({ ...TERNARY, activation: 'relu2Glu' }, { device });
    const to = place();
    await exportModel(model, to);
    using read = await loadModel(to, { device, dtype: 'float32', trainable: true });
    expect(await stateOf(read)).toEqual(await stateOf(model));
    expect(read.parameters()).toHaveLength(model.parameters().length);
    using packed = await loadModel(to, { device });
    model.freeze();
    expect(await logitsOf(packed)).toEqual(await logitsOf(model));
    await expect(exportModel(new CausalLM(TERNARY, { device }), place('.gguf'))).rejects.toThrow(
      'frozen ternary layers',
    );
  });

  test("Transformers' own files, written again, are the same tensors", async () => {
    for (const name of ['llama', 'bitnet_autobitlinear_offline']) {
      const from = path.join(packageRoot(), 'test', 'fixtures', 'models', name);
      using model = await loadModel(from, { device });
      const to = place();
      await exportModel(model, to);
      using read = await loadModel(to, { device });
      expect(await stateOf(read)).toEqual(await stateOf(model));
    }
  });

  test('what has no place in a format is refused, and nothing is written', async () => {
    const refused = async (
      model: CausalLM,
      to: string,
      options: ExportModelOptions,
      message: string,
    ): Promise<void> => {
      await expect(exportModel(model, to, options)).rejects.toThrow(message);
      expect(existsSync(to)).toBe(false);
    };
    using small = await create({ ...TERNARY, hidden: 64, activation: 'relu2Glu' });
    await refused(small, place('.gguf'), {}, 'in blocks of 256');
    await expect(exportModel(small, place('.gguf'))).rejects.toThrow(ShapeError);
    using dense = await create(DENSE);
    applyLora(dense, { rank: 2 });
    await refused(dense, place(), {}, 'without LoRA adapters');
    using rows = await create({ ...TERNARY, activation: 'relu2Glu' });
    const layer = rows.layers[0].mlp.up as TernaryLinear;
    const { packed } = layer.weight as TernaryTensor;
    const scale: Tensor = tensor(
      Float32Array.from({ length: 256 }, (_, i) => 0.5 + (i % 5)),
      { device },
    );
    layer.weight = new TernaryTensor(packed, scale, [256, 256]);
    await refused(rows, place(), {}, 'expected one scale for layers.0.mlp.up.weight, got 256');
    await refused(rows, place('.gguf'), { ternary: 'I2_S' }, 'one scale for I2_S');
    expect(await roundTrip(rows, place('.gguf'))).toEqual([]);
    await refused(rows, place(), { format: 'onnx' as 'gguf' }, 'format');
    const to = path.join(place(), 'below', 'nothing.gguf');
    await expect(exportModel(rows, to)).rejects.toThrow('ENOENT');
    // A file that was there before stays as it was when it cannot be replaced.
    const kept = place('.gguf');
    writeFileSync(kept, 'before');
    await expect(exportModel(rows, kept, { ternary: 'I2_S' })).rejects.toThrow(OptionError);
    expect(readFileSync(kept, 'utf8')).toBe('before');
  });
});
