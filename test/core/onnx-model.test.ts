// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { Message, onnxModel } from '../../bench/onnx-model.js';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('Message writes what "Encoding" of the protobuf documentation says', () => {
  const examples: [string, Message, string][] = [
    ['a varint of two bytes', new Message().int(1, 150), '089601'],
    ['a string', new Message().string(2, 'testing'), '120774657374696e67'],
    ['a message inside', new Message().message(3, new Message().int(1, 150)), '1a03089601'],
    ['packed integers', new Message().ints(6, [3, 270, 86942]), '3206038e029ea705'],
    ['minus two', new Message().int(1, -2), '08feffffffffffffffff01'],
  ];
  test.each(examples)('%s', (_, message, bytes) => expect(hex(message.finish())).toBe(bytes));
});

describe('Message', () => {
  test.each([
    [0, '0800'],
    [127, '087f'],
    [128, '088001'],
    [300, '08ac02'],
    [2 ** 32, '088080808010'],
    [2 ** 53 - 1, '08ffffffffffffff0f'],
    [2n ** 63n - 1n, '08ffffffffffffffff7f'],
    [-(2n ** 63n), '0880808080808080808001'],
    [-1, '08ffffffffffffffffff01'],
  ])('writes the integer %s', (value, bytes) => expect(hex(new Message().int(1, value).finish())).toBe(bytes));

  test('writes a field number above 15 in two bytes', () =>
    expect(hex(new Message().int(20, 2).finish())).toBe('a00102'));

  test('writes lengths above 127 in two bytes, and what is inside unchanged', () => {
    const inner = new Message().bytes(1, new Uint8Array(200).fill(7));
    const bytes = hex(new Message().message(2, inner).finish());
    expect(bytes).toBe(`12cb01${'0ac801'}${'07'.repeat(200)}`);
  });

  test('writes empty strings, messages and lists', () =>
    expect(hex(new Message().string(1, '').message(2, new Message()).ints(3, []).finish())).toBe('0a0012001a00'));
});

test('onnxModel: a graph of one node, field by field', () => {
  const model = onnxModel({
    nodes: [{ op: 'Op', domain: 'com.microsoft', inputs: ['x', '', 'w'], outputs: ['y'], attributes: { n: -1 } }],
    initializers: [{ name: 'w', type: 'int8', shape: [2, 200], data: new Int8Array(400).fill(-1) }],
    inputs: [{ name: 'x', type: 'float32', shape: [1] }],
    outputs: [{ name: 'y', type: 'float32', shape: [] }],
  });
  const attribute = `0a016e${'18ffffffffffffffffff01'}a00102`;
  const node = `0a01780a000a0177${'120179'}22024f70${'2a11'}${attribute}3a0d${Buffer.from('com.microsoft').toString('hex')}`;
  const initializer = `0a0302c801${'1003'}420177${'4a9003'}${'ff'.repeat(400)}`;
  const input = `0a0178${'120a'}0a08${'0801'}1204${'0a020801'}`;
  const output = `0a0179${'1206'}0a04${'0801'}1200`;
  const graph = `0a31${node}${'120562656e6368'}2a9d03${initializer}5a0f${input}620b${output}`;
  const imports = `42040a001017${'42110a0d'}${Buffer.from('com.microsoft').toString('hex')}1001`;
  expect(hex(model)).toBe(`080b${'3af803'}${graph}${imports}`);
});
