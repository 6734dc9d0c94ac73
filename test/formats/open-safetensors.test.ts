// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { FormatError, openSafetensors, openTensors, readSafetensors, writeSafetensors } from '../../lib/index.js';
import { make } from '../harness.js';

let root: string;
let folder: string;
beforeAll(() => (root = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(root, { recursive: true }));
beforeEach(() => (folder = mkdtempSync(path.join(root, 'checkpoint-'))));

const INDEX = 'model.safetensors.index.json';

/** A checkpoint of two files, and an index that maps these names. */
async function sharded(weightMap: unknown, rest: object = { metadata: { total_size: 24 } }): Promise<void> {
  const t = (value: number) => make('reference', 'float32', [2], [value, value]);
  await writeSafetensors(path.join(folder, 'one.safetensors'), { a: t(1), b: t(2) });
  await writeSafetensors(path.join(folder, 'two.safetensors'), { c: t(3) });
  writeFileSync(path.join(folder, INDEX), JSON.stringify({ ...rest, weight_map: weightMap }));
}

const WHOLE = { c: 'two.safetensors', a: 'one.safetensors', b: 'one.safetensors' };

test('every dtype of the format is listed, and what is in between left out', async () => {
  const file = path.join(folder, 'odd.safetensors');
  const entries = {
    double: { dtype: 'F64', shape: [2], data_offsets: [0, 16] },
    flags: { dtype: 'BOOL', shape: [3], data_offsets: [16, 19] },
    small: { dtype: 'F8_E4M3', shape: [1, 1], data_offsets: [19, 20] },
    halves: { dtype: 'F4', shape: [4], data_offsets: [20, 22] },
    none: { dtype: 'F32', shape: [0, 5], data_offsets: [22, 22] },
    scalar: { dtype: 'I64', shape: [], data_offsets: [22, 30] },
    __metadata__: { format: 'pt' },
  };
  const json = Buffer.from(JSON.stringify(entries));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(file, Buffer.concat([prefix, json, Buffer.from(Uint8Array.from({ length: 30 }, (_, i) => i))]));
  const opened = await openTensors(file);
  expect(opened).toMatchObject({ path: file, format: 'safetensors', metadata: { format: 'pt' } });
  expect([...opened.tensors.values()].map(({ name, type, byteLength }) => [name, type, byteLength])).toEqual([
    ['double', 'F64', 16],
    ['flags', 'BOOL', 3],
    ['small', 'F8_E4M3', 1],
    ['halves', 'F4', 2],
    ['none', 'F32', 0],
    ['scalar', 'I64', 8],
  ]);
  const flags = opened.tensors.get('flags');
  expect(flags).toMatchObject({ shape: [3], file, offset: 8 + json.length + 16 });
  expect([...((await flags?.read()) as Uint8Array)]).toEqual([16, 17, 18]);
  expect([...((await flags?.read(1)) as Uint8Array)]).toEqual([17, 18]);
  await opened.close();
});

describe('a folder', () => {
  test('with an index: the tensors of all files, in the order of the index', async () => {
    await sharded(WHOLE);
    const opened = await openTensors(folder);
    expect([...opened.tensors.keys()]).toEqual(['c', 'a', 'b']);
    expect(opened.metadata).toEqual({ total_size: 24 });
    expect(opened.tensors.get('c')?.file).toBe(path.join(folder, 'two.safetensors'));
    await opened.close();
    await expect(opened.tensors.get('a')?.read()).rejects.toThrow('got one that was closed');

    const { tensors, metadata } = await readSafetensors(folder, { device: 'reference' });
    expect(await Promise.all([...tensors.values()].map((each) => each.data()))).toEqual(
      [3, 1, 2].map((value) => Float32Array.of(value, value)),
    );
    expect(metadata).toEqual({ total_size: '24' });
  });

  test('with a part of the tensors in its index', async () => {
    await sharded({ b: 'one.safetensors' });
    const opened = await openSafetensors(folder);
    expect([...opened.tensors.keys()]).toEqual(['b']);
    await opened.close();
  });

  test('with one file, which goes before an index', async () => {
    await sharded(WHOLE);
    await writeSafetensors(path.join(folder, 'model.safetensors'), { d: make('reference', 'int8', [1], [5]) });
    const opened = await openSafetensors(folder);
    expect([...opened.tensors.keys()]).toEqual(['d']);
    await opened.close();
  });

  test('whose files are links to elsewhere, as in the cache of a hub', async () => {
    await sharded(WHOLE);
    const linked = path.join(folder, 'linked');
    mkdirSync(linked);
    for (const name of [INDEX, 'one.safetensors', 'two.safetensors']) {
      symlinkSync(path.join(folder, name), path.join(linked, name));
    }
    const opened = await openSafetensors(linked);
    expect(opened.tensors.size).toBe(3);
    await opened.close();
  });

  const wrong: [string, unknown, object, string][] = [
    ['no map', undefined, {}, 'an object for weight_map at byte 0, got undefined'],
    ['a list for a map', ['a'], {}, 'an object for weight_map at byte 0, got ["a"]'],
    ['a number for a file', { a: 1 }, {}, 'a file name for a at byte 0, got 1'],
    [
      'a file that is not there',
      { a: 'three.safetensors' },
      {},
      'names of files that are there at byte 0, got "three.safetensors"',
    ],
    [
      'a file above the folder',
      { a: '../one.safetensors' },
      {},
      'names of files in its folder at byte 0, got "../one.safetensors"',
    ],
    ['a file above, later', { a: 'sub/../../one.safetensors' }, {}, 'names of files in its folder'],
    ['a file above, in Windows', { a: '..\\one.safetensors' }, {}, 'names of files in its folder'],
    ['an absolute name', { a: '/etc/passwd' }, {}, 'names of files in its folder at byte 0, got "/etc/passwd"'],
    ['an absolute name, in Windows', { a: 'C:\\one.safetensors' }, {}, 'names of files in its folder'],
    ['a name with a zero byte', { a: 'one\0.safetensors' }, {}, 'names of files in its folder'],
    ['a name of 5000 letters', { a: 'n'.repeat(5000) }, {}, 'names of files that are there'],
    ['the folder itself', { a: '.' }, {}, 'expected a file at byte 0, got something else'],
    ['the index itself', { a: INDEX }, {}, 'a header length of at most'],
    [
      'a tensor that is in another file',
      { a: 'one.safetensors', b: 'two.safetensors' },
      {},
      `a tensor b, which ${INDEX} says is here at byte 8, got none`,
    ],
    ['metadata of text', WHOLE, { metadata: 'x' }, 'an object for metadata at byte 0, got "x"'],
  ];
  test.each(wrong)('whose index has %s', async (_, weightMap, rest, message) => {
    await sharded(weightMap, rest);
    const error = await openSafetensors(folder).then(
      () => null,
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(FormatError);
    expect((error as FormatError).message).toContain(message);
  });

  test('without any of them', async () => {
    await expect(openTensors(folder)).rejects.toThrow(
      `${folder}: expected model.safetensors or ${INDEX} in the folder, got neither`,
    );
  });
});

test('a tensor of 5 GiB has offsets beyond 2^32', async () => {
  const file = path.join(folder, 'large.safetensors');
  const size = 5 * 2 ** 30;
  const json = Buffer.from(
    JSON.stringify({
      large: { dtype: 'U8', shape: [size], data_offsets: [0, size] },
      last: { dtype: 'F32', shape: [1], data_offsets: [size, size + 4] },
    }),
  );
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.length));
  const handle = await open(file, 'w');
  await handle.write(Buffer.concat([prefix, json]));
  // Sparse: a hole takes no disk.
  await handle.truncate(8 + json.length + size + 4);
  await handle.write(Buffer.of(42), 0, 1, 8 + json.length + size - 1);
  await handle.write(Buffer.from(Float32Array.of(1.5).buffer), 0, 4, 8 + json.length + size);
  await handle.close();
  const opened = await openSafetensors(file);
  expect([...((await opened.tensors.get('large')?.read(size - 2)) as Uint8Array)]).toEqual([0, 42]);
  expect(new Float32Array(((await opened.tensors.get('last')?.read()) as Uint8Array).buffer)[0]).toBe(1.5);
  await opened.close();
});
