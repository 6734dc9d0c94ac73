// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { capabilityText, versionText } from '../cuda-problem.js';
import type { DeviceReport } from '../device.js';
import { problem, PROBLEMS, type Problem, type ProblemKind } from '../problems.js';
import type { Facts, LibraryFacts, MachineFacts } from './facts.js';
import type { Check } from './self-check.js';

/** A problem, and what to do about it. */
export interface Finding {
  kind: ProblemKind;
  /** `addon`, `cuda`, or the id of a device. */
  subject: string;
  message: string;
  remedy: string;
  /** Of the section of GPU_SETUP.md. */
  heading: string;
  /** True where something that is there cannot be used. */
  broken: boolean;
}

/** A GPU that the driver lists. */
export interface GpuReport {
  id: string;
  name: string;
  /** `9.0`. */
  capability: string;
  bytes: number;
  /** Null if it can be used. */
  problem: string | null;
}

/** What `ternflash doctor --json` prints. */
export interface Report {
  /** Whether all that is present works. */
  ok: boolean;
  machine: MachineFacts;
  addon: {
    /** The one that was loaded, inside the package; null if none was. */
    file: string | null;
    attempts: { file: string | null; cuda: boolean; problem: string | null }[];
    isa: string | null;
    threads: number | null;
    /** How many processors' time the container grants; null if it sets no limit. */
    containerLimit: number | null;
  };
  cuda: {
    /** Whether the addon has CUDA inside. */
    inBuild: boolean;
    /** Of the runtime in the addon, `13.0`. */
    runtimeVersion: string | null;
    /** The newest runtime that the driver supports. */
    driverVersion: string | null;
    architectures: string[];
    problem: string | null;
    gpus: GpuReport[];
  };
  devices: DeviceReport[];
  /** Null if the library did not get that far. */
  defaultDevice: { id: string; why: string } | null;
  checks: Check[];
  problems: Finding[];
}

function finding(subject: string, { kind, message }: Problem, broken: boolean = PROBLEMS[kind].broken): Finding {
  const { remedy, heading } = PROBLEMS[kind];
  return { kind, subject, message, remedy, heading, broken };
}

/** Said of the addon itself already, with what to do. */
const SAID_OF_THE_ADDON: readonly ProblemKind[] = ['no-addon', 'cuda-build-broken'];

function findings({ library, checks, crash }: Facts): Finding[] {
  const found: Finding[] = [];
  if (crash) found.push(finding('addon', problem('addon-crash', crash)));
  if (library) {
    for (const { problem: why } of library.attempts) if (why) found.push(finding('addon', why));
    const { cudaProblem, gpus } = library;
    if (cudaProblem && !SAID_OF_THE_ADDON.includes(cudaProblem.kind)) found.push(finding('cuda', cudaProblem));
    gpus.forEach(({ problem: why }, ordinal) => {
      if (why) found.push(finding(`cuda:${ordinal}`, why));
    });
  }
  for (const { device, name, error } of checks)
    if (error !== null) found.push(finding(device, problem('check-failed', { check: name, device, error })));
  return found;
}

function defaultOf({ devices }: LibraryFacts): Report['defaultDevice'] {
  const id = devices.find(({ isDefault }) => isDefault)?.id;
  if (id === undefined) return null;
  if (id === 'reference') return { id, why: 'neither a GPU nor the native addon can be used' };
  return { id, why: id === 'cpu' ? 'no GPU can be used' : 'the first GPU that can be used' };
}

/** What the facts say, with what to do about each problem. */
export function assemble(facts: Facts): Report {
  const { machine, library, checks } = facts;
  const problems = findings(facts);
  const cuda = library?.cuda ?? null;
  return {
    ok: !problems.some(({ broken }) => broken),
    machine,
    addon: {
      file: library?.attempts.find((each) => each.problem === null)?.file ?? null,
      attempts: (library?.attempts ?? []).map((each) => ({ ...each, problem: each.problem?.message ?? null })),
      isa: library?.isa ?? null,
      threads: library?.threads ?? null,
      containerLimit: library?.containerLimit || null,
    },
    cuda: {
      inBuild: cuda !== null,
      runtimeVersion: cuda && versionText(cuda.runtimeVersion),
      driverVersion: cuda && cuda.driverVersion > 0 ? versionText(cuda.driverVersion) : null,
      architectures: cuda ? cuda.architectures.split(' ') : [],
      problem: library?.cudaProblem?.message ?? null,
      gpus: (library?.gpus ?? []).map(({ name, capability, bytes, problem: why }, ordinal) => ({
        id: `cuda:${ordinal}`,
        name,
        capability: capabilityText(capability),
        bytes,
        problem: why?.message ?? null,
      })),
    },
    devices: library?.devices ?? [],
    defaultDevice: library && defaultOf(library),
    checks,
    problems,
  };
}
