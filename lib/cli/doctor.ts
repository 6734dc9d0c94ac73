// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { parseArgs } from 'node:util';
import { examine } from '../doctor/examine.js';
import { COLOURED, PLAIN, render } from '../doctor/render.js';
import { assemble } from '../doctor/report.js';
import type { Command } from './command.js';

const HELP = `Examples
  ternflash doctor                                 which addon and devices work here, and why not the others
  ternflash doctor --json | jq .problems           the same for programs
  TERNFLASH_NATIVE=0 ternflash doctor              with one of the variables that it lists

Usage: ternflash doctor [--json]

Says which addon and which devices ternflash can use here, why not the others, and what to do; then checks a few small ops on each.

  --json       the same as one JSON object
  -h, --help   this text

Exit code: 0 if all that is present works (no GPU is no failure), 1 if something present is broken, 2 for a wrong call.
`;

const OPTIONS = {
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** `ternflash doctor`. */
export const doctor: Command = {
  async run(args, { out, signal }) {
    const { values } = parseArgs({ args, options: OPTIONS }); // throws on others; main() says so
    if (values.help) {
      out.write(HELP);
      return 0;
    }
    const facts = await examine();
    signal.throwIfAborted(); // Ctrl-C ended the process that looked, too
    const report = assemble(facts);
    const style = out.isTTY && !process.env.NO_COLOR ? COLOURED : PLAIN;
    out.write(values.json ? `${JSON.stringify(report, null, 2)}\n` : render(report, style));
    return report.ok ? 0 : 1;
  },
};
