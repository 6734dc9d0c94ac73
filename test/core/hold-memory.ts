// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { Storage } from '../../lib/storage.js';

/**
 * Keeps every block of memory that a test file allocates or receives reachable to its end. What a test forgets to dispose would otherwise be freed by the
 * garbage collector some time later, between two looks at `memory()` of another test.
 */
export function holdMemory(): void {
  const held: Storage[] = [];
  const adopt = Storage.adopt.bind(Storage);
  beforeAll(() => {
    // Storage.allocate goes through it too.
    jest.spyOn(Storage, 'adopt').mockImplementation((...args) => {
      const storage = adopt(...args);
      held.push(storage);
      return storage;
    });
  });
  afterAll(() => {
    expect(held.length).toBeGreaterThan(0);
    jest.restoreAllMocks();
  });
}
