// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
import prettier from 'eslint-config-prettier';
import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['build/', '.sanitize/', 'dist/', '.out/', 'prebuilds/', 'node_modules/', 'docs/api/'] },
  ...tseslint.configs.recommended,
  {
    files: ['**/*.cjs'],
    rules: { '@typescript-eslint/no-require-imports': 'off' },
  },
  {
    // What is loaded when it is first needed, or not at all: the loader of the addon, optional packages, and commands.
    files: ['lib/native.ts', 'lib/text/optional-packages.ts', 'lib/cli/commands.ts'],
    rules: { '@typescript-eslint/no-require-imports': 'off' },
  },
  {
    files: ['lib/**/*.ts'],
    rules: { '@typescript-eslint/no-explicit-any': 'error', 'no-console': 'error' },
  },
  prettier,
);
