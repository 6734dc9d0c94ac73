// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import ts from 'typescript';
import * as library from '../../../lib/index.js';
import { packageRoot } from '../../../lib/native.js';

/**
 * Everything of the package that a program can call, by name: `add`, `new Linear`, `CausalLM.load` for what belongs to the class, `Tensor#data` for
 * what belongs to its objects, `Generator#state=` for what is assigned. The exports are those of the package as it is loaded; which members of their
 * classes are public, the sources say.
 */
export function publicCalls(): string[] {
  const root = packageRoot();
  const config = ts.readConfigFile(path.join(root, 'tsconfig.json'), (file) => ts.sys.readFile(file));
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root);
  const index = path.join(root, 'lib', 'index.ts');
  const program = ts.createProgram([index], { ...options, noEmit: true });
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(index);
  const module = source && checker.getSymbolAtLocation(source);
  if (!module) throw new Error(`expected the sources of the package in ${root}`);
  const symbols = new Map(checker.getExportsOfModule(module).map((each) => [each.name, each]));
  return Object.keys(library).flatMap((name) => {
    const exported = symbols.get(name);
    if (!exported) throw new Error(`expected an export of lib/index.ts for ${name}`);
    const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
    return symbol.flags & ts.SymbolFlags.Class ? callsOfClass(name, symbol) : [name];
  });
}

function callsOfClass(name: string, symbol: ts.Symbol): string[] {
  const calls: string[] = [];
  for (const member of symbol.members?.values() ?? []) {
    if (!isPublic(member)) continue;
    if (member.flags & ts.SymbolFlags.Constructor) calls.push(`new ${name}`);
    if (member.flags & ts.SymbolFlags.Method && !member.name.startsWith('__@')) calls.push(`${name}#${member.name}`);
    if (member.flags & ts.SymbolFlags.SetAccessor) calls.push(`${name}#${member.name}=`);
  }
  for (const member of symbol.exports?.values() ?? []) {
    if (member.flags & ts.SymbolFlags.Method && isPublic(member)) calls.push(`${name}.${member.name}`);
  }
  return calls;
}

/** Whether one of its declarations is for users. */
function isPublic(symbol: ts.Symbol): boolean {
  return (symbol.declarations ?? []).some((declaration) => {
    const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
    if (ts.getCombinedModifierFlags(declaration) & hidden) return false;
    return !ts.getJSDocTags(declaration).some((tag) => tag.tagName.text === 'internal');
  });
}
