// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  bitLinear,
  CausalLM,
  device,
  device as deviceNamed,
  FormatError,
  generate,
  keep,
  KernelError,
  loadModel,
  memory,
  ones,
  OptionError,
  OutOfMemoryError,
  randn,
  readJsonl,
  reshape,
  scale,
  setMemoryLimit,
  ShapeError,
  tensor,
  type Tensor,
  tidy,
  Tokenizer,
  zeros,
} from '../../lib/index.js';
import { describe as describeValue } from '../../lib/describe.js';
import { native, type Native } from '../../lib/native.js';
import { describeBackends, hasCpu } from '../harness.js';

/** What `npm run test:stress` has found, each once. */

describe('any value can be told', () => {
  const cyclic: unknown[] = [];
  cyclic.push(cyclic);
  test.each([
    [Symbol('x'), 'Symbol(x)'],
    [10n, '10n'],
    [Object.create(null), 'an object'],
    [{ toString: () => ({}) }, 'an object'],
    [cyclic, 'an array of 1'],
    [new Array(2 ** 32 - 1), 'an array of 4294967295'],
    [[1, 'a', undefined], '[1, "a", undefined]'],
    ['x'.repeat(1e6), `"${'x'.repeat(100)}…"`],
    [class Named {}, 'a function'],
    [new Map(), 'Map'],
  ])('%#', (value, expected) => {
    expect(describeValue(value)).toBe(expected);
  });
});

describe('what plain JavaScript hands in', () => {
  describeBackends((device) => {
    test('holes in lists are looked at', () => {
      const holes = Object.assign([2, 3], { length: 3 });
      expect(() => zeros(holes, { device })).toThrow(ShapeError);
      expect(() => reshape(ones([2], { device }), new Array<number>(2 ** 32 - 1))).toThrow(ShapeError);
    });

    test('of a list of stop tokens the first hole is told, and no other looked at', async () => {
      using model = new CausalLM(
        { vocabulary: 8, layers: 1, hidden: 8, heads: 1, intermediate: 8, ternary: false },
        { device },
      );
      const stopTokens = new Array<number>(2 ** 32 - 1); // to go through them takes minutes
      await expect(generate(model, [1], { maxTokens: 1, stopTokens }).next()).rejects.toThrow(
        new OptionError('generate: expected an integer from 0 to 2147483647 for stopTokens, got undefined'),
      );
    });

    test('options are no list, map or date; lists are not deeper than tensors', () => {
      for (const options of [[], new Map(), new Date(0), null, Symbol('x')])
        expect(() => zeros([1], options as never)).toThrow(OptionError);
      let deep: unknown = 1;
      for (let i = 0; i < 100_000; i++) deep = [deep];
      expect(() => tensor(deep as never, { device })).toThrow(
        new ShapeError('tensor: expected at most 8 arrays in each other, got more'),
      );
    });

    test('what is no tensor is not kept, and a false one is not taken for none', () => {
      expect(() => keep({ shape: [2], storage: {} } as unknown as Tensor)).toThrow(OptionError);
      const x = ones([1], { device, requiresGrad: true });
      expect(() => scale(x, 2).backward(0 as unknown as Tensor)).toThrow(OptionError);
    });

    test('random tensors take their memory before they are drawn', () => {
      const before = deviceNamed(device).memory();
      setMemoryLimit(2 ** 20, { device });
      try {
        // Drawn first, it would take a minute and 16 GB of the host.
        expect(() => randn([2 ** 32], { device })).toThrow(OutOfMemoryError);
      } finally {
        setMemoryLimit(null, { device });
      }
      expect(deviceNamed(device).memory().bytes).toBe(before.bytes);
    });
  });
});

test('a signal is heard on a device that computes at the call', async () => {
  using model = new CausalLM(
    { vocabulary: 8, layers: 1, hidden: 8, heads: 2, intermediate: 8 },
    { device: 'reference' },
  );
  const signal = AbortSignal.timeout(20);
  let count = 0;
  for await (const token of generate(model, [1], { maxTokens: 100_000, signal })) if (token >= 0) count++;
  expect(count).toBeLessThan(100_000);
});

