// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { COMMANDS } from '../../lib/cli/commands.js';
import { nearest } from '../../lib/cli/nearest.js';
import { TEXT_OPTIONS } from '../../lib/cli/text-options.js';
import { OptionError } from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { resultOfChild } from '../core/child.js';
import { call } from './capture-context.js';

describe('a wrong call', () => {
  test.each([
    [[], 'ternflash: expected a command (chat, generate, train, convert, quantize, bench, build, doctor), got none\n'],
    [
      ['docter'],
      'ternflash: expected a command (chat, generate, train, convert, quantize, bench, build, doctor), got docter; did you mean doctor?\n',
    ],
    [
      ['toString'],
      'ternflash: expected a command (chat, generate, train, convert, quantize, bench, build, doctor), got toString\n',
    ],
    [
      ['--json'],
      'ternflash: expected a command (chat, generate, train, convert, quantize, bench, build, doctor), got --json\n',
    ],
    [['doctor', '--jsn'], "ternflash doctor: Unknown option '--jsn'; see ternflash doctor --help\n"],
    [['doctor', 'now'], "ternflash doctor: Unexpected argument 'now'"],
    [['doctor', '--json=1'], "ternflash doctor: Option '--json' does not take an argument; see"],
    [['generate'], 'ternflash generate: expected a model, got none; see ternflash generate --help\n'],
    [['generate', 'm', 'a', 'b'], 'ternflash generate: expected one prompt, in quotes, got also "b"; see'],
    [
      ['generate', 'm', 'a', '--top-p', '2'],
      'ternflash generate: expected a number from 0 to 1 for --top-p, got "2"; see',
    ],
    [
      ['generate', 'm', 'a', '--seed='],
      'ternflash generate: expected an integer from 0 to 9007199254740991 for --seed, got ""',
    ],
    [
      ['generate', 'm', 'a', '--temperature=-1'],
      'ternflash generate: expected a number of at least 0 for --temperature, got "-1"',
    ],
    [
      ['generate', 'm', 'a', '--max-tokens', '1.5'],
      'ternflash generate: expected an integer from 1 to 16777216 for --max-tok',
    ],
    [['generate', 'm', 'a', '--stop', ''], 'ternflash generate: expected a text for --stop, got an empty one; see'],
    [['chat'], 'ternflash chat: expected a model, got none; see ternflash chat --help\n'],
    [['chat', 'm', 'hello'], 'ternflash chat: expected a model only, got also "hello"; see'],
  ])('%j', async (args, message) => {
    const { code, out, errors } = await call(args);
    expect([code, out]).toEqual([2, '']);
    expect(errors.slice(0, message.length)).toBe(message);
  });

  test('without a prompt, where nobody sends one', async () => {
    const { code, errors } = await call(['generate', 'm'], { terminal: true });
    expect([code, errors]).toEqual([
      2,
      'ternflash generate: expected a prompt, got none; see ternflash generate --help\n',
    ]);
  });
});

test.each([
  ['docter', 'doctor'],
  ['gen', 'generate'],
  ['generat', 'generate'],
  ['cat', 'chat'],
  ['', null],
  ['serve', null],
])('the command nearest to %j is %j', (word, name) => expect(nearest(word, Object.keys(COMMANDS))).toBe(name));

describe('help', () => {
  test.each([[['--help']], [['-h']], [['doctor', '--help']], [['generate', '--help']], [['chat', '-h', 'x']]])(
    '%j begins with examples',
    async (args) => {
      const { code, out, errors } = await call(args);
      expect([code, errors]).toEqual([0, '']);
      expect(out).toMatch(/^Examples\n(.*\n)+\nUsage: ternflash /);
    },
  );

  test('names every option', async () => {
    const { out } = await call(['generate', '--help']);
    for (const name of [...Object.keys(TEXT_OPTIONS), 'raw', 'json']) expect(out).toContain(`--${name} `);
  });
});

test('--version', async () => {
  const file = path.join(packageRoot(), 'package.json');
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  expect(await call(['--version'])).toEqual({ code: 0, out: `${version}\n`, errors: '' });
});

describe('an error', () => {
  const failing = (error: unknown): Promise<{ code: number; out: string; errors: string }> =>
    call(['generate', 'm', 'x'], { load: () => Promise.reject(error as Error) });

  test('of the library is one line', async () => {
    const { code, out, errors } = await failing(new OptionError('op: expected x,\n  got y\n'));
    expect([code, out, errors]).toEqual([1, '', 'ternflash generate: op: expected x, got y\n']);
  });

  test('of the file system is one line', async () => {
    const error = Object.assign(new Error("EACCES: permission denied, open 'x'"), { syscall: 'open', path: 'x' });
    expect((await failing(error)).errors).toBe("ternflash generate: EACCES: permission denied, open 'x'\n");
  });

  test('of another kind is told with its stack, and asks for a report', async () => {
    const { code, errors } = await failing(new TypeError('x is undefined'));
    expect(code).toBe(1);
    expect(errors).toMatch(/^TypeError: x is undefined\n {4}at .*\n/);
    expect(errors).toMatch(/\n\nternflash generate ended by a fault of its own\. Please report it .*\n$/);
    expect((await failing('text')).errors).toMatch(/^text\n\nternflash/);
  });

  test('after Ctrl-C is none if that is what it says', async () => {
    const signal = AbortSignal.abort();
    expect(await call(['generate', 'm', 'x'], { signal, load: () => Promise.reject(signal.reason as Error) })).toEqual({
      code: 130,
      out: '',
      errors: '',
    });
    const load = () => Promise.reject(new OptionError('op: expected x, got y'));
    expect((await call(['generate', 'm', 'x'], { signal, load })).code).toBe(1);
  });
});

test('what does not need the library does not load it: doctor has to live where it cannot be loaded', async () => {
  const main = path.join(__dirname, '..', '..', 'lib', 'cli', 'main.js');
  const loaded = await resultOfChild(
    async (_library, file) => {
      const cli = process.getBuiltinModule('node:module').createRequire(file)(file) as {
        main: (args: string[], context: object) => Promise<number>;
      };
      const quiet = { write: () => undefined };
      await cli.main(['doctor', '--help'], { out: quiet, errors: quiet, signal: new AbortController().signal });
      return Object.keys(require.cache).filter((name) => /main\.js$|native\.js$|node-gyp-build|huggingface/.test(name));
    },
    [main],
    { load: false },
  );
  expect(loaded).toEqual([main]);
});
