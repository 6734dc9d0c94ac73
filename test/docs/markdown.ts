// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readdirSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';

/** A fenced block. */
export interface Block {
  language: string;
  text: string;
  /** Of its first line in the document, from 1. */
  line: number;
}

/** What stands under one heading, down to the next of any level. */
export interface Section {
  /** The document's path in the repository. */
  document: string;
  heading: string;
  blocks: Block[];
}

/** All documents, by their paths in the repository. */
export const DOCUMENTS: readonly string[] = [
  ...readdirSync(packageRoot()).filter((name) => name.endsWith('.md')),
  ...readdirSync(path.join(packageRoot(), 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
].sort();

export const readDocument = (document: string): string => readFileSync(path.join(packageRoot(), document), 'utf8');

/** The sections of a document, the one before its first heading included. */
export function sectionsOf(document: string): Section[] {
  const sections: Section[] = [{ document, heading: '', blocks: [] }];
  let block: Block | null = null;
  for (const [index, line] of readDocument(document).split('\n').entries()) {
    const fence = /^ *```(.*)$/.exec(line);
    if (block && fence) {
      block = null;
    } else if (block) {
      block.text += `${line}\n`;
    } else if (fence) {
      block = { language: fence[1], text: '', line: index + 2 };
      sections[sections.length - 1].blocks.push(block);
    } else if (/^#{1,6} /.test(line)) {
      sections.push({ document, heading: line.replace(/^#+ /, ''), blocks: [] });
    }
  }
  if (block) throw new Error(`${document}: expected an end of the block at line ${block.line}, got none`);
  return sections;
}

/** The fragments that headings of a document can be linked to by, as GitHub makes them. */
export function anchorsOf(document: string): Set<string> {
  const anchors = new Set<string>();
  for (const { heading } of sectionsOf(document)) {
    const plain = heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_ -]/gu, '')
      .replaceAll(' ', '-');
    let anchor = plain;
    for (let count = 1; anchors.has(anchor); count++) anchor = `${plain}-${count}`;
    anchors.add(anchor);
  }
  return anchors;
}
