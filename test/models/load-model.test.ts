// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  FormatError,
  generate,
  generateBatch,
  loadModel,
  OptionError,
  noGrad,
  readSafetensors,
  tensor,
  TernaryLinear,
  tidy,
  writeSafetensors,
  type CausalLM,
  type DeviceName,
  type LoadModelOptions,
  type RopeScaling,
  type Tensor,
} from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { arithmeticIn, EXACT, roundedTo } from '../arithmetic.js';
import { expectWithinTolerance, FORWARD_FACTOR, largestError } from '../compare.js';
import { plainLogits, plainLogitsOfTies, type PlainConfig, type PlainWeights } from '../formulas/causal-lm.js';
import { ternaryOf } from '../formulas/ternary.js';
import { describeBackends } from '../harness.js';
import { Random } from '../random.js';

const fixture = (name: string): string => path.join(packageRoot(), 'test', 'fixtures', 'models', name);

let folder: string;
let made = 0;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(folder, { recursive: true }));

/** Values and shapes of a safetensors file, read on the reference device. */
async function valuesIn(file: string): Promise<Map<string, { shape: readonly number[]; values: Float64Array }>> {
  const { tensors } = await readSafetensors(file, { device: 'reference' });
  const read = new Map<string, { shape: readonly number[]; values: Float64Array }>();
  for (const [name, each] of tensors) {
    read.set(name, { shape: each.shape, values: new Float64Array(await each.data()) });
    each.dispose();
  }
  return read;
}

const logitsOf = async (model: CausalLM, tokens: readonly (readonly number[])[]): Promise<Float32Array> => {
  const logits = noGrad(() =>
    tidy(() =>
      model.forward(
        tensor(
          tokens.map((row) => [...row]),
          { dtype: 'int32', device: model.device },
        ),
      ),
    ),
  );
  const values = (await logits.data()) as Float32Array;
  logits.dispose();
  return values;
};

/** The weights as the plain model takes them: trits of matrices that are packed or, if `online`, rounded. */
function plainWeights(
  stored: Map<string, { shape: readonly number[]; values: Float64Array }>,
  kind: 'float' | 'online' | 'multiply' | 'divide',
): PlainWeights {
  const weights: PlainWeights = new Map();
  for (const [name, { shape, values }] of stored) {
    if (name.endsWith('_scale')) continue;
    if (kind === 'float' || !/_proj\.weight$/.test(name)) weights.set(name, values);
    else if (kind === 'online') weights.set(name, ternaryOf(values));
    else {
      const [rows, cols] = shape;
      const trits = new Float64Array(4 * rows * cols).map(
        (_, i) => (Math.floor(values[i % (rows * cols)] / 4 ** Math.floor(i / (rows * cols))) % 4) - 1,
      );
      const [scale] = stored.get(`${name}_scale`)?.values ?? [NaN];
      weights.set(name, { trits, scale: Math.fround(kind === 'multiply' ? scale : 1 / scale) });
    }
  }
  return weights;
}

interface Golden {
  name: string;
  kind: 'float' | 'online' | 'multiply' | 'divide';
}
const GOLDEN: Golden[] = [
  { name: 'llama', kind: 'float' },
  { name: 'bitnet_master', kind: 'online' },
  { name: 'bitnet_autobitlinear_offline', kind: 'multiply' },
  { name: 'bitnet_bitlinear', kind: 'divide' },
];

/** A random checkpoint as Transformers would write it. */
function randomWeights(
  config: PlainConfig & { vocab_size: number; tie?: boolean; biases?: readonly string[]; qkNorm?: boolean },
) {
  const random = new Random(JSON.stringify(config));
  const {
    hidden_size: hidden,
    intermediate_size: inner,
    num_attention_heads: heads,
    num_key_value_heads: keyHeads,
  } = config;
  const headDim = config.head_dim ?? hidden / heads;
  const weights = new Map<string, { shape: number[]; values: Float64Array }>();
  const add = (name: string, shape: number[], std: number, mean = 0): void => {
    const count = shape.reduce((p, size) => p * size, 1);
    const values = random.normals(count).map((each) => roundedTo('bfloat16', each * std + mean));
    weights.set(name, { shape, values });
  };
  add('model.embed_tokens.weight', [config.vocab_size, hidden], 1);
  if (!config.tie) add('lm_head.weight', [config.vocab_size, hidden], 0.1);
  add('model.norm.weight', [hidden], 0.1, 1);
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    add(`${at}.input_layernorm.weight`, [hidden], 0.1, 1);
    add(`${at}.post_attention_layernorm.weight`, [hidden], 0.1, 1);
    const linear: [string, number, number][] = [
      ['self_attn.q_proj', heads * headDim, hidden],
      ['self_attn.k_proj', keyHeads * headDim, hidden],
      ['self_attn.v_proj', keyHeads * headDim, hidden],
      ['self_attn.o_proj', hidden, heads * headDim],
      ['mlp.gate_proj', inner, hidden],
      ['mlp.up_proj', inner, hidden],
      ['mlp.down_proj', hidden, inner],
    ];
    for (const [name, rows, cols] of linear) {
      add(`${at}.${name}.weight`, [rows, cols], 1 / Math.sqrt(cols));
      if (config.biases?.some((part) => name.includes(part))) add(`${at}.${name}.bias`, [rows], 0.2);
    }
    if (config.qkNorm)
      for (const each of ['q_norm', 'k_norm']) add(`${at}.self_attn.${each}.weight`, [headDim], 0.1, 1);
  }
  return weights;
}

