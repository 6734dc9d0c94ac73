// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { checkOneOf } from '../check.js';
import type { DeviceName } from '../device.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { CausalLM } from '../models/causal-lm.js';
import { generate } from '../models/generate.js';
import type { LoadTextModel } from '../text/text-model.js';
import { Tokenizer } from '../text/tokenizer.js';

/** A model that `CausalLM.save` wrote as `model.safetensors`, in a folder with the tokenizer it was trained with. */
export const loadTextModel: LoadTextModel = async (folder, { device, dtype }) => {
  const chosen = dtype === undefined ? null : checkOneOf('loadTextModel', 'dtype', dtype as FloatDType, FLOAT_DTYPES);
  const tokenizer = await Tokenizer.load(folder);
  const placement = device === undefined ? {} : { device: device as DeviceName };
  const model = await CausalLM.load(path.join(folder, 'model.safetensors'), placement);
  if (chosen !== null) model.to({ dtype: chosen });
  model.eval();
  return {
    tokenizer,
    contextLength: Infinity, // positions are rotations: there is no last one
    description: `${folder}: ${model.config.layers} layers of ${model.config.hidden} in ${model.config.dtype} on ${model.device.id}`,
    generate: (promptIds, options) => generate(model, promptIds, options),
    dispose: () => model.dispose(),
  };
};
