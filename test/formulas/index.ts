// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Case } from '../cases.js';
import type { OpSpec } from '../op-spec.js';
import { addSpec, mulSpec } from './binary.js';
import { bitLinearSpec } from './bit-linear.js';
import { crossEntropySpec } from './cross-entropy.js';
import { dropoutSpec } from './dropout.js';
import { embeddingSpec } from './embedding.js';
import { flashAttentionSpec } from './flash-attention.js';
import { flashAttentionVarlenSpec } from './flash-attention-varlen.js';
import { gegluSpec, gegluTanhSpec, relu2GluSpec, swigluSpec } from './gated-activation.js';
import { layerNormSpec } from './layer-norm.js';
import { linearSpec } from './linear.js';
import { linearCrossEntropySpec } from './linear-cross-entropy.js';
import { mergeAttentionStatesSpec } from './merge-attention-states.js';
import { rmsNormSpec } from './rms-norm.js';
import { ropeSpec } from './rope.js';
import { scaleSpec } from './scale.js';
import { softmaxSpec } from './softmax.js';
import { meanSpec, sumSpec } from './sum.js';
import { ternaryMatmulFloatSpec, ternaryMatmulSpec } from './ternary-matmul.js';

/** Something to be done with every op, whatever its cases look like. */
export interface SpecVisitor<T> {
  <C extends Case>(spec: OpSpec<C>): T;
}

/** What `visit` makes of each op that has a formula. */
export function mapSpecs<T>(visit: SpecVisitor<T>): T[] {
  return [
    visit(addSpec),
    visit(mulSpec),
    visit(scaleSpec),
    visit(sumSpec),
    visit(meanSpec),
    visit(softmaxSpec),
    visit(linearSpec),
    visit(embeddingSpec),
    visit(rmsNormSpec),
    visit(layerNormSpec),
    visit(dropoutSpec),
    visit(ropeSpec),
    visit(swigluSpec),
    visit(relu2GluSpec),
    visit(gegluSpec),
    visit(gegluTanhSpec),
    visit(crossEntropySpec),
    visit(linearCrossEntropySpec),
    visit(ternaryMatmulSpec),
    visit(ternaryMatmulFloatSpec),
    visit(bitLinearSpec),
    visit(flashAttentionSpec),
    visit(flashAttentionVarlenSpec),
    visit(mergeAttentionStatesSpec),
  ];
}
