#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
#
# Runs the tests on a host with a GPU, from a bundle of scripts/gpu-bundle.cjs: beside its archives, which it then unpacks into a temporary
# folder, or inside an unpacked one.
#
#   sh gpu-test.sh [--only-cuda] [--no-gpu] [--unpack folder] [arguments of Jest, for example linear.test]
#
#   --only-cuda       only the tests of the cuda device, to save time on the GPU
#   --no-gpu          tries the bundle where there is no GPU: the tests of cuda are skipped, and nothing is said of CUDA
#   --unpack folder   unpacks there, and keeps it; runs nothing
#
# Writes gpu-results.json into $OUT, or here, and prints a summary. Exits as Jest does; with an error if no test ran on the GPU.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
only_cuda=0
gpu=1
folder=
while [ $# -gt 0 ]; do
  case $1 in
    --only-cuda) only_cuda=1 ;;
    --no-gpu) gpu=0 ;;
    --unpack)
      folder=${2:?gpu-test.sh: expected a folder after --unpack}
      shift
      ;;
    *) break ;;
  esac
  shift
done
if [ $only_cuda = 1 ] && [ $gpu = 0 ]; then
  echo 'gpu-test.sh: expected --only-cuda or --no-gpu, got both' >&2
  exit 2
fi

unpack() { # archive, folder: without an xz program, with Python
  if command -v xz >/dev/null; then
    tar -xJf "$1" -C "$2"
  else
    python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$1" "$2"
  fi
}

root=$here/..
if [ -f "$here/ternflash.tar.xz" ]; then
  root=$folder
  if [ -n "$folder" ]; then
    mkdir -p "$folder"
  else
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
  fi
  unpack "$here/node.tar.xz" "$root"
  unpack "$here/ternflash.tar.xz" "$root"
fi
root=$(cd "$root" && pwd)
[ -x "$root/bin/node" ] || {
  echo "gpu-test.sh: expected the archives of a bundle in $here, or bin/node of an unpacked one in $root" >&2
  exit 2
}
if [ -n "$folder" ]; then
  echo "unpacked into $root; the tests: sh $root/scripts/gpu-test.sh"
  exit 0
fi

results=$(cd "${OUT:-.}" && pwd)/gpu-results.json
node=$root/bin/node
cd "$root"
# Only the addon with CUDA, never the one without.
export TERNFLASH_CUDA=1
if [ $gpu = 1 ]; then
  nvidia-smi --query-gpu=index,name,driver_version,memory.total,compute_cap --format=csv
  # A GPU that the library cannot use would only have its tests skipped.
  "$node" -e '
    const { devices } = require("./dist");
    const { loadErrors } = require("./dist/native.js");
    const found = devices().filter(({ id }) => id.startsWith("cuda"));
    console.log(JSON.stringify(found));
    if (!found.some(({ available }) => available)) {
      console.error("gpu-test.sh: expected a GPU that the library can use, got none", loadErrors.join("; "));
      process.exit(1);
    }'
else
  echo 'no GPU is used: nothing that follows is about CUDA'
fi

# Left out, because this host has not what they read:
#   core/objects    the object files of the CPU kernels, and nm
#   core/package, core/workflows    the files that are packed, and the workflows
#   docs/           the documents, and the TypeScript compiler
excluded='/test/(core/(objects|package|workflows)|docs/.*)\.test\.js$'

# describeBackends of test/harness.ts puts the tests of a device into a block of its name, and -t looks in the full name of a test.
if [ $only_cuda = 1 ]; then set -- -t '(^| )cuda ' "$@"; fi

rm -f "$results"
status=0
# No option that takes several values may stand before the arguments.
"$node" node_modules/jest/bin/jest.js --testPathIgnorePatterns="$excluded" --watchman=false --ci --maxWorkers=4 \
  --json --outputFile="$results" "$@" >/dev/null || status=$?
if [ ! -f "$results" ]; then
  echo "gpu-test.sh: Jest ended with $status and left no results" >&2
  [ $status != 0 ] || status=1
  exit $status
fi
echo
summary=0
if [ $gpu = 1 ]; then
  "$node" scripts/test-summary.cjs "$results" --expect-device cuda || summary=$?
else
  "$node" scripts/test-summary.cjs "$results" || summary=$?
fi
echo "written: $results"
[ $status != 0 ] || status=$summary
exit $status
