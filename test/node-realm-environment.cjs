// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

'use strict';

const { TestEnvironment } = require('jest-environment-node');

// The addon reads this when it is loaded, with getenv: it has to be set here, in the real process, and not in a test's copy of
// process.env. New blocks are then filled with NaN, and the guard band behind each block is checked when it is freed.
process.env.TERNFLASH_POISON = '1';

// Native code makes its typed arrays in Node's main realm, and Jest runs tests in a vm context with classes of its own, for which
// `instanceof` would be false. Both realms get the same classes.
const SHARED = [
  'ArrayBuffer',
  'SharedArrayBuffer',
  'DataView',
  'Float32Array',
  'Float64Array',
  'Int8Array',
  'Int16Array',
  'Int32Array',
  'Uint8Array',
  'Uint8ClampedArray',
  'Uint16Array',
  'Uint32Array',
  'BigInt64Array',
  'BigUint64Array',
];

/** Node's environment, sharing the classes of binary data with the main realm. */
module.exports = class NodeRealmEnvironment extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    for (const name of SHARED) this.global[name] = globalThis[name];
    // Node 20 adds these symbols to its main realm only.
    for (const name of ['dispose', 'asyncDispose']) {
      if (this.global.Symbol[name] === undefined) {
        Object.defineProperty(this.global.Symbol, name, { value: Symbol[name] ?? Symbol.for(`nodejs.${name}`) });
      }
    }
  }
};
