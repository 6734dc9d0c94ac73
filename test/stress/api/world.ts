// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  applyLora,
  CausalLM,
  exportModel,
  ones,
  openGguf,
  openSafetensors,
  saveLora,
  tensor,
  TernaryTensor,
  Tokenizer,
  Trainer,
  writeGguf,
  writeSafetensors,
  zeros,
  type CausalLMOptions,
  type DeviceName,
  type Tensor,
  type TensorFile,
} from '../../../lib/index.js';
import type { DType } from '../../../lib/dtype.js';
import type { Random } from '../../random.js';
import { byteLevelTokenizer } from '../../text/tiny-tokenizers.js';

/** What holds memory until it is disposed. */
interface Owner {
  dispose(): void;
}

export const SMALL: CausalLMOptions = { vocabulary: 264, layers: 1, hidden: 8, heads: 2, intermediate: 8 };

const TEMPLATE =
  "{% for message in messages %}{{ message['role'] + ':' + message['content'] + '<|eot|>' }}{% endfor %}" +
  '{% if add_generation_prompt %}assistant:{% endif %}';

/** Files of all kinds that the library reads; made once. */
export interface Files {
  readonly folder: string;
  readonly safetensors: string;
  readonly gguf: string;
  readonly jsonl: string;
  /** What `CausalLM.save` wrote. */
  readonly model: string;
  /** A checkpoint of Transformers, with its tokenizer. */
  readonly checkpoint: string;
  readonly lora: string;
  /** A checkpoint of a training run. */
  readonly run: string;
  readonly tokenizer: Tokenizer;
  readonly open: { readonly safetensors: TensorFile; readonly gguf: TensorFile };
  remove(): Promise<void>;
}

export async function makeFiles(): Promise<Files> {
  const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-stress-'));
  const at = (name: string): string => path.join(folder, name);
  const device = 'reference';
  const own = [
    tensor([[1, 2, 3, 4]], { device }),
    TernaryTensor.fromTrits(new Int8Array(256), [1, 256], 1, { device }),
  ];
  const [floats, trits] = own as [Tensor, TernaryTensor];
  const packed = zeros([1, 8], { dtype: 'uint8', device });
  await writeSafetensors(at('some.safetensors'), { floats, packed });
  await writeGguf(at('some.gguf'), {
    metadata: { 'general.architecture': 'bitnet' },
    tensors: { floats, trits: { weight: trits, type: 'TQ2_0' } },
  });
  writeFileSync(at('some.jsonl'), '{"text":"the sea"}\n{"prompt":"a","completion":"b"}\n');

  const model = new CausalLM(SMALL, { device });
  await model.save(at('model.safetensors'));
  applyLora(model, { rank: 2 });
  await saveLora(model, at('lora.safetensors'));
  const trainer = new Trainer({
    model,
    data: Uint16Array.from({ length: 40 }, (_, i) => i),
    batchSize: 1,
    maxSequenceLength: 4,
    gradientAccumulation: 1,
    mixedPrecision: null,
    save: { folder: at('run') },
  });
  const run = await trainer.save();
  trainer.dispose();

  const plain = new CausalLM({ ...SMALL, ternary: false }, { device });
  mkdirSync(at('checkpoint'));
  await exportModel(plain, at('checkpoint'));
  writeFileSync(at('checkpoint/tokenizer.json'), JSON.stringify(byteLevelTokenizer([]).json));
  const special = { bos_token: '<|begin|>', eos_token: '<|end|>', chat_template: TEMPLATE };
  writeFileSync(at('checkpoint/tokenizer_config.json'), JSON.stringify(special));
  for (const each of [...own, packed, model, plain]) each.dispose();

  const open = { safetensors: await openSafetensors(at('some.safetensors')), gguf: await openGguf(at('some.gguf')) };
  return {
    folder,
    safetensors: at('some.safetensors'),
    gguf: at('some.gguf'),
    jsonl: at('some.jsonl'),
    model: at('model.safetensors'),
    checkpoint: at('checkpoint'),
    lora: at('lora.safetensors'),
    run,
    tokenizer: await Tokenizer.load(at('checkpoint')),
    open,
    async remove() {
      await open.safetensors.close();
      await open.gguf.close();
      rmSync(folder, { recursive: true });
    },
  };
}

/** What a call is made of: inputs of its own, which are gone when it is over. */
export class World {
  private owned: Owner[] = [];
  private written = 0;

  constructor(
    readonly files: Files,
    readonly random: Random,
    /** Where the inputs are. */
    readonly device: DeviceName,
  ) {}

  /** Keeps what has to be disposed after the call. */
  own<T extends Owner>(value: T): T {
    this.owned.push(value);
    return value;
  }

  /** Ones: no op refuses them. */
  t(shape: readonly number[], dtype: DType = 'float32', requiresGrad = false): Tensor {
    return this.own(ones(shape, { dtype, device: this.device, requiresGrad }));
  }

  /** int32, zeros. */
  ids(...shape: number[]): Tensor {
    return this.own(zeros(shape, { dtype: 'int32', device: this.device }));
  }

  /** A leaf that has a gradient. */
  trained(shape: readonly number[]): Tensor {
    const leaf = this.t(shape, 'float32', true);
    leaf.grad = ones(shape, { device: this.device });
    return leaf;
  }

  ternary(rows: number, cols: number, scales: number | readonly number[] = 1): TernaryTensor {
    const trits = Int8Array.from({ length: rows * cols }, (_, i) => (i % 3) - 1);
    return this.own(TernaryTensor.fromTrits(trits, [rows, cols], scales, { device: this.device }));
  }

  model(options: Partial<CausalLMOptions> = {}): CausalLM {
    return this.own(new CausalLM({ ...SMALL, ...options }, { device: this.device }));
  }

  /** The name of a file that is not there yet. */
  out(ending = ''): string {
    return path.join(this.files.folder, `out-${this.written++}${ending}`);
  }

  /** Disposes all that was made, and removes what was written. */
  end(): void {
    for (const each of this.owned) each.dispose();
    this.owned = [];
    for (; this.written > 0; this.written--) {
      for (const ending of ['', '.gguf', '.safetensors', '.jsonl']) {
        rmSync(path.join(this.files.folder, `out-${this.written - 1}${ending}`), { recursive: true, force: true });
      }
    }
  }
}
