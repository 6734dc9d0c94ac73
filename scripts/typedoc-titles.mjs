// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// A plugin of typedoc: a guide is named by its first heading, not by its file.
import { Converter } from 'typedoc';

export function load(app) {
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_, document) => {
    const [, title] = /^\s*# (.*)/.exec(document.content[0].text) ?? [];
    if (title === undefined)
      throw new Error(`${document.name}: expected a document that begins with a heading, got none`);
    document.name = title;
  });
}
