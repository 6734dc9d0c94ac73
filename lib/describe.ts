// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** The longest text that a message repeats: a file may hold a name of megabytes. */
const MAX_SHOWN = 100;
/** The longest list that a message repeats. */
const MAX_LISTED = 16;

/**
 * Any value, for a message: short and without a fault of its own, whatever the value is. Of lists in lists and of objects only the kind is said: they may be
 * as deep as they like.
 */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(shorten(value));
    case 'function':
      return 'a function';
    case 'bigint':
      return `${value}n`;
    case 'object':
      return value === null ? 'null' : describeObject(value);
    default:
      return String(value);
  }
}

/** A name, for a message: without characters that a terminal would obey. */
export function shorten(name: string): string {
  const shown = name.length > MAX_SHOWN ? `${name.slice(0, MAX_SHOWN)}…` : name;
  return shown.replace(/\p{Cc}/gu, '\ufffd');
}

function describeObject(value: object): string {
  try {
    if (Array.isArray(value)) {
      return value.length <= MAX_LISTED && value.every((each) => typeof each !== 'object' || each === null)
        ? `[${Array.from(value, describe).join(', ')}]`
        : `an array of ${value.length}`;
    }
    const name: unknown = (value.constructor as { name?: unknown } | undefined)?.name;
    return typeof name === 'string' && name !== 'Object' && name !== '' ? shorten(name) : 'an object';
  } catch {
    return 'an object'; // a getter, or a proxy, has a fault
  }
}
