// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Everything that can keep the addon or a GPU from being used: the one list of these messages. Each has an entry in GPU_SETUP.md, whose heading
 * is named here and which quotes the message as it stands here; test/core/problems.test.ts compares the two.
 */
interface Entry {
  /** What is said, with `{names}` for what differs. */
  message: string;
  /** What to do, in a line. */
  remedy: string;
  /** Of the section of GPU_SETUP.md that says more. */
  heading: string;
  /** True where something that is there cannot be used; false where it is merely absent or switched off. */
  broken: boolean;
}

const ENTRIES = {
  'native-off': {
    message: 'the native addon is switched off by TERNFLASH_NATIVE=0',
    remedy: 'unset TERNFLASH_NATIVE to use it',
    heading: 'Switched off by a variable',
    broken: false,
  },
  'cuda-off': {
    message: 'the addon with CUDA is switched off by TERNFLASH_CUDA=0',
    remedy: 'unset TERNFLASH_CUDA to use it',
    heading: 'Switched off by a variable',
    broken: false,
  },
  'bad-variable': {
    message: 'expected auto, 0 or 1 for TERNFLASH_CUDA, got {value}',
    remedy: 'unset TERNFLASH_CUDA, or set it to one of these',
    heading: 'Switched off by a variable',
    broken: true,
  },
  'addon-missing': {
    message: 'there is no addon for {platform} in {folders}',
    remedy: 'build it: npx ternflash build (in a clone: npm run build:native); needs CMake and a C++17 compiler',
    heading: 'No addon',
    broken: false,
  },
  'cuda-addon-missing': {
    message: 'there is no addon with CUDA for {platform} in {folders}',
    remedy: 'build it (npx ternflash build --cuda, in a clone npm run build:cuda), or unset TERNFLASH_CUDA=1',
    heading: 'No addon',
    broken: true,
  },
  'addon-foreign': {
    message: 'there is no addon for {platform} in {folders}, only for {others}',
    remedy: 'build it: npx ternflash build; if node_modules was copied from another system, reinstall it on this one',
    heading: 'An addon for another platform',
    broken: false,
  },
  'addon-broken': {
    message: '{file} does not load: {error}',
    remedy: 'build it on this machine: npx ternflash build, with --cuda the one with CUDA',
    heading: 'An addon that does not load',
    broken: true,
  },
  'addon-crash': {
    message: 'the process ended by {signal} while {stage}',
    remedy: 'build the addon again; if it ends again, TERNFLASH_CUDA=0 and TERNFLASH_ISA=base tell which part it is',
    heading: 'An addon that ends the process',
    broken: true,
  },
  'no-addon': {
    message: 'no native addon ({errors})',
    remedy: 'build it: npx ternflash build (in a clone: npm run build:native)',
    heading: 'No addon',
    broken: false,
  },
  'no-cuda-build': {
    message: 'this build of ternflash has no CUDA kernels',
    remedy: 'build the addon with CUDA: npx ternflash build --cuda (in a clone: npm run build:cuda)',
    heading: 'A build without CUDA',
    broken: false,
  },
  'no-cuda-build-for-gpu': {
    message: 'this build of ternflash has no CUDA kernels, and this machine has an NVIDIA GPU',
    remedy: 'build the addon with CUDA (npx ternflash build --cuda), or set TERNFLASH_CUDA=0 to do without',
    heading: 'A build without CUDA',
    broken: true,
  },
  'cuda-build-broken': {
    message: 'the addon with CUDA cannot be used ({errors}), and the other has no CUDA kernels',
    remedy: 'build the addon with CUDA again: npx ternflash build --cuda',
    heading: 'An addon that does not load',
    broken: true,
  },
  'no-driver': {
    message: 'no NVIDIA driver is installed',
    remedy: 'for a GPU: install an NVIDIA driver, R580 or later; without a GPU there is nothing to do',
    heading: 'No driver',
    broken: false,
  },
  'no-driver-library': {
    message: 'the NVIDIA kernel driver {version} runs here, but its library libcuda.so.1 was not found',
    remedy: 'in a container: start it with --gpus all; else install the libcuda package of the same version',
    heading: 'A container without the GPU',
    broken: true,
  },
  'no-driver-wsl': {
    message: 'no NVIDIA driver is visible in WSL2',
    remedy: 'for a GPU: install the NVIDIA driver for Windows, R580 or later, on Windows only, then run wsl --shutdown',
    heading: 'WSL2',
    broken: false,
  },
  'old-driver': {
    message: 'the NVIDIA driver supports CUDA {driver}, this build needs a driver that supports CUDA {runtime}',
    remedy: 'install an NVIDIA driver of R580 or later',
    heading: 'A driver that is too old',
    broken: true,
  },
  'no-gpu': {
    message: 'the NVIDIA driver found no GPU',
    remedy: 'look whether nvidia-smi lists one; without a GPU there is nothing to do',
    heading: 'No GPU',
    broken: false,
  },
  'gpu-hidden': {
    message: 'the NVIDIA driver found no GPU among those of CUDA_VISIBLE_DEVICES={value}',
    remedy: 'unset CUDA_VISIBLE_DEVICES, or name a GPU of nvidia-smi -L there',
    heading: 'CUDA_VISIBLE_DEVICES',
    broken: false,
  },
  'gpu-not-seen': {
    message: 'the NVIDIA kernel driver has {count} GPUs, of which this process can use none',
    remedy: 'in a container: start it with --gpus all; with MIG on: create an instance and name it; see nvidia-smi -L',
    heading: 'A GPU that this process may not use',
    broken: true,
  },
  'gpu-not-permitted': {
    message: 'this process may not use the GPU: {text} ({name})',
    remedy: 'let it open /dev/nvidia* (in a container: --gpus all; under Slurm: ask for a GPU)',
    heading: 'A GPU that this process may not use',
    broken: true,
  },
  'driver-mismatch': {
    message: 'the parts of the NVIDIA driver do not fit each other: {text} ({name})',
    remedy:
      'reboot after an update of the driver; keep libcuda.so.1 of a toolkit or of another version off LD_LIBRARY_PATH',
    heading: 'Parts of the driver that do not fit',
    broken: true,
  },
  'driver-not-ready': {
    message: 'the NVIDIA driver is not ready: {text} ({name})',
    remedy: 'on hosts with NVSwitch start nvidia-fabricmanager of the version of the driver; else wait and try again',
    heading: 'A driver that is not ready',
    broken: true,
  },
  'driver-error': {
    message: 'the NVIDIA driver answered: {text} ({name})',
    remedy: 'look whether nvidia-smi works, and what dmesg says of NVRM or Xid',
    heading: 'Another answer of the driver',
    broken: true,
  },
  'no-such-gpu': {
    message: 'there is no GPU of that number, their count is {count}',
    remedy: 'name one that devices() lists; cuda:0 is the first',
    heading: 'No GPU of that number',
    broken: true,
  },
  'gpu-too-old': {
    message: 'compute capability {capability}, this build needs 8.0 or later',
    remedy: 'use a GPU of the Ampere generation or later; set TERNFLASH_CUDA=0 to do without',
    heading: 'A GPU that is too old',
    broken: true,
  },
  'no-code-for-gpu': {
    message: 'compute capability {capability}, this build has no code for it, only for {architectures}',
    remedy: 'build with this architecture: TERNFLASH_CUDA_ARCHITECTURES, or unset for all, and npm run build:cuda',
    heading: 'A build without code for this GPU',
    broken: true,
  },
  'ptx-too-new': {
    message:
      'the NVIDIA driver cannot compile the PTX of this build for compute capability {capability}: {text} ({name})',
    remedy: 'install a newer NVIDIA driver, or build with the architecture of the GPU itself',
    heading: 'A build without code for this GPU',
    broken: true,
  },
  'gpu-prohibited': {
    message: 'the GPU is in compute mode Prohibited',
    remedy: 'sudo nvidia-smi -i N -c DEFAULT',
    heading: 'A GPU that is busy',
    broken: true,
  },
  'gpu-busy': {
    message: 'the GPU is busy or unavailable: {text} ({name})',
    remedy: 'end the process that holds it (nvidia-smi), or sudo nvidia-smi -i N -c DEFAULT if its mode is exclusive',
    heading: 'A GPU that is busy',
    broken: true,
  },
  'gpu-full': {
    message: 'the GPU has too little free memory to be opened: {text} ({name})',
    remedy: 'end other processes on it (nvidia-smi), or choose another GPU with CUDA_VISIBLE_DEVICES',
    heading: 'A GPU without free memory',
    broken: true,
  },
  'gpu-damaged': {
    message: 'the GPU reports damage: {text} ({name})',
    remedy: 'reset it or reboot; see nvidia-smi -q and Xid in dmesg',
    heading: 'A GPU that reports damage',
    broken: true,
  },
  'check-failed': {
    message: '{check} on {device}: {error}',
    remedy: 'do not trust results of this device; build the addon again, update the driver, and report it if it stays',
    heading: 'A check that fails',
    broken: true,
  },
} as const satisfies Record<string, Entry>;

/** Stable name of a kind of problem. */
export type ProblemKind = keyof typeof ENTRIES;

/** The list, by kind. */
export const PROBLEMS: Readonly<Record<ProblemKind, Entry>> = ENTRIES;

type NamesIn<Text extends string> = Text extends `${string}{${infer Name}}${infer Rest}` ? Name | NamesIn<Rest> : never;

/** What the message of a kind has to be given. */
type Values<Kind extends ProblemKind> = Record<NamesIn<(typeof ENTRIES)[Kind]['message']>, string | number>;

/** One that was met. */
export interface Problem {
  kind: ProblemKind;
  message: string;
}

/** The problem of that kind, with the values of its message. */
export function problem<Kind extends ProblemKind>(kind: Kind, values: Values<Kind>): Problem {
  const given: Record<string, string | number> = values;
  // In one pass: a value may itself hold braces.
  return { kind, message: ENTRIES[kind].message.replace(/\{(\w+)\}/g, (_, name: string) => String(given[name])) };
}
