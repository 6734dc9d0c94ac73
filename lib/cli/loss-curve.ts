// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** Means over equal spans, at most so many. */
function spans(values: readonly number[], most: number): number[] {
  const count = Math.min(most, values.length);
  return Array.from({ length: count }, (_, i) => {
    const span = values.slice(Math.floor((i * values.length) / count), Math.floor(((i + 1) * values.length) / count));
    return span.reduce((sum, value) => sum + value, 0) / span.length;
  });
}

/**
 * A curve in box-drawing characters, its values at the left.
 *
 * @param values those that are not finite are left out.
 * @returns lines; none without two values.
 */
export function lossCurve(values: readonly number[], { width = 80, height = 10 } = {}): string[] {
  const finite = values.filter(Number.isFinite);
  if (finite.length < 2) return [];
  const [low, high] = finite.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const label = (value: number): string => value.toFixed(3);
  const margin = Math.max(label(low).length, label(high).length);
  // A column lies between two values.
  const points = spans(finite, Math.max(2, width - margin - 1));
  const [bottom, top] = [Math.min(...points), Math.max(...points)];
  const step = (top - bottom) / (height - 1) || 1;
  const rows = points.map((value) => Math.round((top - value) / step));
  const grid = Array.from({ length: Math.max(...rows) + 1 }, () => new Array<string>(points.length - 1).fill(' '));
  for (let column = 0; column + 1 < rows.length; column++) {
    const [from, to] = [rows[column], rows[column + 1]];
    if (from === to) {
      grid[from][column] = '─';
      continue;
    }
    for (let row = Math.min(from, to) + 1; row < Math.max(from, to); row++) grid[row][column] = '│';
    grid[from][column] = from < to ? '╮' : '╯';
    grid[to][column] = from < to ? '╰' : '╭';
  }
  return grid.map((line, row) => `${label(top - row * step).padStart(margin)} ┤${line.join('').trimEnd()}`);
}