type Stored = ReturnType<typeof randomWeights>;

async function write(config: object, weights: Stored, shards = 1): Promise<string> {
  const place = path.join(folder, `checkpoint-${made++}`);
  mkdirSync(place);
  writeFileSync(path.join(place, 'config.json'), JSON.stringify(config));
  const tensors = [...weights].map(([name, { shape, values }]): [string, Tensor] => [
    name,
    tensor(values, { shape, dtype: 'bfloat16', device: 'reference' }),
  ]);
  const map: Record<string, string> = {};
  for (let shard = 0; shard < shards; shard++) {
    const file = shards === 1 ? 'model.safetensors' : `model-0000${shard + 1}-of-0000${shards}.safetensors`;
    const own = tensors.filter((_, i) => i % shards === shard);
    own.forEach(([name]) => (map[name] = file));
    await writeSafetensors(path.join(place, file), new Map(own));
  }
  if (shards > 1) writeFileSync(path.join(place, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
  for (const [, each] of tensors) each.dispose();
  return place;
}

const SMALL = {
  vocab_size: 50,
  hidden_size: 32,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-6,
  max_position_embeddings: 64,
};
const LLAMA3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };

interface Descendant {
  name: string;
  /** What is added to config.json. */
  json: object;
  plain: Partial<Parameters<typeof randomWeights>[0]>;
  shards?: number;
}
const DESCENDANTS: Descendant[] = [
  {
    name: 'Llama 3: scaled frequencies as Transformers 4 wrote them, tied, in two files',
    json: {
      architectures: ['LlamaForCausalLM'],
      rope_theta: 500,
      rope_scaling: { rope_type: 'llama3', ...LLAMA3 },
      tie_word_embeddings: true,
      torch_dtype: 'bfloat16',
    },
    plain: {
      rope_theta: 500,
      rope_scaling: {
        type: 'llama3',
        factor: 8,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositions: 32,
      } as RopeScaling,
      tie: true,
    },
    shards: 2,
  },
  {
    name: 'Llama with all biases and an old linear scaling',
    json: {
      architectures: ['LlamaForCausalLM'],
      attention_bias: true,
      mlp_bias: true,
      rope_scaling: { type: 'linear', factor: 2 },
    },
    plain: { biases: ['self_attn', 'mlp'], rope_scaling: { type: 'linear', factor: 2 } as RopeScaling },
  },
  {
    name: 'Mistral: a sliding window, a head dim of its own',
    json: { architectures: ['MistralForCausalLM'], sliding_window: 5, head_dim: 16 },
    plain: { sliding_window: 5, head_dim: 16 },
  },
  {
    name: 'Qwen2: biases of query, key and value',
    json: { model_type: 'qwen2', use_sliding_window: false, sliding_window: 5, max_window_layers: 2, rope_theta: 1000 },
    plain: { biases: ['q_proj', 'k_proj', 'v_proj'], rope_theta: 1000 },
  },
  {
    name: 'Qwen3: norms of heads',
    json: { architectures: ['Qwen3ForCausalLM'], rope_parameters: { rope_theta: 100, rope_type: 'default' } },
    plain: { qkNorm: true, rope_theta: 100 },
  },
  {
    name: 'GELU',
    json: { architectures: ['LlamaForCausalLM'], hidden_act: 'gelu_pytorch_tanh' },
    plain: { hidden_act: 'gelu_pytorch_tanh' },
  },
];

describeBackends((device) => {
  describe.each(GOLDEN)('$name, as Transformers wrote it', ({ name, kind }) => {
    const load = (options: LoadModelOptions = {}): Promise<CausalLM> =>
      loadModel(fixture(name), { device, ...options });

    test('logits within the rule of those of the plain formula, and those of Transformers too', async () => {
      using model = await load({ dtype: 'float32' });
      expect([...model.modules().values()].some((each) => each instanceof TernaryLinear)).toBe(kind !== 'float');
      expect(model.parameters()).toEqual([]);
      const expected = await valuesIn(path.join(fixture(name), 'expected.safetensors'));
      const { shape, values } = expected.get('tokens') as { shape: readonly number[]; values: Float64Array };
      const rows = Array.from({ length: shape[0] }, (_, b) => [...values.subarray(b * shape[1], (b + 1) * shape[1])]);
      const json = JSON.parse(readFileSync(path.join(fixture(name), 'config.json'), 'utf8')) as PlainConfig & {
        vocab_size: number;
        rope_parameters: { rope_theta: number };
      };
      const config = { ...json, rope_theta: json.rope_parameters.rope_theta };
      const weights = plainWeights(await valuesIn(path.join(fixture(name), 'model.safetensors')), kind);
      const logits = expected.get('logits') as { values: Float64Array };
      const got = await logitsOf(model, rows);
      const size = rows[0].length * json.vocab_size;
      rows.forEach((row, b) => {
        const ways = plainLogitsOfTies(config, weights, row);
        const plainError = largestError(plainLogits(arithmeticIn('float32'), config, weights, row), ways[0]);
        const judge = (
          label: string,
          values: ArrayLike<number> & { subarray(from: number, to: number): ArrayLike<number> },
        ) => {
          const own = values.subarray(b * size, (b + 1) * size);
          const distances = ways.map((way) => largestError(own, way));
          const exact = ways[distances.indexOf(Math.min(...distances))];
          const shape = [row.length, json.vocab_size];
          expectWithinTolerance({
            name: label,
            got: own,
            exact,
            plainError,
            factor: FORWARD_FACTOR,
            dtype: 'float32',
            shape,
          });
        };
        judge('Transformers', logits.values);
        judge('ours', got);
      });
      const greedy = expected.get('greedy');
      if (!greedy) return;
      const tokens: number[] = [];
      for await (const token of generate(model, rows[0].slice(0, 8), { maxTokens: 24, temperature: 0 }))
        tokens.push(token);
      expect(tokens).toEqual([...greedy.values].slice(8));
      // The same in a batch, beside others.
      const batch: number[] = [];
      for await (const { sequence, token } of generateBatch(model, [rows[1].slice(0, 3), rows[0].slice(0, 8)], {
        maxTokens: 24,
        temperature: 0,
      }))
        if (sequence === 1) batch.push(token);
      expect(batch).toEqual(tokens);
    });

    test('the dtype is the one asked for', async () => {
      using model = await load({ dtype: 'bfloat16' });
      expect([model.config.dtype, model.embedding.dtype]).toEqual(['bfloat16', 'bfloat16']);
      expect(await logitsOf(model, [[1, 2, 3]])).toHaveLength(3 * 320);
    });

    if (kind === 'float' || kind === 'online') {
      test('trainable, it computes the same and has gradients', async () => {
        using model = await load({ dtype: 'float32', trainable: true });
        using constant = await load({ dtype: 'float32' });
        const tokens = [[5, 6, 7, 8, 9]];
        expect(await logitsOf(model, tokens)).toEqual(await logitsOf(constant, tokens));
        const ids = tensor(tokens, { dtype: 'int32', device });
        model.loss(ids, ids).backward();
        expect(model.parameters()).toHaveLength(model.state().size);
        for (const each of model.parameters()) expect(each.grad).not.toBeNull();
      });
    } else {
      test('packed trits are not trained', async () => {
        await expect(load({ trainable: true })).rejects.toThrow(OptionError);
      });
    }
  });

  test.each(DESCENDANTS)('$name', async ({ json, plain, shards }) => {
    const config = { rope_theta: 10000, hidden_act: 'silu', ...SMALL, ...plain } as Parameters<typeof randomWeights>[0];
    const weights = randomWeights(config);
    const place = await write({ hidden_act: 'silu', ...SMALL, ...json }, weights, shards);
    const warnings: string[] = [];
    using model = await loadModel(place, { device, dtype: 'float32', onWarning: (each) => warnings.push(each) });
    const tokens = Array.from({ length: 20 }, (_, i) => (i * 17) % 50);
    const values: PlainWeights = new Map([...weights].map(([name, each]) => [name, each.values]));
    const exact = plainLogits(EXACT, config, values, tokens);
    const plainError = largestError(plainLogits(arithmeticIn('float32'), config, values, tokens), exact);
    const got = await logitsOf(model, [tokens]);
    expectWithinTolerance({
      name: 'logits',
      got,
      exact,
      plainError,
      factor: FORWARD_FACTOR,
      dtype: 'float32',
      shape: [20, 50],
    });
    expect([warnings, model.config.contextLength]).toEqual([[], 64]);
    // Token by token, through the cache.
    const cache = model.createCache(1, 20);
    for (let i = 0; i < 20; i++) {
      const logits = model.nextLogits(tensor([[tokens[i]]], { dtype: 'int32', device }), cache);
      const row = (await logits.data()) as Float32Array;
      row.forEach((each, v) => expect(Math.abs(each - got[i * 50 + v])).toBeLessThan(1e-4));
      logits.dispose();
    }
    cache.dispose();
  });
});

describe('what is wrong is said', () => {
  const device: DeviceName = 'reference';
  const base = { architectures: ['LlamaForCausalLM'], ...SMALL };
  const plain = { rope_theta: 10000, hidden_act: 'silu', ...SMALL } as Parameters<typeof randomWeights>[0];
  const WRONG: [string, object, string][] = [
    ['an unknown architecture', { architectures: ['GPT2LMHeadModel'] }, 'got ["GPT2LMHeadModel"]'],
    ['no architecture', { architectures: undefined }, 'for model_type, got none'],
    [
      'another quantisation',
      { quantization_config: { quant_method: 'gptq' } },
      'expected bitnet for quant_method, got "gptq"',
    ],
    [
      'a norm inside linear layers',
      { quantization_config: { quant_method: 'bitnet', use_rms_norm: true } },
      'use_rms_norm',
    ],
    [
      'an unknown scaling',
      { rope_scaling: { rope_type: 'yarn', factor: 2 } },
      'one of default, linear, llama3 for rope_type, got "yarn"',
    ],
    ['an unknown activation', { hidden_act: 'mish' }, 'for hidden_act, got "mish"'],
    ['a size that is none', { hidden_size: 'wide' }, 'expected a whole number for hidden_size, got "wide"'],
    ['an absurd size', { num_hidden_layers: 1e9 }, 'layers'],
    ['heads that do not divide', { num_key_value_heads: 3 }, 'keyHeads'],
    [
      'other shapes',
      { intermediate_size: 44 },
      'expected model.layers.0.mlp.gate_proj.weight of shape [44, 32], got [40, 32]',
    ],
    ['a missing tensor', { num_hidden_layers: 3 }, 'expected a tensor named model.layers.2'],
    ['missing sub-norms', { architectures: ['BitNetForCausalLM'] }, 'self_attn.attn_sub_norm.weight or'],
  ];
  test.each(WRONG)('%s', async (_, json, message) => {
    const place = await write({ ...base, ...json }, randomWeights(plain));
    const loading = loadModel(place, { device });
    await expect(loading).rejects.toThrow(FormatError);
    await expect(loading).rejects.toThrow(message);
  });

  test('no name', async () => {
    await expect(loadModel(undefined as unknown as string)).rejects.toThrow(OptionError);
    await expect(loadModel('')).rejects.toThrow('expected the name of a file or folder for location, got ""');
  });

  test('config.json that is no JSON, or not there', async () => {
    const place = await write(base, randomWeights(plain));
    writeFileSync(path.join(place, 'config.json'), '{"a":');
    await expect(loadModel(place, { device })).rejects.toThrow(FormatError);
    rmSync(path.join(place, 'config.json'));
    await expect(loadModel(place, { device })).rejects.toThrow('ENOENT');
  });

  const packed = (): Stored => {
    const weights = randomWeights(plain);
    for (const [name, { shape, values }] of [...weights]) {
      if (!/_proj\.weight$/.test(name)) continue;
      const { trits, scale } = ternaryOf(values);
      const [rows, cols] = [shape[0] / 4, shape[1]];
      const bytes = new Float64Array(rows * cols).map((__, i) =>
        [0, 1, 2, 3].reduce((byte, part) => byte + (trits[i + part * rows * cols] + 1) * 4 ** part, 0),
      );
      weights.set(name, { shape: [rows, cols], values: bytes });
      weights.set(`${name}_scale`, { shape: [1], values: Float64Array.of(scale) });
    }
    return weights;
  };
  const quantization = { quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear' } };
  const writePacked = async (change: (weights: Stored) => void, json: object = quantization): Promise<string> => {
    const weights = packed();
    change(weights);
    const place = path.join(folder, `checkpoint-${made++}`);
    mkdirSync(place);
    writeFileSync(path.join(place, 'config.json'), JSON.stringify({ ...base, ...json }));
    const tensors = new Map(
      [...weights].map(([name, { shape, values }]) => {
        const dtype = /_proj\.weight$/.test(name) ? 'uint8' : 'float32';
        return [name, tensor(values, { shape, dtype, device })];
      }),
    );
    await writeSafetensors(path.join(place, 'model.safetensors'), tensors);
    for (const each of tensors.values()) each.dispose();
    return place;
  };
  const warningsOf = async (place: string, options: LoadModelOptions = {}): Promise<string[]> => {
    const warnings: string[] = [];
    using model = await loadModel(place, { device, ...options, onWarning: (each) => warnings.push(each) });
    expect(model.config.ternary).toBe(true);
    return warnings;
  };
  const q = 'model.layers.0.self_attn.q_proj.weight';

  test('nothing, of a ternary Llama without sub-norms', async () => {
    expect(await warningsOf(await writePacked(() => undefined))).toEqual([]);
  });
  test('code 3', async () => {
    const place = await writePacked((weights) => ((weights.get(q) as { values: Float64Array }).values[3] = 3));
    await expect(loadModel(place, { device })).rejects.toThrow(FormatError);
    await expect(loadModel(place, { device })).rejects.toThrow('q_proj');
  });
  test('no scale', async () => {
    const place = await writePacked((weights) => weights.delete(`${q}_scale`));
    await expect(loadModel(place, { device })).rejects.toThrow(`expected a scale named ${q}_scale`);
  });
  test.each([0, -1, NaN])('a scale of %p', async (scale) => {
    const place = await writePacked((weights) =>
      weights.set(`${q}_scale`, { shape: [1], values: Float64Array.of(scale) }),
    );
    await expect(loadModel(place, { device })).rejects.toThrow(`for ${q}_scale, got ${scale}`);
  });
  test('a scale that looks inverted', async () => {
    const place = await writePacked((weights) =>
      weights.set(`${q}_scale`, { shape: [1], values: Float64Array.of(40) }),
    );
    expect(await warningsOf(place)).toEqual([expect.stringContaining('the other way round')]);
    const divided = { quantization_config: { quant_method: 'bitnet' } };
    const inverted = await writePacked((weights) => {
      for (const [name, each] of weights)
        if (name.endsWith('_scale')) each.values[0] = name === `${q}_scale` ? 0.03125 : 40;
    }, divided);
    expect(await warningsOf(inverted)).toEqual([expect.stringContaining(`${q}_scale is 0.03125`)]);
  });
  test('zeros only', async () => {
    const place = await writePacked((weights) => (weights.get(q) as { values: Float64Array }).values.fill(0b01010101));
    expect(await warningsOf(place)).toEqual([`${q} holds zeros only`]);
  });
  test('tensors without use', async () => {
    const place = await writePacked((weights) =>
      weights.set('model.layers.0.self_attn.attn_sub_norm.weight', {
        shape: [32],
        values: new Float64Array(32).fill(1),
      }),
    );
    expect(await warningsOf(place)).toEqual([
      'LlamaForCausalLM has no use for model.layers.0.self_attn.attn_sub_norm.weight',
    ]);
  });
  test('a scale that nothing is multiplied by', async () => {
    const unused = 'model.layers.0.input_layernorm.weight_scale';
    const place = await writePacked((weights) => weights.set(unused, { shape: [1], values: Float64Array.of(2) }));
    await expect(loadModel(place, { device })).rejects.toThrow(FormatError);
    await expect(loadModel(place, { device })).rejects.toThrow(`expected no scale named ${unused}`);
  });
  test('squared ReLU in float16', async () => {
    const warnings: string[] = [];
    const golden = await loadModel(fixture('bitnet_bitlinear'), {
      device,
      dtype: 'float16',
      onWarning: (each) => warnings.push(each),
    });
    golden.dispose();
    expect(warnings).toEqual([expect.stringContaining('overflows float16')]);
  });
});
