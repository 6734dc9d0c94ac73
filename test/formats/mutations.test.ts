// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  FormatError,
  memory,
  openGguf,
  openSafetensors,
  readFloats,
  readTernary,
  resetPeakMemory,
  ShapeError,
  TernaryTensor,
  writeGguf,
  writeSafetensors,
  type TensorFile,
} from '../../lib/index.js';
import { OpenFile } from '../../lib/formats/open-file.js';
import { make } from '../harness.js';
import { Random } from '../random.js';

/**
 * Damaged files, 1,000 for each reader: each has to give a FormatError or to load, in memory that is bounded by the size of the file. A failure names its
 * mutation, by which it is made again.
 */

const COUNT = 1000;
// What a reader may take at once of a file of some KB. One number that is believed is 2^31 and more.
const MAX_BYTES_AT_ONCE = 2 ** 17;
const NUMBERS = [0n, 1n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 60n, 2n ** 63n, 2n ** 64n - 1n];

let folder: string;
let largest: number;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'));
  const read = OpenFile.prototype.read;
  jest.spyOn(OpenFile.prototype, 'read').mockImplementation(function (this: OpenFile, offset, length) {
    largest = Math.max(largest, length);
    return read.call(this, offset, length);
  });
});
afterAll(() => {
  jest.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

/** Ways to damage a file; each has its numbers from `random` only. */
const MUTATIONS: Record<string, (bytes: Buffer, random: Random) => Buffer> = {
  'flip a bit': (bytes, random) => {
    bytes[random.integer(0, bytes.length - 1)] ^= 1 << random.integer(0, 7);
    return bytes;
  },
  'flip bits of the header': (bytes, random) => {
    for (let i = random.integer(1, 8); i > 0; i--) {
      bytes[random.integer(0, Math.min(bytes.length, 512) - 1)] ^= 1 << random.integer(0, 7);
    }
    return bytes;
  },
  'set a byte': (bytes, random) => {
    bytes[random.integer(0, Math.min(bytes.length, 1024) - 1)] = [0, 0xff, 0x7f, 0x80, 0x22, 0x5b, 0x7b][
      random.integer(0, 6)
    ];
    return bytes;
  },
  truncate: (bytes, random) => bytes.subarray(0, random.integer(0, bytes.length - 1)),
  append: (bytes, random) => Buffer.concat([bytes, Buffer.alloc(random.integer(1, 100), random.integer(0, 255))]),
  'cut out': (bytes, random) => {
    const at = random.integer(0, bytes.length - 1);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random.integer(1, 64))]);
  },
  'repeat a part': (bytes, random) => {
    const at = random.integer(0, bytes.length - 1);
    const end = at + random.integer(1, 64);
    return Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)]);
  },
  'move a part': (bytes, random) => {
    const from = random.integer(0, bytes.length - 1);
    bytes.copy(bytes, random.integer(0, Math.min(bytes.length, 1024) - 1), from, from + random.integer(1, 32));
    return bytes;
  },
  'a 64-bit number': (bytes, random) => {
    const at = random.integer(0, Math.min(bytes.length, 1024) - 8);
    bytes.writeBigUInt64LE(NUMBERS[random.integer(0, NUMBERS.length - 1)], at);
    return bytes;
  },
  'a 32-bit number': (bytes, random) => {
    bytes.writeUInt32LE(
      [0, 1, 2 ** 31, 2 ** 32 - 1, 9, 36, 99][random.integer(0, 6)],
      random.integer(0, Math.min(bytes.length, 1024) - 4),
    );
    return bytes;
  },
  'bytes that are not UTF-8': (bytes, random) => {
    bytes.set([0xc3, 0x28, 0xff], random.integer(0, Math.min(bytes.length, 1024) - 3));
    return bytes;
  },
};

/** For texts of JSON: numbers, names and brackets in the wrong places. */
const JSON_MUTATIONS: typeof MUTATIONS = {
  'another number': (bytes, random) => {
    const numbers = [
      '1e400',
      '-1',
      '0.5',
      '1152921504606846976',
      '9007199254740993',
      'null',
      '"1"',
      '[]',
      '{}',
      'true',
    ];
    return replaceOne(bytes, random, /\d+/g, numbers[random.integer(0, numbers.length - 1)]);
  },
  'another text': (bytes, random) => {
    const texts = [
      '"__proto__"',
      '"toString"',
      '"F64"',
      '"../x"',
      '"/dev/zero"',
      '""',
      '"\\u0000"',
      '"__metadata__"',
      '{"toString":1}',
      '[[]]',
    ];
    return replaceOne(bytes, random, /"[^"]*"/g, texts[random.integer(0, texts.length - 1)]);
  },
  'arrays in arrays': (bytes, random) => {
    const depth = 10 ** random.integer(1, 4);
    return replaceOne(bytes, random, /\[[^\]]*\]|"[^"]*"/g, '['.repeat(depth) + ']'.repeat(depth));
  },
};

/** With the length of the header as it is then, or the mutation would be found at the first number. */
function replaceOne(bytes: Buffer, random: Random, pattern: RegExp, by: string): Buffer {
  const isJson = bytes[0] === 0x7b;
  const length = isJson ? bytes.length : Number(bytes.readBigUInt64LE(0));
  const start = isJson ? 0 : 8;
  const text = bytes.toString('latin1', start, start + length);
  const matches = [...text.matchAll(pattern)];
  const { index, 0: match } = matches[random.integer(0, matches.length - 1)];
  const header = Buffer.from(text.slice(0, index) + by + text.slice(index + match.length), 'latin1');
  const prefix = Buffer.alloc(start);
  if (!isJson) prefix.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([prefix, header, bytes.subarray(start + length)]);
}

