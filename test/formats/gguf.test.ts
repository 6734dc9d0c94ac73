// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { DisposedError, FormatError, openGguf, openTensors, OptionError } from '../../lib/index.js';
import { ARRAY, BOOL, ggufBytes, info, pair, STRING, text, U32, u32, U64, u64, U8 } from './gguf-bytes.js';

const FIXTURE = path.join(__dirname, '../../../test/fixtures/gguf_py.gguf');

let folder: string;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(folder, { recursive: true }));

function fileOf(bytes: Buffer): string {
  const file = path.join(folder, 'test.gguf');
  writeFileSync(file, bytes);
  return file;
}

describe('a file of gguf-py', () => {
  test('metadata of every type', async () => {
    const file = await openGguf(FIXTURE);
    expect(file.metadata).toEqual({
      'general.architecture': 'bitnet',
      'test.u8': 200,
      'test.i8': -100,
      'test.u16': 60000,
      'test.i16': -30000,
      'test.u32': 4000000000,
      'test.i32': -2000000000,
      'test.u64': 2 ** 53 - 1,
      'test.i64': -5,
      'test.u64_large': 2n ** 63n + 1n,
      'test.i64_large': -(2n ** 62n) - 1n,
      'test.f32': Math.fround(0.1),
      'test.f64': 0.1,
      'test.true': true,
      'test.false': false,
      'test.string': 'Wal – 鯨 🐋',
      'test.strings': ['a', 'Ġb', ''],
      'test.ints': Int32Array.of(1, -2, 3),
      'test.floats': Float32Array.of(0.5, -1.5),
      'test.bools': [true, false],
      'test.u64s': [1, 2n ** 60n + 1n],
      'test.bytes': Uint8Array.of(1, 255),
    });
    await file.close();
  });

  test('tensors in its order, outermost axis first', async () => {
    const file = await openTensors(FIXTURE);
    expect(file.format).toBe('gguf');
    expect(
      [...file.tensors.values()]
        .slice(5, 10)
        .map(({ name, type, shape, byteLength }) => [name, type, shape, byteLength]),
    ).toEqual([
      ['x.Q8_0', 'Q8_0', [3, 64], 204],
      ['x.Q8_0.values', 'F32', [3, 64], 768],
      ['x.Q4_0', 'Q4_0', [3, 64], 108],
      ['trits', 'I8', [4, 512], 2048],
      ['one.TQ1_0', 'TQ1_0', [4, 512], 432],
    ]);
    const last = file.tensors.get('three_axes');
    expect(last?.shape).toEqual([2, 3, 4]);
    const bytes = (await last?.read()) as Uint8Array;
    expect([...new Int32Array(bytes.buffer)]).toEqual(Array.from({ length: 24 }, (_, i) => i));
    expect([...((await last?.read(4, 6)) as Uint8Array)]).toEqual([1, 0, 0, 0, 2, 0]);
    await expect(last?.read(92, 8)).rejects.toThrow(OptionError);
    await file.close();
  });
});

test('version 2, another alignment, and no tensors', async () => {
  const alignment = pair('general.alignment', U32, u32(64));
  const bytes = ggufBytes([alignment], [info('a', [2], 0, 64)], Buffer.alloc(72, 1), { version: 2, alignment: 64 });
  const file = await openGguf(fileOf(bytes));
  expect(file.tensors.get('a')?.offset).toBe(192);
  await file.close();
  const empty = await openGguf(fileOf(ggufBytes([])));
  expect([empty.tensors.size, empty.metadata]).toEqual([0, {}]);
  await empty.close();
});

test('a key is a key, whatever its name', async () => {
  const file = await openGguf(
    fileOf(ggufBytes([pair('__proto__', ARRAY, Buffer.concat([u32(U8), u64(1), Buffer.of(7)]))])),
  );
  expect(Object.entries(file.metadata)).toEqual([['__proto__', Uint8Array.of(7)]]);
  await file.close();
});

test('arrays in arrays', async () => {
  const inner = Array.from({ length: 30_000 }, (_, i) => Buffer.concat([u32(U8), u64(1), Buffer.of(i & 255)]));
  const value = Buffer.concat([u32(ARRAY), u64(inner.length), ...inner]);
  // Each is counted once, however often it is read again with a larger window.
  const file = await openGguf(fileOf(ggufBytes([pair('a', ARRAY, value), pair('b', ARRAY, value)])));
  expect(file.metadata.b).toEqual(inner.map((_, i) => Uint8Array.of(i & 255)));
  await file.close();
});

test('a vocabulary larger than the first window', async () => {
  const words = Array.from({ length: 50_000 }, (_, i) => `word ${i}`);
  const value = Buffer.concat([u32(STRING), u64(words.length), ...words.map(text)]);
  const file = await openGguf(
    fileOf(ggufBytes([pair('a', U32, u32(1)), pair('words', ARRAY, value), pair('b', U32, u32(2))])),
  );
  expect(file.metadata).toEqual({ a: 1, words, b: 2 });
  await file.close();
});

