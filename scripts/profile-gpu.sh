#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
#
# Profiles the kernels of a bench case on a GPU, in an unpacked bundle of scripts/gpu-bundle.cjs or in a checkout:
#
#   sh scripts/profile-gpu.sh flash-attention|ternary|memory|all [arguments of ncu]
#   sh scripts/profile-gpu.sh name [arguments of ncu]      a name picks the cases that contain it
#
# Writes gpu-profile.ncu-rep and, as text, gpu-profile.txt into $OUT, or here. Where ncu is missing or may not read the counters, the bench
# times the cases by events of the GPU; then it exits as the bench does.
set -eu

name=${1:?profile-gpu.sh: expected flash-attention, ternary, memory, all or the name of a bench case}
shift
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(cd "${OUT:-.}" && pwd)
node=$root/bin/node
[ -x "$node" ] || node=$(command -v node)
export TERNFLASH_CUDA=1

report=$out/gpu-profile
rm -f "$report.ncu-rep" "$report.txt"
if ! command -v ncu >/dev/null; then
  echo 'profile-gpu.sh: no ncu; timed by events' >&2
elif ncu --set full --force-overwrite --export "$report" "$@" "$node" "$root/.out/bench/run.js" "$name" --device cuda --once &&
  [ -f "$report.ncu-rep" ]; then
  ncu --import "$report.ncu-rep" --page details >"$report.txt"
  # Of each kernel: its name, then how long it took and what bounded it.
  grep -E '^  [^ ].*\(.*\)x\(|Duration|Compute \(SM\) Throughput|DRAM Throughput|Registers Per Thread|Achieved Occupancy' "$report.txt" || true
  echo "written: $report.ncu-rep, $report.txt"
  exit 0
else
  echo 'profile-gpu.sh: ncu gave no profile; timed by events' >&2
fi
exec "$node" "$root/.out/bench/run.js" "$name" --device cuda
