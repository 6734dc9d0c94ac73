// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { Storage } from '../../lib/storage.js';

/**
 * Keeps every block of memory that a test file allocates reachable to its end. What a test forgets to dispose would otherwise be freed by the
 * garbage collector some time later, between two looks at `memory()` of another test.
 */
export function holdMemory(): void {
  const held: Storage[] = [];
  const allocate = Storage.allocate.bind(Storage);
  beforeAll(() => {
    jest.spyOn(Storage, 'allocate').mockImplementation((...args) => {
      const storage = allocate(...args);
      held.push(storage);
      return storage;
    });
  });
  afterAll(() => {
    expect(held.length).toBeGreaterThan(0);
    jest.restoreAllMocks();
  });
}