describe('type 36', () => {
  const data = Buffer.alloc(64);
  const infos = [info('a', [128], 36, 0)];
  test.each([
    ['the file type', pair('general.file_type', U32, u32(40))],
    ['the architecture', pair('general.architecture', STRING, text('bitnet-b1.58'))],
  ])('is I2_S by %s', async (_, origin) => {
    const file = await openGguf(fileOf(ggufBytes([origin], infos, data)));
    expect(file.tensors.get('a')).toMatchObject({ type: 'I2_S', byteLength: 64 });
    await file.close();
  });
  test('is in doubt otherwise', async () => {
    await expect(openGguf(fileOf(ggufBytes([], infos, data)))).rejects.toThrow(
      "got 36: I2_S of Microsoft's fork, or IQ4_NL_4_4, which ggml has removed",
    );
  });
});

test('tensors beyond 2 and 4 GiB are read at their places', async () => {
  const places = [0, 2 ** 31 - 32, 2 ** 31 + 32, 2 ** 32, 2 ** 32 + 2 ** 20];
  const sizes = places.map((place, i) => Math.min((places[i + 1] ?? Infinity) - place, 2 ** 31 + 64));
  const infos = places.map((place, i) => info(`at ${place}`, [i === 4 ? 2 ** 31 + 64 : sizes[i]], 24, place));
  const name = fileOf(ggufBytes([], infos, Buffer.alloc(1)));
  const probe = await open(name, 'r+');
  // Sparse: a hole of some GiB takes no disk.
  const start = Math.ceil((await probe.stat()).size / 32) * 32 - 32;
  await probe.truncate(start + places[4] + 2 ** 31 + 64);
  for (const [i, place] of [...places, places[4] + 2 ** 31 + 63].entries()) {
    await probe.write(Buffer.of(10 + i), 0, 1, start + place);
  }
  await probe.close();
  const file = await openGguf(name);
  for (const [i, tensor] of [...file.tensors.values()].entries()) {
    expect([...(await tensor.read(0, 2))]).toEqual([10 + i, 0]);
  }
  const large = file.tensors.get(`at ${places[4]}`);
  expect([...((await large?.read(2 ** 31 + 62)) as Uint8Array)]).toEqual([0, 15]);
  await file.close();
});

describe('closing', () => {
  test('what is read afterwards, or then, is an error', async () => {
    const file = await openGguf(FIXTURE);
    const tensor = file.tensors.get('x');
    const reads = Array.from({ length: 20 }, () => tensor?.read());
    const closed = file.close();
    // Those that the system had begun may still succeed; none may end otherwise.
    for (const result of await Promise.allSettled(reads)) {
      if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(DisposedError);
      else expect(result.value?.length).toBe(768);
    }
    await closed;
    await file.close();
    await expect(tensor?.read()).rejects.toThrow(DisposedError);
    await expect(tensor?.read()).rejects.toThrow('expected an open file, got one that was closed');
  });
});

