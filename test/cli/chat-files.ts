// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { byteLevelTokenizer } from '../text/tiny-tokenizers.js';

const { json, specialIds } = byteLevelTokenizer([]);

/** The token that ends an answer. */
export const EOT = specialIds['<|eot|>'];

const chat_template =
  '{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}<|eot|>{% endfor %}' +
  '{% if add_generation_prompt %}[assistant]{% endif %}';
const names = { bos_token: '<|begin|>', eos_token: '<|end|>' };

/** A tokenizer of one token a byte, for conversations. */
export const CHAT_FILES = {
  'tokenizer.json': json,
  'tokenizer_config.json': { ...names, chat_template },
  'generation_config.json': { eos_token_id: [EOT] },
};

/** The same for continuing texts only. */
export const BASE_FILES = { ...CHAT_FILES, 'tokenizer_config.json': names };
