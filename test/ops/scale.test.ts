// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { describeOp } from '../op-tests.js';
import { scaleSpec } from '../formulas/scale.js';

describeOp(scaleSpec);
