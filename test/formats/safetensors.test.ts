// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { FormatError, memory, readSafetensors, writeSafetensors, type DType } from '../../lib/index.js';
import { bitsOf, describeBackends, make } from '../harness.js';
import { holdMemory } from '../core/hold-memory.js';

holdMemory();

let folder: string;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(folder, { recursive: true }));

/** A file of this header and this many bytes of data. */
function fileOf(header: unknown, dataBytes: number, headerLength?: bigint): string {
  const json =
    header instanceof Buffer ? header : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(headerLength ?? BigInt(json.length));
  const file = path.join(folder, 'bad.safetensors');
  writeFileSync(file, Buffer.concat([prefix, json, Buffer.alloc(dataBytes)]));
  return file;
}

const entry = (shape: unknown, begin: number, end: number, dtype = 'F32'): object => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

describeBackends((device) => {
  test('every dtype survives to the bit, in order, with metadata', async () => {
    const dtypes: DType[] = ['float32', 'float16', 'bfloat16', 'int8', 'uint8', 'int32'];
    const tensors = Object.fromEntries(
      dtypes.map((dtype) => [dtype, make(device, dtype, [2, 3], [0, 1, 2, 3.5, 100, 7])]),
    );
    const file = path.join(folder, 'all.safetensors');
    await writeSafetensors(file, tensors, { made: 'here' });
    const read = await readSafetensors(file, { device });
    expect(read.metadata).toEqual({ made: 'here' });
    expect([...read.tensors.keys()]).toEqual(dtypes);
    for (const dtype of dtypes) {
      const copy = read.tensors.get(dtype);
      expect(copy?.shape).toEqual([2, 3]);
      expect(copy?.dtype).toBe(dtype);
      expect(await bitsOf(copy as NonNullable<typeof copy>)).toEqual(await bitsOf(tensors[dtype]));
    }
    // The data begins at a multiple of 8, as the format asks.
    expect((8 + Number(readFileSync(file).readBigUInt64LE(0))) % 8).toBe(0);
  });
});

test('a file PyTorch wrote is read', async () => {
  const { tensors } = await readSafetensors(path.join(__dirname, '../../../test/fixtures/ternary_pack.safetensors'), {
    device: 'reference',
  });
  expect([...tensors.keys()].sort()).toEqual(['packed', 'scale', 'trits', 'weight']);
  expect(tensors.get('trits')?.dtype).toBe('int8');
  expect(tensors.get('weight')?.shape).toEqual([48, 80]);
});

test('a failed write leaves the former file and no other', async () => {
  const file = path.join(folder, 'kept.safetensors');
  const a = make('reference', 'float32', [1], [1]);
  await writeSafetensors(file, { a });
  const before = readFileSync(file);
  const disposed = make('reference', 'float32', [1], [2]);
  disposed.dispose();
  await expect(writeSafetensors(file, { a, disposed })).rejects.toThrow('expected a live tensor');
  expect(readFileSync(file)).toEqual(before);
  expect(readdirSync(folder).filter((name) => name.includes('partial'))).toEqual([]);
});

describe('a file that is not well formed is refused with its place', () => {
  const cases: [string, () => string, string][] = [
    ['empty', () => fileOf('', 0, 5n), 'expected a header length of at most 0 at byte 0, got 5'],
    [
      'no header length',
      () => {
        const file = path.join(folder, 'bad.safetensors');
        writeFileSync(file, 'abc');
        return file;
      },
      'expected an 8-byte header length at byte 0, got a file of 3 bytes',
    ],
    ['absurd header length', () => fileOf('{}', 0, 2n ** 60n), 'expected a header length of at most 2 at byte 0'],
    ['not JSON', () => fileOf('{"a":', 0), 'expected JSON in UTF-8 at byte 8'],
    ['not an object', () => fileOf([1], 0), 'expected a JSON object at byte 8'],
    ['an unknown dtype', () => fileOf({ a: entry([1], 0, 8, 'F65') }, 8), 'as dtype of a at byte 8, got "F65"'],
    ['a dtype no tensor has', () => fileOf({ a: entry([1], 0, 8, 'F64') }, 8), 'as dtype of a at byte 62, got F64'],
    [
      'a tensor without elements',
      () => fileOf({ a: entry([0, 2], 0, 0) }, 0),
      'expected elements in a, got shape [0, 2]',
    ],
    [
      'a shape of nonsense',
      () => fileOf({ a: entry([-1], 0, 4) }, 4),
      'expected at most 8 sizes as shape of a at byte 8, got [-1]',
    ],
    [
      'an absurd shape',
      () => fileOf({ a: entry([2 ** 40, 2 ** 40], 0, 4) }, 4),
      'bytes for a at byte 8, got offsets 0 to 4',
    ],
    [
      'offsets of the wrong length',
      () => fileOf({ a: entry([2], 0, 4) }, 4),
      'expected 8 bytes for a at byte 8, got offsets 0 to 4',
    ],
    ['offsets beyond the end', () => fileOf({ a: entry([2], 0, 8) }, 4), 'expected a to end within 4 bytes of data'],
    [
      'overlapping tensors',
      () => fileOf({ a: entry([2], 0, 8), b: entry([2], 4, 12) }, 12),
      'expected b to begin at 8',
    ],
    ['a hole', () => fileOf({ a: entry([1], 4, 8) }, 8), 'expected a to begin at 0'],
    ['bytes left over', () => fileOf({ a: entry([1], 0, 4) }, 12), 'expected 4 bytes of data at byte'],
    ['null for a tensor', () => fileOf({ a: null }, 0), 'as dtype of a at byte 8, got undefined'],
    [
      'metadata of other than strings',
      () => fileOf({ __metadata__: { a: 1 } }, 0),
      'a string for a of __metadata__ at byte 8, got 1',
    ],
    [
      'a dtype that cannot be shown',
      () => fileOf({ a: { dtype: { toString: 1 } } }, 0),
      'as dtype of a at byte 8, got an object',
    ],
    [
      'a shape nested beyond the stack',
      () => fileOf(`{"a":{"dtype":"F32","shape":${'['.repeat(1e5)}${']'.repeat(1e5)}}}`, 0),
      'expected JSON with fewer brackets, at most 6 in each other at byte 40, got another one',
    ],
    ['many arrays', () => fileOf(`{"a":[${'[],'.repeat(100)}[]]}`, 0), 'expected JSON with fewer brackets'],
    [
      'bytes that are not UTF-8',
      () => fileOf(Buffer.from('{"\xff":1}', 'latin1'), 0),
      'expected JSON in UTF-8 at byte 8',
    ],
  ];
  test.each(cases)('%s', async (_, makeFile, message) => {
    const file = makeFile();
    const before = memory().reference.bytes;
    const error = await readSafetensors(file, { device: 'reference' }).then(
      () => null,
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(FormatError);
    expect((error as FormatError).message).toContain(message);
    expect((error as FormatError).file).toBe(file);
    expect(memory().reference.bytes).toBeLessThanOrEqual(before); // the collector may have freed more
  });
});