describe('files', () => {
  let folder: string;
  beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-abuse-'))));
  afterAll(() => rmSync(folder, { recursive: true }));

  const refused = async (reading: Promise<unknown>): Promise<string> => {
    const error: unknown = await reading.catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(FormatError);
    expect((error as Error).message.length).toBeLessThan(500);
    return (error as Error).message;
  };
  const deep = '['.repeat(101) + ']'.repeat(101);

  test('JSON of brackets in each other', async () => {
    const file = path.join(folder, 'deep.jsonl');
    writeFileSync(file, deep);
    expect(await refused(readJsonl(file).next())).toContain('expected JSON on line 1, at byte 0, got more brackets');
    writeFileSync(path.join(folder, 'config.json'), `{"architectures":${deep}}`);
    expect(await refused(loadModel(folder))).toContain('expected JSON with fewer brackets, at most 100 in each other');
    writeFileSync(path.join(folder, 'tokenizer.json'), `{"model":${deep}}`);
    expect(await refused(Tokenizer.load(folder))).toContain('expected JSON with fewer brackets');
  });

  test('JSON of brackets, one after the other', async () => {
    writeFileSync(path.join(folder, 'config.json'), `{"architectures":[${'[],'.repeat(2 ** 22)}[]]}`);
    expect(await refused(loadModel(folder))).toContain('expected JSON with fewer brackets');
  });

  (process.platform === 'win32' ? test.skip : test)('a file that never ends', async () => {
    rmSync(path.join(folder, 'config.json'), { force: true });
    symlinkSync('/dev/zero', path.join(folder, 'config.json'));
    expect(await refused(loadModel(folder))).toContain('expected a file');
  });

  test('a model whose config is null', async () => {
    const file = path.join(folder, 'null.safetensors');
    const header = JSON.stringify({ __metadata__: { format: 'ternflash-causal-lm', config: 'null' } });
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    writeFileSync(file, Buffer.concat([length, Buffer.from(header)]));
    expect(await refused(CausalLM.load(file))).toContain('expected a JSON object');
  });
});

(hasCpu ? describe : describe.skip)('an allocation that fails', () => {
  const addon = native as Native;
  afterEach(() => addon.failAllocation(0));

  test('is an OutOfMemoryError, wherever it is, and all goes on', async () => {
    using x = tensor([1, 2, 3], { device: 'cpu' });
    const before = memory().cpu.tensors;
    // The result's memory; the queue.
    for (const nth of [1, 2]) {
      addon.failAllocation(nth);
      expect(() => scale(x, 2)).toThrow(OutOfMemoryError);
      expect(addon.allocationsLeft()).toBe(0);
    }
    // The copy that is queued; the queue.
    for (const nth of [1, 2]) {
      addon.failAllocation(nth);
      expect(() => x.write([4, 5, 6])).toThrow(OutOfMemoryError);
    }
    addon.failAllocation(1);
    await expect(x.data()).rejects.toThrow(OutOfMemoryError);
    expect(memory().cpu.tensors - before).toBeLessThanOrEqual(1); // of the op that was not queued: the collector's
    expect(Array.from(await scale(x, 2).data())).toEqual([2, 4, 6]);
  });

  test('is one, though two threads allocate at the same time', async () => {
    using x = tensor(new Float32Array(8 * 64).fill(1), { shape: [8, 64], device: 'cpu' });
    using weight = tensor(new Float32Array(64 * 64).fill(1), { shape: [64, 64], device: 'cpu' });
    // While this thread takes memory for results, the other one takes scratch memory for products.
    for (let i = 0; i < 300; i++) {
      addon.failAllocation(20 + (i % 7));
      try {
        tidy(() => {
          for (let call = 0; call < 12; call++) bitLinear(x, weight);
        });
      } catch (error) {
        expect(error).toBeInstanceOf(OutOfMemoryError);
      }
      await device('cpu')
        .synchronize()
        .catch((error: unknown) => expect(error).toBeInstanceOf(KernelError));
      expect(addon.allocationsLeft()).toBe(0);
    }
  });
});
