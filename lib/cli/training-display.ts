// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { StepReport } from '../train/trainer-options.js';
import type { Output } from './command.js';

/** Steps that the speed is taken over. */
const RECENT = 20;
/** Where nobody watches, a line from time to time is enough. */
const SECONDS_BETWEEN_LINES = 10;
const MOST_COLUMNS = 40;
const DEFAULT_WIDTH = 80;
const ERASE_LINE = '\r\x1b[2K';

function duration(seconds: number): string {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const rest = String(Math.floor(seconds % 60)).padStart(2, '0');
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, '0')}:${rest}` : `${minutes}:${rest}`;
}

/** How a run goes: a bar that is written over at a terminal, a line now and then elsewhere. */
export class TrainingDisplay {
  private readonly recent: Pick<StepReport, 'step' | 'seconds' | 'tokens'>[] = [];
  private evaluation: number | null = null;
  private told = -Infinity;
  private isBarShown = false;

  constructor(
    private readonly output: Output,
    private readonly steps: number,
  ) {}

  /** A line that stays, above the bar. */
  line(text: string): void {
    this.clear();
    this.output.write(`${text}\n`);
  }

  /** Shows a step that is done. */
  step(report: StepReport): void {
    this.recent.push(report);
    if (this.recent.length > RECENT + 1) this.recent.shift();
    this.evaluation = report.evaluation ?? this.evaluation;
    if (this.output.isTTY) {
      this.output.write(`${ERASE_LINE}${this.bar(report)}`);
      this.isBarShown = true;
      return;
    }
    const isTime = report.seconds - this.told >= SECONDS_BETWEEN_LINES || report.step === this.steps;
    if (!isTime && report.evaluation === undefined) return;
    this.told = report.seconds;
    this.output.write(`step ${report.step}/${this.steps}, ${this.figures(report)}\n`);
  }

  /** Takes the bar away. */
  clear(): void {
    if (this.isBarShown) this.output.write(ERASE_LINE);
    this.isBarShown = false;
  }

  private bar(report: StepReport): string {
    const counter = `${report.step}/${this.steps}`;
    const figures = this.figures(report);
    const width = this.output.columns ?? DEFAULT_WIDTH;
    const columns = Math.min(MOST_COLUMNS, width - counter.length - figures.length - 5);
    if (columns < 4) return `${counter} ${figures}`.slice(0, width - 1);
    const done = Math.round((columns * report.step) / this.steps);
    return `${'█'.repeat(done)}${'░'.repeat(columns - done)} ${counter}, ${figures}`;
  }

  private figures({ step, loss, seconds, tokens }: StepReport): string {
    const evaluation = this.evaluation === null ? '' : `, evaluation ${this.evaluation.toFixed(3)}`;
    const [first] = this.recent;
    const time = seconds - first.seconds;
    if (step === first.step || time <= 0) return `loss ${loss.toFixed(3)}${evaluation}`;
    const left = ((this.steps - step) * time) / (step - first.step);
    const speed = Math.round((tokens - first.tokens) / time);
    return `loss ${loss.toFixed(3)}${evaluation}, ${speed} targets/s, ${duration(left)} left`;
  }
}