/** Opens it, reads all that can be read, and closes it. */
async function readAll(opening: Promise<TensorFile>): Promise<void> {
  const file = await opening;
  try {
    for (const tensor of file.tensors.values()) {
      await tensor.read();
      const results = await Promise.allSettled([
        readFloats(tensor, { device: 'reference' }),
        readTernary(tensor, { device: 'reference', ...(tensor.type === 'U8' && { scale: 1 }) }),
      ]);
      for (const result of results) {
        if (result.status === 'fulfilled') ('weight' in result.value ? result.value.weight : result.value)?.dispose();
        // A matrix may have become something else, which is for the caller to know.
        else if (!(result.reason instanceof FormatError || result.reason instanceof ShapeError)) throw result.reason;
      }
    }
  } finally {
    await file.close();
  }
}

/** COUNT mutations of a file, each read by `open`. Gives how many were refused. */
async function mutate(
  name: string,
  original: Buffer,
  mutations: typeof MUTATIONS,
  open: () => Promise<TensorFile>,
): Promise<number> {
  const names = Object.keys(mutations);
  const file = path.join(folder, name);
  let refused = 0;
  for (let i = 0; i < COUNT; i++) {
    const mutation = names[i % names.length];
    const seed = `${name} ${mutation} ${i}`;
    writeFileSync(file, mutations[mutation](Buffer.from(original), new Random(seed)));
    largest = 0;
    resetPeakMemory();
    const held = memory().reference.bytes;
    const start = performance.now();
    try {
      await readAll(open());
    } catch (error) {
      if (!(error instanceof FormatError)) throw new Error(`${seed}: expected a FormatError`, { cause: error });
      if (error.message.length > 2000)
        throw new Error(`${seed}: expected a short message, got ${error.message.length} letters`);
      refused++;
    }
    if (largest > MAX_BYTES_AT_ONCE) throw new Error(`${seed}: expected small reads, got one of ${largest} bytes`);
    if (performance.now() - start > 5000) throw new Error(`${seed}: expected an answer within seconds`);
    const peak = memory().reference.peakBytes - held;
    if (peak > MAX_BYTES_AT_ONCE) throw new Error(`${seed}: expected small tensors, got ${peak} bytes of them`);
  }
  return refused;
}

function tensors(): Record<string, ReturnType<typeof make>> {
  return {
    'model.embed.weight': make('reference', 'bfloat16', [4, 8], new Random('a').normals(32)),
    'model.layer.weight': make('reference', 'uint8', [2, 8], new Float64Array(16).fill(0b01101001)),
    'model.norm.weight': make('reference', 'float32', [8], new Random('b').normals(8)),
  };
}

test('a safetensors file', async () => {
  const file = path.join(folder, 'whole.safetensors');
  await writeSafetensors(file, tensors(), { format: 'pt' });
  const open = () => openSafetensors(path.join(folder, 'mutated.safetensors'));
  const refused = await mutate('mutated.safetensors', readFileSync(file), { ...MUTATIONS, ...JSON_MUTATIONS }, open);
  // Most places matter; bits of the data do not.
  expect(refused).toBeGreaterThan(COUNT / 2);
  expect(refused).toBeLessThan(COUNT);
});

test('an index, and the files it names', async () => {
  mkdirSync(path.join(folder, 'sharded'));
  const { 'model.norm.weight': norm, ...rest } = tensors();
  await writeSafetensors(path.join(folder, 'sharded', 'one.safetensors'), rest);
  await writeSafetensors(path.join(folder, 'sharded', 'two.safetensors'), { 'model.norm.weight': norm });
  const index = {
    metadata: { total_size: 112 },
    weight_map: {
      'model.embed.weight': 'one.safetensors',
      'model.layer.weight': 'one.safetensors',
      'model.norm.weight': 'two.safetensors',
    },
  };
  const name = 'sharded/model.safetensors.index.json';
  const bytes = Buffer.from(JSON.stringify(index, null, 2));
  const open = () => openSafetensors(path.join(folder, 'sharded'));
  const refused = await mutate(name, bytes, { ...MUTATIONS, ...JSON_MUTATIONS }, open);
  expect(refused).toBeGreaterThan(COUNT / 2);
  expect(refused).toBeLessThan(COUNT);
});

test('a GGUF file', async () => {
  const file = path.join(folder, 'whole.gguf');
  const trits = Int8Array.from(new Random('trits').integers(512, -1, 1));
  const weight = TernaryTensor.fromTrits(trits, [2, 256], 0.5, { device: 'reference' });
  const { 'model.embed.weight': embed, 'model.norm.weight': norm } = tensors();
  await writeGguf(file, {
    metadata: {
      'general.architecture': 'bitnet-b1.58',
      'general.file_type': { type: 'u32', value: 40 },
      'general.alignment': { type: 'u32', value: 32 },
      'bitnet.context_length': { type: 'u64', value: 4096 },
      'tokenizer.ggml.tokens': ['<s>', 'a', 'Ġwhale', ''],
      'tokenizer.ggml.scores': Float32Array.of(0, -1, -2, -3),
      'tokenizer.ggml.add_bos_token': true,
    },
    tensors: {
      'token_embd.weight': embed,
      'output_norm.weight': norm,
      'blk.0.attn_q.weight': { weight, type: 'I2_S' },
      'blk.0.attn_k.weight': { weight, type: 'TQ1_0' },
      'blk.0.attn_v.weight': { weight, type: 'TQ2_0' },
    },
  });
  const open = () => openGguf(path.join(folder, 'mutated.gguf'));
  const refused = await mutate('mutated.gguf', readFileSync(file), MUTATIONS, open);
  expect(refused).toBeGreaterThan(COUNT / 3);
  expect(refused).toBeLessThan(COUNT);
});
