// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { lossCurve } from '../../lib/cli/loss-curve.js';
import { TrainingDisplay } from '../../lib/cli/training-display.js';
import type { StepReport } from '../../lib/index.js';

const report = (step: number, seconds: number, more: Partial<StepReport> = {}): StepReport => ({
  step,
  loss: 2.5,
  learningRate: 1,
  gradNorm: 1,
  lossScale: 1,
  tokens: step * 100,
  seconds,
  skipped: false,
  ...more,
});

function display(steps: number, terminal?: { columns: number }): { shown: TrainingDisplay; text(): string } {
  let text = '';
  const output = { write: (part: string) => (text += part), isTTY: terminal !== undefined, ...terminal };
  return { shown: new TrainingDisplay(output, steps), text: () => text };
}

describe('TrainingDisplay', () => {
  test('at a terminal: one line, as wide as it, with the time that is left', () => {
    const { shown, text } = display(4000, { columns: 70 });
    shown.step(report(1000, 10));
    shown.step(report(1001, 11, { evaluation: 2.25 }));
    const [, first, second] = text().split('\r\x1b[2K');
    expect(first).toBe(`${'█'.repeat(10)}${'░'.repeat(30)} 1000/4000, loss 2.500`);
    // No room for a bar of any use.
    expect(second).toBe('1001/4000 loss 2.500, evaluation 2.250, 100 targets/s, 49:59 left');
    shown.line('said');
    expect(text().endsWith('\r\x1b[2Ksaid\n')).toBe(true);
    shown.clear();
    expect(text().endsWith('said\n')).toBe(true);
  });

  test('elsewhere: a line from time to time, at evaluations and at the end', () => {
    const { shown, text } = display(7);
    [0.1, 0.2, 5, 11, 12, 13, 14].forEach((seconds, i) =>
      shown.step(report(i + 1, seconds, i === 4 ? { evaluation: 2 } : {})),
    );
    expect(text()).toBe(
      [
        'step 1/7, loss 2.500',
        'step 4/7, loss 2.500, 28 targets/s, 0:10 left',
        'step 5/7, loss 2.500, evaluation 2.000, 34 targets/s, 0:05 left',
        'step 7/7, loss 2.500, evaluation 2.000, 43 targets/s, 0:00 left',
        '',
      ].join('\n'),
    );
  });
});

describe('lossCurve', () => {
  test('draws between the highest and the lowest', () => {
    expect(lossCurve([3, 3, 2, 1, 2], { width: 20, height: 3 })).toEqual(['3.000 ┤─╮', '2.000 ┤ ╰╮╭', '1.000 ┤  ╰╯']);
    expect(lossCurve([1, 1], { height: 3 })).toEqual(['1.000 ┤─']);
  });

  test('many values are means of spans, and what is not finite is left out', () => {
    const values = Array.from({ length: 1000 }, (_, i) => (i % 10 === 0 ? NaN : 10 - i / 100));
    const lines = lossCurve(values, { width: 40, height: 8 });
    expect(lines).toHaveLength(8);
    expect(Math.max(...lines.map((line) => line.length))).toBe(40);
    expect(lines.join('')).not.toMatch(/NaN|Infinity/);
    expect(lossCurve([NaN, 1])).toEqual([]);
    expect(lossCurve([])).toEqual([]);
  });
});
