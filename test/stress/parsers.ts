// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { Readable } from 'node:stream';
import {
  CausalLM,
  DocumentDataset,
  documentEncoder,
  loadLora,
  loadModel,
  openGguf,
  openTensors,
  readJsonl,
  readSafetensors,
  readTrainingCheckpoint,
  TernflashError,
  Tokenizer,
  Trainer,
  zeros,
  writeSafetensors,
} from '../../lib/index.js';
import { main } from '../../lib/cli/main.js';
import { byteLevelTokenizer, llamaTokenizer } from '../text/tiny-tokenizers.js';
import { SMALL } from './api/world.js';
import { Findings, type Scenario } from './scenario.js';

/**
 * Files that are made to cost: deep, long, or full of promises. A reader has to refuse them or to read them, in time and memory that grow as the file
 * does.
 */

/** Of a file of {@link Hostile.size}; a few MB. A busy machine takes several times as long as an idle one, so it is the processor's time. */
const MOST_SECONDS = 20;
/** Beyond what the process held before, for a file of some MB: what JSON.parse may make of it. */
const MOST_BYTES = 1.5 * 2 ** 30;
/** From a file to one of four times its size; 16 would be quadratic. What takes less than this is not compared. */
const MOST_GROWTH = 9;
const COMPARED_SECONDS = 0.4;

/** A file, or a folder of files, and who reads it. */
interface Hostile {
  name: string;
  /** How large it is made; read at a quarter of this first. */
  size: number;
  /** Writes it, into a folder of its own. */
  write(folder: string, size: number): void;
  read(folder: string): Promise<unknown>;
  /** How much longer a file of four times the size may take, where that is more than {@link MOST_GROWTH}. */
  growth?: number;
  /** Whether it has to be refused; else it may be read as well. */
  refused?: boolean;
}

const brackets = (size: number): string => '['.repeat(size / 2) + ']'.repeat(size / 2);
const pairs = (size: number): string => `[${'[],'.repeat(size / 3)}[]]`;

function safetensors(json: string | Buffer): Buffer {
  const header = Buffer.from(json);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header]);
}

const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value: number | bigint): Buffer => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
const text = (value: string): Buffer => Buffer.concat([u64(value.length), Buffer.from(value)]);
const gguf = (tensors: number | bigint, values: number | bigint, ...rest: Buffer[]): Buffer =>
  Buffer.concat([Buffer.from('GGUF'), u32(3), u64(tensors), u64(values), ...rest]);

const config = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 16,
  hidden_size: 8,
  num_attention_heads: 2,
  num_hidden_layers: 1,
  intermediate_size: 8,
};

const file = (name: string, content: (size: number) => string | Buffer) => (folder: string, size: number) =>
  writeFileSync(path.join(folder, name), content(size));

/** A checkpoint of Transformers whose config.json is this. */
const withConfig = (json: (size: number) => string) => (folder: string, size: number) => {
  writeFileSync(path.join(folder, 'config.json'), json(size));
  writeFileSync(path.join(folder, 'model.safetensors'), safetensors('{}'));
};

const withTokenizer =
  (json: (size: number) => object | string, more: (size: number) => object = () => ({})) =>
  (folder: string, size: number) => {
    const content = json(size);
    writeFileSync(path.join(folder, 'tokenizer.json'), typeof content === 'string' ? content : JSON.stringify(content));
    writeFileSync(path.join(folder, 'tokenizer_config.json'), JSON.stringify(more(size)));
  };

const load = (folder: string): Promise<Tokenizer> => Tokenizer.load(folder);
const { json: byteLevel } = byteLevelTokenizer([]);
const one = (name: string) => (folder: string) => path.join(folder, name);

async function all(lines: AsyncIterable<unknown>): Promise<number> {
  let count = 0;
  for await (const each of lines) if (each !== undefined) count++;
  return count;
}

