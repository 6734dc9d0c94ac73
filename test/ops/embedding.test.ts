// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { describeOp } from '../op-tests.js';
import { embeddingSpec } from '../formulas/embedding.js';

describeOp(embeddingSpec);
