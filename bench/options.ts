// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { parseArgs } from 'node:util';
import type { DeviceName } from '../lib/device.js';
import { isPicked, type Named } from './groups.js';

const { values, positionals } = parseArgs({
  options: {
    device: { type: 'string', default: 'cpu' },
    suite: { type: 'string' },
    once: { type: 'boolean', default: false },
    small: { type: 'boolean', default: false },
    unchecked: { type: 'boolean', default: false },
    json: { type: 'string' },
    report: { type: 'string' },
    compare: { type: 'string', multiple: true, default: [] },
    tolerance: { type: 'string', default: '10' },
    seconds: { type: 'string' },
    peer: { type: 'string' },
    threads: { type: 'string' },
  },
  allowPositionals: true,
});

/** What followed `npm run bench --`. */
export const ARGUMENTS: readonly string[] = process.argv.slice(2);
/** Where the cases run: `--device cuda`. Default cpu. */
export const DEVICE = values.device as DeviceName;
/** Which cases: `--suite gpu`, `--suite cpu`, or `--suite model`, see model.ts. Default: those of the device. */
export const SUITE = values.suite ?? (values.device.startsWith('cuda') ? 'gpu' : 'cpu');
/** `--once`: every case runs one time, neither checked nor timed nor written, for a profiler that looks on. */
export const ONCE = values.once;
/** `--small`: the cases of the GPU, the attention layer, or the model, in sizes that any device can do, to try them; their times say nothing. */
export const SMALL = values.small;
/** `--unchecked`: the cases of the GPU are timed without being checked, for those that just were. */
export const UNCHECKED = values.unchecked;
/** `--json FILE`: where the results are written. Default bench-results/<time>.json. */
export const JSON_FILE = values.json;
/** `--report FILE`: where the page is written. Default: beside the results, unless `--json` says where those go; then there is none. */
export const REPORT_FILE = values.report;
/** `--compare FILE`, any number of times: saved runs that the page compares this one with. */
export const COMPARE_FILES: readonly string[] = values.compare;
/** `--tolerance PERCENT`: times that differ by no more are alike. Default 10. */
export const TOLERANCE = Number(values.tolerance) / 100;
/** `--seconds N`: no case of the GPU is begun after so long. Default: none is left out. */
export const SECONDS = Number(values.seconds ?? Infinity);
/** The same with `--peer onnxruntime`: for how long contenders take turns at a case, three turns each at least. Default 1.5. */
export const CASE_SECONDS = Number(values.seconds ?? 1.5);
/**
 * `--peer torch`: `flash-attention` or `ternary` of a GPU, in one process with PyTorch, see torch_attention.py and torch_ternary.py; further names are
 * their words.
 * `--peer onnxruntime`: cases of the cpu device, in one process with ONNX Runtime, see onnxruntime.ts.
 */
export const PEER = values.peer;
/** `--threads N`: of the cpu device, and of its peer. Default: as many as processors. */
export const THREADS = values.threads === undefined ? null : Number(values.threads);
/** `report FILE …`: measures nothing and makes the page from runs that were saved; null if that was not said. */
export const SAVED_FILES: readonly string[] | null = positionals[0] === 'report' ? positionals.slice(1) : null;
/** Names or groups of cases, see groups.ts; none mean all. */
export const FILTERS: readonly string[] = SAVED_FILES === null ? positionals : [];

if (!(SECONDS > 0)) throw new Error(`bench: expected a number above 0 for --seconds, got ${values.seconds}`);
if (!(TOLERANCE >= 0 && TOLERANCE < 1))
  throw new Error(`bench: expected a percentage from 0 to below 100 for --tolerance, got ${values.tolerance}`);
if (!['cpu', 'gpu', 'model'].includes(SUITE))
  throw new Error(`bench: expected cpu, gpu or model for --suite, got ${SUITE}`);
if (SAVED_FILES?.length === 0) throw new Error('bench: expected files of saved runs behind report, got none');

if (PEER !== undefined && PEER !== 'torch' && PEER !== 'onnxruntime')
  throw new Error(`bench: expected torch or onnxruntime for --peer, got ${PEER}`);
if (PEER === 'torch' && FILTERS[0] !== 'flash-attention' && FILTERS[0] !== 'ternary')
  throw new Error(`bench: expected flash-attention or ternary with --peer torch, got ${FILTERS[0] ?? 'nothing'}`);

export const isWanted = (c: Named): boolean => isPicked(c, FILTERS);