/** The command line with these arguments; gives what it says. */
async function commandLine(args: string[]): Promise<string> {
  let said = '';
  const output = { write: (part: string) => (said += part) };
  const code = await main(args, {
    out: output,
    errors: output,
    input: Readable.from([]),
    signal: new AbortController().signal,
    loadTextModel: () => Promise.reject(new Error('expected no model to be loaded')),
  });
  if (said.includes('fault of its own')) throw new Error(said.slice(0, 300));
  if (said.length > 4000) throw new Error(`a message of ${said.length} letters`);
  if (code !== 2) throw new Error(`exit code ${code}: ${said.slice(0, 300)}`);
  return said;
}

/** The file of a saved model with other metadata. */
const withMetadata =
  (name: string, metadata: (size: number) => Record<string, string>) => (folder: string, size: number) =>
    writeFileSync(path.join(folder, name), safetensors(JSON.stringify({ __metadata__: metadata(size) })));

const MB = 2 ** 20;

const HOSTILE: readonly Hostile[] = [
  // safetensors
  {
    name: 'safetensors header: brackets in each other',
    size: 16 * MB,
    write: file('a.safetensors', (size) => safetensors(`{"a":${brackets(size)}}`)),
    read: (folder) => readSafetensors(one('a.safetensors')(folder)),
    refused: true,
  },
  {
    name: 'safetensors header: empty lists',
    size: 16 * MB,
    write: file('a.safetensors', (size) => safetensors(`{"a":${pairs(size)}}`)),
    read: (folder) => readSafetensors(one('a.safetensors')(folder)),
    refused: true,
  },
  {
    name: 'safetensors header: a name of megabytes',
    size: 32 * MB,
    write: file('a.safetensors', (size) => safetensors(`{"${'x'.repeat(size)}":{"dtype":"?"}}`)),
    read: (folder) => readSafetensors(one('a.safetensors')(folder)),
    refused: true,
  },
  {
    name: 'safetensors header: a number of megabytes',
    size: 8 * MB,
    write: file('a.safetensors', (size) => safetensors(`{"a":{"dtype":"F32","shape":[${'9'.repeat(size)}]}}`)),
    read: (folder) => readSafetensors(one('a.safetensors')(folder)),
    refused: true,
  },
  {
    name: 'safetensors header: empty tensors by the hundred thousand',
    size: 300_000,
    write: file('a.safetensors', (size) => {
      const entries = Array.from({ length: size }, (_, i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`);
      return safetensors(`{${entries.join()}}`);
    }),
    read: async (folder) => (await openTensors(one('a.safetensors')(folder))).close(),
  },
  {
    name: 'safetensors header: a length of 2^64 - 1',
    size: 64,
    write: file('a.safetensors', (size) => Buffer.alloc(size, 0xff)),
    read: (folder) => readSafetensors(one('a.safetensors')(folder)),
    refused: true,
  },
  {
    name: 'safetensors index: file names by the hundred thousand',
    size: 300_000,
    write: file('model.safetensors.index.json', (size) => {
      const names = Array.from({ length: size }, (_, i) => `"t${i}":"f${i}"`);
      return `{"weight_map":{${names.join()}}}`;
    }),
    read: (folder) => openTensors(folder),
    refused: true,
  },
  {
    name: 'safetensors index that never ends',
    size: 1,
    write: (folder) => symlinkSync('/dev/zero', path.join(folder, 'model.safetensors.index.json')),
    read: (folder) => openTensors(folder),
    refused: true,
  },

  // GGUF
  {
    name: 'GGUF: counts of 2^63',
    size: 64,
    write: file('a.gguf', () => gguf(2n ** 63n, 2n ** 63n, Buffer.alloc(40))),
    read: (folder) => openGguf(one('a.gguf')(folder)),
    refused: true,
  },
  {
    name: 'GGUF: arrays in arrays',
    size: 12 * MB,
    write: file('a.gguf', (size) => {
      const list = Buffer.concat([u32(9), u64(1)]);
      return gguf(0, 1, text('a'), u32(9), Buffer.concat(Array.from({ length: size / 12 }, () => list)));
    }),
    read: (folder) => openGguf(one('a.gguf')(folder)),
    refused: true,
  },
  {
    name: 'GGUF: empty arrays in an array',
    size: 12 * MB,
    write: file('a.gguf', (size) => {
      const empty = Buffer.concat([u32(4), u64(0)]);
      const count = size / 12;
      return gguf(
        0,
        1,
        text('a'),
        u32(9),
        u32(9),
        u64(count),
        Buffer.concat(Array.from({ length: count }, () => empty)),
      );
    }),
    read: (folder) => openGguf(one('a.gguf')(folder)),
    refused: true,
  },
  {
    name: 'GGUF: empty texts',
    size: 32 * MB,
    write: file('a.gguf', (size) => gguf(0, 1, text('a'), u32(9), u32(8), u64(size / 8), Buffer.alloc(size))),
    read: async (folder) => (await openGguf(one('a.gguf')(folder))).close(),
  },
  {
    name: 'GGUF: pairs by the hundred thousand',
    size: 500_000,
    write: file('a.gguf', (size) => {
      const pair = (i: number): Buffer => Buffer.concat([text(`k${i}`), u32(0), Buffer.alloc(1)]);
      return gguf(0, size, Buffer.concat(Array.from({ length: size }, (_, i) => pair(i))), Buffer.alloc(64));
    }),
    read: async (folder) => (await openGguf(one('a.gguf')(folder))).close(),
  },
  {
    name: 'GGUF: a text of megabytes in one value',
    size: 64 * MB,
    write: file('a.gguf', (size) =>
      gguf(0, 1, text('a'), u32(8), u64(size), Buffer.alloc(size, 'x'), Buffer.alloc(64)),
    ),
    read: async (folder) => (await openGguf(one('a.gguf')(folder))).close(),
  },

  // config.json
  {
    name: 'config.json: brackets in each other',
    size: 16 * MB,
    write: withConfig((size) => `{"architectures":${brackets(size)}}`),
    read: (folder) => loadModel(folder),
    refused: true,
  },
  {
    name: 'config.json: empty lists',
    size: 64 * MB,
    write: withConfig((size) => `{"architectures":${pairs(size)}}`),
    read: (folder) => loadModel(folder),
    refused: true,
  },
  {
    name: 'config.json: sizes of 2^53 - 1',
    size: 1,
    write: withConfig(() => JSON.stringify({ ...config, num_hidden_layers: 2 ** 53 - 1, hidden_size: 2 ** 53 - 1 })),
    read: (folder) => loadModel(folder),
    refused: true,
  },
  {
    name: 'config.json: as many layers as there may be',
    size: 4096,
    write: withConfig((size) => JSON.stringify({ ...config, num_hidden_layers: size, vocab_size: 2 ** 24 })),
    read: (folder) => loadModel(folder),
    refused: true,
  },
  {
    name: 'config.json that never ends',
    size: 1,
    write: (folder) => symlinkSync('/dev/zero', path.join(folder, 'config.json')),
    read: (folder) => loadModel(folder),
    refused: true,
  },
  {
    name: 'config.json of 4 GiB',
    size: 2 ** 32,
    write: (folder, size) => {
      const handle = openSync(path.join(folder, 'config.json'), 'w');
      ftruncateSync(handle, size);
      closeSync(handle);
    },
    read: (folder) => loadModel(folder),
    refused: true,
  },

  // tokenizer.json
  {
    name: 'tokenizer.json: brackets in each other',
    size: 16 * MB,
    write: withTokenizer((size) => `{"model":${brackets(size)}}`),
    read: load,
    refused: true,
  },
  {
    name: 'tokenizer.json: steps in steps',
    size: 90,
    write: withTokenizer((size) => {
      let step: object = { type: 'ByteLevel' };
      for (let i = 0; i < size / 2; i++) step = { type: 'Sequence', pretokenizers: [step] };
      return { ...byteLevel, pre_tokenizer: step };
    }),
    read: load,
  },
  {
    name: 'tokenizer.json: ids of 2^32',
    size: 1,
    write: withTokenizer(() => ({
      ...byteLevel,
      model: { type: 'BPE', vocab: { a: 2 ** 32 - 1, b: 2 ** 53, c: -1, d: 0.5 }, merges: [] },
    })),
    read: load,
  },
  {
    name: 'tokenizer.json: words that are names of an object',
    size: 1,
    write: withTokenizer(() => {
      const vocab = JSON.parse('{"__proto__":0,"constructor":1,"toString":2,"hasOwnProperty":3}') as object;
      return { ...byteLevel, model: { type: 'BPE', vocab, merges: [] } };
    }),
    read: async (folder) => (await load(folder)).encode('constructor __proto__'),
  },
  {
    name: 'tokenizer.json: words by the hundred thousand',
    size: 200_000,
    write: withTokenizer((size) => {
      const vocab = Object.fromEntries(Array.from({ length: size }, (_, i) => [`w${i}`, i]));
      return { ...byteLevel, added_tokens: [], model: { type: 'BPE', vocab, merges: [] } };
    }),
    read: load,
  },
  {
    name: 'tokenizer.json: added tokens by the thousand',
    size: 20_000,
    write: withTokenizer((size) => {
      const added = Array.from({ length: size }, (_, i) => ({ id: 300 + i, content: `<|${i}|>`, special: true }));
      return { ...byteLevel, added_tokens: added };
    }),
    read: async (folder) => (await load(folder)).encode('<|1|> the sea <|2|>'),
  },
  {
    name: 'a text of one long word, byte-level BPE',
    size: 200_000,
    write: withTokenizer(
      () =>
        byteLevelTokenizer([
          ['x', 'x'],
          ['xx', 'xx'],
          ['xxxx', 'xxxx'],
        ]).json,
      (size) => ({ size }),
    ),
    read: async (folder) => (await load(folder)).encode('x'.repeat(sizeOf(folder))),
  },
  {
    name: 'a text without spaces, BPE on the whole text',
    size: 200_000,
    write: withTokenizer(
      () => llamaTokenizer(['▁', 'x', 'xx'], [['x', 'x']]),
      (size) => ({ size }),
    ),
    read: async (folder) => (await load(folder)).encode('x'.repeat(sizeOf(folder))),
  },

  // chat templates
  {
    name: 'chat template: parentheses in each other',
    size: 200_000,
    write: withTokenizer(
      () => byteLevel,
      (size) => ({ chat_template: `{{ ${'('.repeat(size)}1${')'.repeat(size)} }}` }),
    ),
    read: async (folder) => (await load(folder)).applyChatTemplate([{ role: 'user', content: 'a' }]),
    refused: true,
  },
  {
    name: 'chat template: blocks in each other',
    size: 20_000,
    write: withTokenizer(
      () => byteLevel,
      (size) => ({ chat_template: '{% if true %}'.repeat(size) }),
    ),
    read: async (folder) => (await load(folder)).applyChatTemplate([{ role: 'user', content: 'a' }]),
    refused: true,
  },
  {
    name: 'chat template: megabytes of text',
    size: 8 * MB,
    write: withTokenizer(
      () => byteLevel,
      (size) => ({ chat_template: `${'x'.repeat(size)}{{ messages[0].content }}` }),
    ),
    read: async (folder) => (await load(folder)).applyChatTemplate([{ role: 'user', content: 'a' }]),
  },
  {
    name: 'chat template that never ends',
    size: 1,
    write: (folder) => {
      withTokenizer(() => byteLevel)(folder, 1);
      symlinkSync('/dev/zero', path.join(folder, 'chat_template.jinja'));
    },
    read: load,
    refused: true,
  },

  // JSON Lines
  {
    name: 'JSON Lines: brackets in each other',
    size: 16 * MB,
    write: file('a.jsonl', brackets),
    read: (folder) => all(readJsonl(one('a.jsonl')(folder))),
    refused: true,
  },
  {
    name: 'JSON Lines: empty lists',
    size: 60 * MB,
    write: file('a.jsonl', pairs),
    read: (folder) => all(readJsonl(one('a.jsonl')(folder))),
    refused: true,
  },
  {
    name: 'JSON Lines: one line of megabytes',
    size: 48 * MB,
    write: file('a.jsonl', (size) => `"${'x'.repeat(size)}"`),
    read: (folder) => all(readJsonl(one('a.jsonl')(folder))),
  },
  {
    name: 'JSON Lines: a line that is too long',
    size: 256 * MB,
    write: file('a.jsonl', (size) => Buffer.alloc(size, 'x')),
    read: (folder) => all(readJsonl(one('a.jsonl')(folder))),
    refused: true,
  },
  {
    name: 'JSON Lines: numbers',
    size: 48 * MB,
    write: file('a.jsonl', (size) => `[${'1,'.repeat(size / 2)}1]`),
    read: (folder) => all(readJsonl(one('a.jsonl')(folder))),
  },
  {
    name: 'JSON Lines: short lines',
    size: 8 * MB,
    write: file('a.jsonl', (size) => '1\n'.repeat(size / 2)),
    read: (folder) => all(readJsonl(one('a.jsonl')(folder))),
  },
  {
    // The template is run twice for each answer, on all that comes before it: only so can be said which text is the answer.
    name: 'documents: a conversation of many messages',
    size: 800,
    growth: 20,
    write: (folder, size) => {
      const chat_template = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + ';' }}{% endfor %}";
      withTokenizer(
        () => byteLevel,
        () => ({ chat_template }),
      )(folder, size);
      const messages = Array.from({ length: size }, (_, i) => ({
        role: i % 2 === 0 ? 'user' : 'assistant',
        content: `message ${i}`,
      }));
      writeFileSync(path.join(folder, 'a.jsonl'), JSON.stringify({ messages }));
    },
    read: async (folder) =>
      DocumentDataset.read(one('a.jsonl')(folder), { encoder: documentEncoder(await load(folder)) }),
  },

  // files of CausalLM.save, adapters and training runs, whose metadata are JSON inside of JSON
  ...(['config', 'layers', 'state'] as const).flatMap((key): Hostile[] => {
    const [format, read] = {
      config: ['ternflash-causal-lm', (name: string) => CausalLM.load(name)],
      layers: ['ternflash-lora', (name: string) => loadLora(new CausalLM(SMALL), name)],
      state: ['ternflash-training-checkpoint', (name: string) => readTrainingCheckpoint(name)],
    }[key] as [string, (name: string) => Promise<unknown>];
    const hostile = (what: string, size: number, json: (size: number) => string): Hostile => ({
      name: `${format}: ${what}`,
      size,
      write: withMetadata('a.safetensors', (at) => ({ format, version: '1', [key]: json(at) })),
      read: (folder) => read(one('a.safetensors')(folder)),
      refused: true,
    });
    return [
      hostile('brackets in each other', 16 * MB, brackets),
      hostile('empty lists', 64 * MB, pairs),
      hostile('null', 1, () => 'null'),
      ...(key === 'config'
        ? [hostile('sizes of 1e300', 1, () => '{"vocabulary":1e300,"layers":4096,"hidden":8}')]
        : []),
    ];
  }),
  {
    name: 'a training run: a state of other kinds',
    size: 1,
    write: () => undefined,
    async read(folder) {
      using model = new CausalLM(SMALL);
      using trainer = new Trainer({
        model,
        data: new Uint16Array(40),
        batchSize: 1,
        maxSequenceLength: 4,
        mixedPrecision: null,
      });
      const saved = path.join(folder, 'a.safetensors');
      const metadata = { format: 'ternflash-training-checkpoint', version: '1', state: '{"step":"x","config":7}' };
      await writeSafetensors(saved, { a: zeros([1]) }, metadata);
      await trainer.resume(saved);
    },
    refused: true,
  },
  {
    name: "a training run: a file 'latest' of megabytes",
    size: 64 * MB,
    write: (folder, size) => writeFileSync(path.join(folder, 'latest'), Buffer.alloc(size, 'x')),
    async read(folder) {
      using model = new CausalLM(SMALL);
      const save = { folder };
      using trainer = new Trainer({
        model,
        data: new Uint16Array(40),
        batchSize: 1,
        maxSequenceLength: 4,
        mixedPrecision: null,
        save,
      });
      await trainer.resume();
    },
    refused: true,
  },

  // the command line
  ...(
    [
      ['a command of 100,000 letters', (size: number) => ['x'.repeat(size)]],
      ['an option of 100,000 letters', (size: number) => ['generate', `--${'x'.repeat(size)}`]],
      ['a number of 100,000 digits', (size: number) => ['generate', 'm', 'p', '--seed', '9'.repeat(size)]],
      ['many options', (size: number) => ['generate', ...Array.from({ length: size / 10 }, () => '--seed=1')]],
      ['a number that is none', () => ['train', '--model', 'm', '--data', 'd', '--out', 'o', '--steps', '1e999']],
      ['a negative size', () => ['train', '--model', 'm', '--data', 'd', '--out', 'o', '--batch-tokens=-1']],
      ['control characters', () => ['generate', 'm', 'p', '--seed', '\u001b[2J']],
    ] as const
  ).map(([name, args]): Hostile => {
    let size = 0;
    return {
      name: `command line: ${name}`,
      size: 100_000,
      write: (_, at) => void (size = at),
      read: () => commandLine([...args(size)]),
    };
  }),
];

/** What the configuration of a tokenizer says of the size of a text. */
function sizeOf(folder: string): number {
  return (JSON.parse(readFileSync(path.join(folder, 'tokenizer_config.json'), 'utf8')) as { size: number }).size;
}

interface Measured {
  seconds: number;
  bytes: number;
  error: unknown;
}

async function measure(hostile: Hostile, size: number): Promise<Measured> {
  const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-hostile-'));
  let peak = 0;
  const watch = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 20);
  try {
    mkdirSync(folder, { recursive: true });
    hostile.write(folder, size);
    global.gc?.();
    const before = process.memoryUsage.rss();
    const begin = process.cpuUsage();
    let error: unknown = null;
    try {
      await hostile.read(folder);
    } catch (caught) {
      error = caught;
    }
    const { user, system } = process.cpuUsage(begin);
    peak = Math.max(peak, process.memoryUsage.rss());
    return { seconds: (user + system) / 1e6, bytes: peak - before, error };
  } finally {
    clearInterval(watch);
    rmSync(folder, { recursive: true });
  }
}

export const parsers: Scenario = {
  summary: 'files that are made to cost: everything that is parsed',
  count: HOSTILE.length,
  async run({ only }, say) {
    const findings = new Findings();
    const chosen = HOSTILE.filter(({ name }) => only === null || name.includes(only));
    let [slowest, largest] = [
      { seconds: 0, name: '' },
      { bytes: 0, name: '' },
    ];
    let refused = 0;
    for (const hostile of chosen) {
      say(hostile.name);
      const small = hostile.size >= 64 ? await measure(hostile, hostile.size / 4) : null;
      const { seconds, bytes, error } = await measure(hostile, hostile.size);
      if (seconds > slowest.seconds) slowest = { seconds, name: hostile.name };
      if (bytes > largest.bytes) largest = { bytes, name: hostile.name };
      if (error !== null) refused++;
      const figures = `${seconds.toFixed(2)} s, ${(bytes / MB).toFixed(0)} MiB`;
      if (error !== null && !(error instanceof TernflashError))
        findings.add(`${hostile.name}: no typed error`, String((error as Error).stack).slice(0, 400));
      else if (error !== null && (error as Error).message.length > 2000)
        findings.add(`${hostile.name}: a long message`, `${(error as Error).message.length} letters`);
      if (hostile.refused && error === null) findings.add(`${hostile.name}: is taken`, figures);
      if (seconds > MOST_SECONDS) findings.add(`${hostile.name}: slow`, figures);
      if (bytes > MOST_BYTES) findings.add(`${hostile.name}: much memory`, figures);
      if (small && seconds > COMPARED_SECONDS && seconds > (hostile.growth ?? MOST_GROWTH) * small.seconds)
        findings.add(`${hostile.name}: grows too fast`, `${small.seconds.toFixed(2)} s, then ${figures}`);
    }
    return {
      figures: {
        'kinds of files': chosen.length,
        refused,
        'read as they are': chosen.length - refused,
        'most of the processor, s': `${slowest.seconds.toFixed(1)}: ${slowest.name}`,
        'most memory, MiB': `${(largest.bytes / MB).toFixed(0)}: ${largest.name}`,
      },
      findings: findings.lines(),
    };
  },
};
