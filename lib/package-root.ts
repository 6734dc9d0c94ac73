// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync } from 'node:fs';
import * as path from 'node:path';

/** The package's folder, found from dist/ as well as from any other build folder inside it. */
export function packageRoot(): string {
  let folder = __dirname;
  while (!(existsSync(path.join(folder, 'package.json')) && existsSync(path.join(folder, 'CMakeLists.txt')))) {
    const parent = path.dirname(folder);
    if (parent === folder) return path.join(__dirname, '..');
    folder = parent;
  }
  return folder;
}
