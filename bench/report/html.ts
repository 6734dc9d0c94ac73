// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** HTML as a value: what {@link html} has made. Anything else that is put into HTML is text. */
export class Html {
  constructor(readonly source: string) {}
}

type Part = Html | string | number | null | false | readonly Part[];

const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

const escaped = (text: string): string => text.replace(/[&<>"']/g, (character) => ESCAPES[character]);

function sourceOf(part: Part): string {
  if (part instanceof Html) return part.source;
  if (part === null || part === false) return '';
  if (typeof part === 'object') return part.map(sourceOf).join('');
  return escaped(String(part));
}

/** A template whose parts are text, escaped for elements and for attributes in quotes, unless they are themselves made by `html`. Null and false are nothing. */
export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(strings.map((each, i) => each + (i < parts.length ? sourceOf(parts[i]) : '')).join(''));
}

/** JSON that is also the content of a script element: no `<` can end it or begin a comment. */
export const jsonForScript = (value: unknown): Html => new Html(JSON.stringify(value).replaceAll('<', '\\u003c'));
