// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** What a scenario is asked for. */
export interface StressOptions {
  /** The same seed makes the same run, as far as the system lets it. */
  seed: number;
  /** How many calls, ops, threads or files; null for the scenario's own number. */
  count: number | null;
  /** Only the parts with this in their name, where the scenario has parts with names; null for all. */
  only: string | null;
}

/** What a scenario found. */
export interface StressResult {
  /** What was counted, by name, in the order of the summary. */
  figures: Record<string, number | string>;
  /** Lists for a closer look, which are not printed. */
  details?: Record<string, readonly string[]>;
  /** What went wrong, a line each; none if all is well. */
  findings: string[];
}

/** A way to abuse the library. It runs in a process of its own. */
export interface Scenario {
  /** One line. */
  summary: string;
  /** Its own number for {@link StressOptions.count}. */
  count: number;
  /** Says what it is doing right now: the last word of a process that dies or hangs. */
  run(options: StressOptions & { count: number }, say: (doing: string) => void): Promise<StressResult>;
}

/** Findings of one kind are listed up to here, and then counted. */
const MOST_OF_A_KIND = 3;

/** Findings by kind: a fault is found by hundreds of calls. */
export class Findings {
  private readonly kinds = new Map<string, { count: number; examples: string[] }>();

  add(kind: string, example: string): void {
    const found = this.kinds.get(kind) ?? { count: 0, examples: [] };
    this.kinds.set(kind, found);
    if (++found.count <= MOST_OF_A_KIND) found.examples.push(example);
  }

  /** How many there are. */
  get count(): number {
    return [...this.kinds.values()].reduce((sum, { count }) => sum + count, 0);
  }

  lines(): string[] {
    return [...this.kinds]
      .sort(([, a], [, b]) => b.count - a.count)
      .map(([kind, { count, examples }]) => `${count} x ${kind}: ${examples.join(' | ')}`);
  }
}
