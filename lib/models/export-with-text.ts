// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { CausalLM } from './causal-lm.js';
import { exportModel, formatOf, type ExportModelOptions } from './export-model.js';
import { readGgufTokenizer } from './gguf-tokenizer.js';
import { copyTextFiles, folderOf } from './text-files.js';

/**
 * @internal {@link exportModel}, and what belongs to the text of the checkpoint that the model came from: its files from folder to folder, and a GGUF file
 * gets the tokenizer, if it can hold it.
 *
 * @param options `onWarning`: called if it cannot.
 * @returns the files that were copied.
 */
export async function exportWithText(
  from: string,
  model: CausalLM,
  to: string,
  { onWarning, ...options }: ExportModelOptions & { onWarning?: ((warning: string) => void) | undefined },
): Promise<string[]> {
  if (formatOf(to, options) !== 'gguf') {
    await exportModel(model, to, options);
    return copyTextFiles(from, to);
  }
  const { metadata, missing } = await readGgufTokenizer(await folderOf(from), model.config.vocabulary);
  await exportModel(model, to, { ...options, metadata: { ...metadata, ...options.metadata } });
  if (missing !== null) onWarning?.(`${to} has no tokenizer: ${missing}`);
  return [];
}
