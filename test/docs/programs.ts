// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import * as ts from 'typescript';
import { packageRoot } from '../../lib/native.js';
import { DOCUMENTS, sectionsOf } from './markdown.js';

/** The `ts` blocks of one section, which are one program. */
export interface Program {
  document: string;
  heading: string;
  text: string;
  /** What stands below it in blocks without a language: what it prints, all of it. Null if there are none. */
  prints: string | null;
  /** The line of the document that each of its lines is. */
  lines: number[];
}

/** Every program of every document. */
export function programsOf(document: string): Program[] {
  return sectionsOf(document).flatMap(({ heading, blocks }) => {
    const code = blocks.filter(({ language }) => language === 'ts');
    if (code.length === 0) return [];
    const below = blocks.filter((block) => block.language === '' && blocks.indexOf(block) > blocks.indexOf(code[0]));
    return {
      document,
      heading,
      text: code.map(({ text }) => text).join(''),
      prints: below.length > 0 ? below.map(({ text }) => text).join('') : null,
      lines: code.flatMap(({ text, line }) => Array.from({ length: text.split('\n').length - 1 }, (_, i) => line + i)),
    };
  });
}

export const PROGRAMS: readonly Program[] = DOCUMENTS.flatMap(programsOf);

/** Prints as `console.log` does, and fails the program if that is not what the document says. */
const SHOWS = `import { format } from 'node:util';
export function shows(expected: string, ...values: unknown[]): void {
  const text = format(...values);
  console.log(text);
  if (text === expected) return;
  console.error(\`expected // \${expected}, got // \${text}\`);
  process.exitCode = 1;
}
`;

/** \`console.log(x); // 10\`: what stands behind it is what it prints. */
const SHOWN = /^( *)console\.log\((.*)\); \/\/ (.*)$/;

function checked({ document, text, lines }: Program): string {
  const body = text.split('\n').map((line, i) => {
    const [, indent, values, expected] = SHOWN.exec(line) ?? [];
    if (expected !== undefined) return `${indent}shows(${JSON.stringify(expected)}, ${values});`;
    if (/console\.log\(.*\); +\/\//.test(line))
      throw new Error(`${document}:${lines[i]}: expected console.log(…); // what it prints, got another form`);
    return line;
  });
  // In the first line, so that numbers of lines stay.
  return `import { shows } from './shows.mjs'; void shows; ${body.join('\n')}`;
}

/**
 * Compiles programs, against the package's own types and as strictly as the library itself, to modules in a folder, named by their number.
 *
 * @returns what the compiler says, by document and line; empty if all is well.
 */
export function compile(programs: readonly Program[], folder: string): string[] {
  const { config } = ts.readConfigFile(path.join(packageRoot(), 'tsconfig.json'), (file) => ts.sys.readFile(file));
  const { options } = ts.parseJsonConfigFileContent(
    { ...config, include: [], files: [] },
    { ...ts.sys, readDirectory: () => [] },
    packageRoot(),
  );
  const sources = new Map([[path.join(folder, 'shows.mts'), SHOWS]]);
  programs.forEach((program, i) => sources.set(path.join(folder, `${i}.mts`), checked(program)));
  const settings: ts.CompilerOptions = {
    ...options,
    rootDir: folder,
    outDir: folder,
    tsBuildInfoFile: undefined,
    incremental: false,
    declaration: false,
    sourceMap: false,
    inlineSources: false,
    noUnusedLocals: false, // a guide names what the reader goes on with
  };
  const host = ts.createCompilerHost(settings);
  const { readFile, fileExists } = host;
  const native = (file: string): string => path.normalize(file);
  host.readFile = (file) => sources.get(native(file)) ?? readFile(file);
  host.fileExists = (file) => sources.has(native(file)) || fileExists(file);
  const { getSourceFile } = host;
  host.getSourceFile = (file, ...rest) => {
    const source = sources.get(native(file));
    return source === undefined ? getSourceFile(file, ...rest) : ts.createSourceFile(file, source, rest[0], true);
  };
  const program = ts.createProgram([...sources.keys()], settings, host);
  const { diagnostics } = program.emit();
  return [...ts.getPreEmitDiagnostics(program), ...diagnostics].map(({ file, start = 0, messageText }) => {
    const message = ts.flattenDiagnosticMessageText(messageText, ' ');
    const number = Number(path.basename(file?.fileName ?? '', '.mts'));
    if (!file || Number.isNaN(number)) return message;
    const { document, lines } = programs[number];
    return `${document}:${lines[file.getLineAndCharacterOfPosition(start).line]}: ${message}`;
  });
}
