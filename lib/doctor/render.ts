// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Report } from './report.js';

/** How words are made to stand out; none of it where the text goes to a file or a pipe. */
export interface Style {
  bold(text: string): string;
  good(text: string): string;
  bad(text: string): string;
}

const as = (code: number) => (text: string) => `\x1b[${code}m${text}\x1b[0m`;
const plainly = (text: string): string => text;

export const PLAIN: Style = { bold: plainly, good: plainly, bad: plainly };
export const COLOURED: Style = { bold: as(1), good: as(32), bad: as(31) };

type Line = readonly [label: string, text: string];

function machineLines({ machine }: Report): Line[] {
  const { host } = machine;
  const kernelDriver = host.kernelDriver === null ? 'none' : `${host.kernelDriver}, ${host.gpus} GPUs`;
  return [
    ['ternflash', `${machine.version} in ${machine.folder}`],
    ['Node.js', machine.node],
    ['platform', `${machine.platform}, ${machine.system}${host.wsl ? ', WSL2' : ''}`],
    ['processor', machine.processor],
    ['NVIDIA kernel driver', kernelDriver],
  ];
}

function addonLines({ addon }: Report): Line[] {
  const tried = addon.attempts.flatMap(({ problem }): Line[] => (problem === null ? [] : [['not loaded', problem]]));
  const limit = addon.containerLimit === null ? '' : `; the container grants ${addon.containerLimit} processors`;
  return [
    ...tried,
    ['loaded', addon.file ?? 'none'],
    ...(addon.file === null ? [] : [['processor code', `${addon.isa}, ${addon.threads} threads${limit}`] as const]),
  ];
}

function cudaLines({ cuda }: Report): Line[] {
  if (!cuda.inBuild) return [['in this build', cuda.problem === null ? 'unknown' : `no: ${cuda.problem}`]];
  return [
    ['in this build', `runtime ${cuda.runtimeVersion}, code for ${cuda.architectures.join(', ')}`],
    ['driver supports', cuda.driverVersion === null ? 'none' : `CUDA ${cuda.driverVersion}`],
    ...(cuda.problem === null ? [] : [['GPUs', `none: ${cuda.problem}`] as const]),
    ...cuda.gpus.map(({ id, name, capability, bytes, problem }): Line => {
      const memory = `${(bytes / 2 ** 30).toFixed(0)} GiB`;
      const what = name === '' ? 'unknown GPU' : `${name}, compute capability ${capability}, ${memory}`;
      return [id, `${what}: ${problem === null ? 'usable' : `not usable: ${problem}`}`];
    }),
  ];
}

function deviceLines({ devices, defaultDevice }: Report): Line[] {
  return [
    ...devices.map(({ id, available, reason }): Line => [id, `${available ? 'yes' : 'no'}: ${reason}`]),
    ['default', defaultDevice === null ? 'unknown' : `${defaultDevice.id}: ${defaultDevice.why}`],
  ];
}

function checkLines({ checks }: Report, style: Style): Line[] {
  return checks.map(({ device, name, passed, error, milliseconds }) => [
    `${device} ${name}`,
    `${passed ? style.good('pass') : style.bad('FAIL')} ${milliseconds.toFixed(1)} ms${error === null ? '' : `: ${error}`}`,
  ]);
}

function section(title: string, lines: readonly Line[], style: Style): string {
  const width = Math.max(...lines.map(([label]) => label.length));
  return [style.bold(title), ...lines.map(([label, text]) => `  ${label.padEnd(width)}  ${text}`)].join('\n');
}

function conclusion({ problems, ok }: Report, style: Style): string {
  const lines = problems.map(({ subject, message, remedy, heading, broken }) =>
    [
      `  ${broken ? style.bad('broken') : 'note'}: ${subject}: ${message}`,
      `    ${remedy}`,
      `    GPU_SETUP.md: ${heading}`,
    ].join('\n'),
  );
  const verdict = ok
    ? style.good('Everything that is present works.')
    : style.bad('Something that is present is broken.');
  return [...(lines.length > 0 ? [style.bold('Problems'), ...lines, ''] : []), verdict].join('\n');
}

/** The report as text, with a newline at its end. */
export function render(report: Report, style: Style = PLAIN): string {
  const variables = Object.entries(report.machine.environment);
  const parts: [string, readonly Line[]][] = [
    ['Machine', machineLines(report)],
    [
      'Environment',
      variables.length > 0
        ? variables.map(([name, value]) => [name, JSON.stringify(value)])
        : [['none', 'of the variables that matter is set']],
    ],
    ['Addon', addonLines(report)],
    ['CUDA', cudaLines(report)],
    ['Devices', deviceLines(report)],
    ['Self-check', report.checks.length > 0 ? checkLines(report, style) : [['none', 'was run']]],
  ];
  return `${parts.map(([title, lines]) => section(title, lines, style)).join('\n\n')}\n\n${conclusion(report, style)}\n`;
}