describe('a file that is not well formed is refused with its place', () => {
  const data = Buffer.alloc(64);
  const array = (type: number, count: number | bigint, ...rest: Buffer[]): Buffer =>
    pair('a', ARRAY, Buffer.concat([u32(type), u64(count), ...rest]));
  const nested = (depth: number): Buffer =>
    depth === 0 ? Buffer.alloc(0) : Buffer.concat([u32(ARRAY), u64(1), nested(depth - 1)]);
  const cases: [string, Buffer, string][] = [
    ['empty', Buffer.alloc(0), 'expected GGUF at byte 0, got the end of the file'],
    ['another magic', Buffer.from('GGUE1234'), 'expected GGUF at byte 0, got bytes 0x45554747'],
    ['version 1', ggufBytes([], [], data, { version: 1 }), 'expected version 2 or 3, little endian at byte 4, got 1'],
    ['big endian', ggufBytes([], [], data, { version: 0x03000000 }), 'at byte 4, got a file in big endian'],
    [
      'an absurd number of tensors',
      ggufBytes([], [], data, { infoCount: 2n ** 60n }),
      'a number of tensors below 2^53 at byte 8',
    ],
    [
      'too many tensors',
      ggufBytes([], [], data, { infoCount: 2 ** 40 }),
      'of at most 3, for which there is room at byte 8',
    ],
    ['too many pairs', ggufBytes([], [], data, { pairCount: 100 }), 'a number of pairs of metadata of at most 5'],
    ['a key of 2^60 bytes', ggufBytes([u64(2n ** 60n), data]), 'a length of a key below 2^53 at byte 24'],
    ['a key beyond the end', ggufBytes([u64(2 ** 40), data]), 'a length of a key of at most 64'],
    [
      'a key of many bytes',
      ggufBytes([text('k'.repeat(65536)), data]),
      'a key of at most 65535 bytes at byte 24, got 65536',
    ],
    ['a key that is not UTF-8', ggufBytes([text(Buffer.of(0xff)), data]), 'expected a key in UTF-8 at byte 32'],
    [
      'a key twice',
      ggufBytes([pair('a', U8, Buffer.of(1)), pair('a', U8, Buffer.of(1))]),
      'keys that differ at byte 38, got "a" again',
    ],
    ['an unknown type of metadata', ggufBytes([pair('a', 13, data)]), 'from 0 to 12 for a at byte 33, got 13'],
    ['a bool of 2', ggufBytes([pair('a', BOOL, Buffer.of(2))]), 'expected 0 or 1 for a at byte 37, got 2'],
    ['an array of 2^62', ggufBytes([array(U64, 2n ** 62n)]), 'a length of a below 2^53 at byte 41'],
    [
      'an array beyond the end',
      ggufBytes([array(U32, 20, data)]),
      'a length of a of at most 16, for which there is room',
    ],
    [
      'strings beyond the end',
      ggufBytes([array(STRING, 9, data)]),
      'a length of a of at most 8, for which there is room',
    ],
    [
      'a string in an array beyond the end',
      ggufBytes([array(STRING, 1, u64(60), Buffer.alloc(59))]),
      'a length of a text for a of at most 59',
    ],
    [
      'arrays in arrays in arrays',
      ggufBytes([pair('a', ARRAY, nested(6)), data]),
      'at most 4 arrays in each other for a at byte 85',
    ],
    [
      'arrays by the thousand',
      ggufBytes([array(ARRAY, 65537, Buffer.alloc(65537 * 12))]),
      'at most 65536 arrays in arrays',
    ],
    [
      'metadata that ends early',
      ggufBytes([pair('a', U32, Buffer.alloc(3))]),
      'a value for a at byte 37, got the end of the file',
    ],
    ['five axes', ggufBytes([], [info('t', [1, 1, 1, 1, 1], 0, 0)], data), 'at most 4 sizes of t at byte 24, got 5'],
    ['no elements', ggufBytes([], [info('t', [4, 0], 0, 0)], data), 'positive sizes of t at byte 24, got [4, 0]'],
    ['a size of 2^63', ggufBytes([], [info('t', [2n ** 63n], 0, 0)], data), 'a size of t below 2^53'],
    ['2^80 elements', ggufBytes([], [info('t', [2 ** 40, 2 ** 40], 0, 0)], data), 'fewer than 2^53 elements of t'],
    ['an unknown type', ggufBytes([], [info('t', [4], 99, 0)], data), 'a type that ggml has for t at byte 24, got 99'],
    ['a removed type', ggufBytes([], [info('t', [32], 4, 0)], data), 'got 4: Q4_2, which ggml has removed'],
    [
      'a row of half a block',
      ggufBytes([], [info('t', [128, 2], 35, 0)], data),
      'a first size of t, TQ2_0, in blocks of 256 at byte 24, got 128',
    ],
    [
      'an offset between',
      ggufBytes([], [info('t', [4], 0, 16)], data),
      'an offset of t in steps of 32 at byte 24, got 16',
    ],
    [
      'a tensor beyond the end',
      ggufBytes([], [info('t', [17], 0, 0)], data),
      't to end within 64 bytes of data at byte 24, got an end at 68',
    ],
    ['an offset beyond the end', ggufBytes([], [info('t', [4], 0, 2 ** 50)], data), 't to end within 64 bytes of data'],
    [
      'a name twice',
      ggufBytes([], [info('t', [4], 0, 0), info('t', [4], 0, 32)], data),
      'names that differ at byte 57, got "t" again',
    ],
    [
      'one tensor over the other',
      ggufBytes([], [info('t', [9], 0, 0), info('u', [4], 0, 32)], data),
      'an offset of u behind the tensor before it, 36 at byte 57, got 32',
    ],
    [
      'an alignment of 24',
      ggufBytes([pair('general.alignment', U32, u32(24))]),
      'a power of two from 8 on for general.alignment at byte 0, got 24',
    ],
    [
      'an alignment of text',
      ggufBytes([pair('general.alignment', STRING, text('32'))]),
      'for general.alignment at byte 0, got "32"',
    ],
  ];
  test.each(cases)('%s', async (_, bytes, message) => {
    const file = fileOf(bytes);
    const error = await openGguf(file).then(
      () => null,
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(FormatError);
    expect((error as FormatError).message).toContain(message);
    expect((error as FormatError).file).toBe(file);
  });

  test('a folder', async () => {
    await expect(openGguf(folder)).rejects.toThrow('expected a file at byte 0, got something else');
  });
});
