// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Prints what `jest --json` wrote, a line a suite, and the first line of each failure:
//
//   node scripts/test-summary.cjs results.json [--expect-device name]
//
// Fails if no test passed, or, of a named device, if none passed in a describe block of that name: a run that skipped everything is no success.
'use strict';
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');

const options = { 'expect-device': { type: 'string' } };
const { values, positionals } = parseArgs({ options, allowPositionals: true });
const device = values['expect-device'];
const results = JSON.parse(readFileSync(positionals[0], 'utf8'));
const SHOWN = 20;

const isOfDevice = ({ ancestorTitles }) => device === undefined || ancestorTitles.includes(device);
// With colours of Jest, and with what an assertion says over several lines.
const brief = (message) =>
  message
    .replace(/\x1b\[[\d;]*m/g, '')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('at '))
    .slice(0, 4)
    .join(' | ')
    .slice(0, 400);

let passedThere = 0;
for (const suite of results.testResults) {
  const count = (status) => suite.assertionResults.filter((each) => each.status === status).length;
  const failures = suite.assertionResults.filter((each) => each.status === 'failed');
  passedThere += suite.assertionResults.filter((each) => each.status === 'passed' && isOfDevice(each)).length;
  const name = path.relative(process.cwd(), suite.name);
  const seconds = ((suite.endTime - suite.startTime) / 1000).toFixed(1);
  const skipped = count('pending') + count('todo');
  if (failures.length + count('passed') === 0 && suite.status !== 'failed') continue;
  console.log(`${name}: ${count('passed')} passed, ${failures.length} failed, ${skipped} skipped, ${seconds} s`);
  // A suite that could not even be loaded.
  if (suite.status === 'failed' && failures.length === 0) console.log(`    ${brief(suite.message)}`);
  for (const { fullName, failureMessages } of failures.slice(0, SHOWN)) {
    console.log(`  - ${fullName}\n    ${brief(failureMessages[0] ?? '')}`);
  }
  if (failures.length > SHOWN) console.log(`  … and ${failures.length - SHOWN} more`);
}
const of = device === undefined ? '' : `, ${passedThere} of the passed ones on ${device}`;
console.log(
  `in all: ${results.numPassedTests} passed, ${results.numFailedTests} failed, ${results.numPendingTests} skipped${of}; ` +
    `${results.numFailedTestSuites} of ${results.numTotalTestSuites} suites failed`,
);
if (passedThere === 0) {
  console.log(`expected tests that pass${device === undefined ? '' : ` on ${device}`}, got none`);
  process.exitCode = 1;
}
