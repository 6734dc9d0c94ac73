// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Writes ONNX models: as much of onnx.proto as an op with constant weights needs, in the wire format of protobuf. The numbers are those of the
 * fields in onnx.proto.
 */
const VARINT = 0;
const LENGTH_DELIMITED = 2;

const IR_VERSION = 11;
/** The first with Attention. */
const OPSET = 23;
const CONTRIB_OPSET = 1;
const INT_ATTRIBUTE = 2;
const ELEMENT_TYPES = { float32: 1, uint8: 2, int8: 3, int32: 6 } as const;

export type ElementType = keyof typeof ELEMENT_TYPES;

export interface OnnxValue {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
}

export interface OnnxTensor extends OnnxValue {
  readonly data: ArrayBufferView;
}

export interface OnnxNode {
  readonly op: string;
  /** Default: the ops of ONNX itself. */
  readonly domain?: 'com.microsoft';
  /** '' for an optional input that is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes?: Readonly<Record<string, number>>;
}

export interface OnnxGraph {
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxTensor[];
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
}

/** A protobuf message. Its bytes are joined once, by `finish` of the outermost: weights are large. */
export class Message {
  private readonly parts: Uint8Array[] = [];
  private length = 0;

  /** An int32, int64 or enum. */
  int(field: number, value: number | bigint): this {
    return this.add(varint(8 * field + VARINT)).add(varint(value));
  }

  bytes(field: number, value: Uint8Array): this {
    return this.header(field, value.length).add(value);
  }

  string(field: number, value: string): this {
    return this.bytes(field, Buffer.from(value, 'utf8'));
  }

  /** Repeated integers, packed. */
  ints(field: number, values: readonly (number | bigint)[]): this {
    return this.bytes(field, Buffer.concat(values.map(varint)));
  }

  message(field: number, value: Message): this {
    this.header(field, value.length);
    for (const part of value.parts) this.add(part);
    return this;
  }

  finish(): Uint8Array {
    const joined = new Uint8Array(this.length);
    let at = 0;
    for (const part of this.parts) {
      joined.set(part, at);
      at += part.length;
    }
    return joined;
  }

  private header(field: number, length: number): this {
    return this.add(varint(8 * field + LENGTH_DELIMITED)).add(varint(length));
  }

  private add(part: Uint8Array): this {
    this.parts.push(part);
    this.length += part.length;
    return this;
  }
}

/** Seven bits a byte, the lowest first; of a negative number, its 64 bits in two's complement. */
function varint(value: number | bigint): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes: number[] = [];
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Uint8Array.from(bytes);
}

function attributeProto(name: string, value: number): Message {
  return new Message().string(1, name).int(3, value).int(20, INT_ATTRIBUTE);
}

function nodeProto({ op, domain, inputs, outputs, attributes = {} }: OnnxNode): Message {
  const node = new Message();
  for (const input of inputs) node.string(1, input);
  for (const output of outputs) node.string(2, output);
  node.string(4, op);
  for (const [name, value] of Object.entries(attributes)) node.message(5, attributeProto(name, value));
  return node.string(7, domain ?? '');
}

function tensorProto({ name, type, shape, data }: OnnxTensor): Message {
  const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return new Message().ints(1, shape).int(2, ELEMENT_TYPES[type]).string(8, name).bytes(9, raw);
}

function valueInfoProto({ name, type, shape }: OnnxValue): Message {
  const sizes = new Message();
  for (const size of shape) sizes.message(1, new Message().int(1, size));
  const tensorType = new Message().int(1, ELEMENT_TYPES[type]).message(2, sizes);
  return new Message().string(1, name).message(2, new Message().message(1, tensorType));
}

/** The bytes of a .onnx file. Raw data is little-endian, like every processor that this runs on. */
export function onnxModel({ nodes, initializers, inputs, outputs }: OnnxGraph): Uint8Array {
  const graph = new Message();
  for (const node of nodes) graph.message(1, nodeProto(node));
  graph.string(2, 'bench');
  for (const tensor of initializers) graph.message(5, tensorProto(tensor));
  for (const input of inputs) graph.message(11, valueInfoProto(input));
  for (const output of outputs) graph.message(12, valueInfoProto(output));
  const opset = (domain: string, version: number): Message => new Message().string(1, domain).int(2, version);
  return new Message()
    .int(1, IR_VERSION)
    .message(7, graph)
    .message(8, opset('', OPSET))
    .message(8, opset('com.microsoft', CONTRIB_OPSET))
    .finish();
}
