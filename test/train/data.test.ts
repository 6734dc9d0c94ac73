// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { batchTensors, OptionError, TokenDataset, type TokenBatch } from '../../lib/index.js';

const tokens = Uint16Array.from({ length: 101 }, (_, i) => i);

/** The first token of each row. */
const starts = (batch: TokenBatch): number[] =>
  Array.from({ length: batch.rows }, (_, row) => batch.ids[row * batch.sequence]);

const draw = (data: TokenDataset, batches: number): number[] =>
  Array.from({ length: batches }, () => starts(data.next())).flat();

describe('TokenDataset', () => {
  test.each([Uint16Array, Uint32Array, Int32Array])('gives windows of a %p and the tokens after each', (Type) => {
    const data = new TokenDataset(Type.from(tokens), { batchSize: 2, sequenceLength: 5, order: 'sequential' });
    expect(data.windows).toBe(20);
    data.next();
    expect(data.next()).toEqual({
      ids: Int32Array.of(10, 11, 12, 13, 14, 15, 16, 17, 18, 19),
      targets: Int32Array.of(11, 12, 13, 14, 15, 16, 17, 18, 19, 20),
      rows: 2,
      sequence: 5,
      count: 10,
    });
  });

  test('an epoch visits every window once, in an order of its own, also where batches do not divide it', () => {
    const data = new TokenDataset(tokens, { batchSize: 3, sequenceLength: 5, seed: 7 });
    const drawn = draw(data, 20);
    const all = Array.from({ length: 20 }, (_, i) => i * 5);
    const epochs = [0, 1, 2].map((epoch) => drawn.slice(epoch * 20, (epoch + 1) * 20));
    for (const epoch of epochs) expect([...epoch].sort((a, b) => a - b)).toEqual(all);
    expect(epochs[0]).not.toEqual(all);
    expect(epochs[1]).not.toEqual(epochs[0]);
    expect(data.epoch).toBe(3);
    expect(draw(new TokenDataset(tokens, { batchSize: 3, sequenceLength: 5, seed: 7 }), 20)).toEqual(drawn);
    expect(draw(new TokenDataset(tokens, { batchSize: 3, sequenceLength: 5, seed: 8 }), 20)).not.toEqual(drawn);
  });

  test('all orders of four windows are about equally frequent', () => {
    const counts = new Map<string, number>();
    const data = new TokenDataset(tokens.subarray(0, 5), { batchSize: 4, sequenceLength: 1 });
    for (let epoch = 0; epoch < 2400; epoch++) {
      const order = starts(data.next()).join();
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(24);
    // 100 expected, standard deviation 9.8.
    for (const count of counts.values()) expect(Math.abs(count - 100)).toBeLessThan(50);
  });

  test.each(['random', 'sequential'] as const)('%s: goes on from its position', (order) => {
    const make = (): TokenDataset => new TokenDataset(tokens, { batchSize: 3, sequenceLength: 5, order });
    const whole = draw(make(), 30);
    for (const stop of [0, 1, 6, 7, 13, 29]) {
      const first = make();
      const begin = draw(first, stop);
      const second = make();
      second.loadState(JSON.parse(JSON.stringify(first.state())) as null);
      expect([...begin, ...draw(second, 30 - stop)]).toEqual(whole);
    }
  });

  test('windows may overlap or leave gaps', () => {
    const options = { batchSize: 1, sequenceLength: 5, order: 'sequential' } as const;
    expect(draw(new TokenDataset(tokens, { ...options, stride: 2 }), 3)).toEqual([0, 2, 4]);
    expect(new TokenDataset(tokens, { ...options, stride: 2 }).windows).toBe(48);
    // The last window ends at the last token but one, which has a target.
    expect(new TokenDataset(tokens, { ...options, stride: 95 }).windows).toBe(2);
    expect(new TokenDataset(tokens, { ...options, stride: 96 }).windows).toBe(1);
  });

  test('ignored tokens are no targets and do not count', () => {
    const data = new TokenDataset(Uint16Array.of(5, 0, 7, 0, 9), { batchSize: 1, sequenceLength: 4, ignoreToken: 0 });
    const { ids, targets, count } = data.next();
    expect([...ids]).toEqual([5, 0, 7, 0]);
    expect([...targets]).toEqual([-100, 7, -100, 9]);
    expect(count).toBe(2);
  });

  test('a pass sees all windows in order and leaves the position', () => {
    const data = new TokenDataset(tokens, { batchSize: 8, sequenceLength: 5 });
    data.next();
    const before = data.state();
    const batches = [...data.pass()];
    expect(batches.map((batch) => batch.rows)).toEqual([8, 8, 4]);
    expect(batches.flatMap(starts)).toEqual(Array.from({ length: 20 }, (_, i) => i * 5));
    expect(data.state()).toEqual(before);
  });

  test('tensors of a batch', async () => {
    const data = new TokenDataset(tokens, { batchSize: 2, sequenceLength: 3, order: 'sequential' });
    const { ids, targets } = batchTensors(data.next());
    expect([ids.shape, ids.dtype, [...(await ids.data())]]).toEqual([[2, 3], 'int32', [0, 1, 2, 3, 4, 5]]);
    expect([...(await targets.data())]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test('refuses what makes no sense', () => {
    expect(() => new TokenDataset(tokens, { sequenceLength: 101 })).toThrow(
      'TokenDataset: expected more than 101 tokens, sequenceLength and one, got 101',
    );
    expect(() => new TokenDataset([1, 2, 3] as unknown as Uint16Array)).toThrow(
      'TokenDataset: expected a Uint16Array, Uint32Array or Int32Array for tokens, got [1, 2, 3]',
    );
    expect(() => new TokenDataset(tokens, { shuffle: true } as object)).toThrow(OptionError);
    const data = new TokenDataset(tokens, { sequenceLength: 5 });
    const other = new TokenDataset(tokens, { sequenceLength: 5, seed: 1 });
    expect(() => data.loadState(other.state())).toThrow('TokenDataset.loadState: expected 0 for seed, got 1');
    expect(() => data.loadState({ ...(data.state() as object), window: 20 })).toThrow(
      'TokenDataset.loadState: expected an integer from 0 to 19 for window, got 20',
    );
    expect(() => data.loadState(null)).toThrow(OptionError);
  });
});
