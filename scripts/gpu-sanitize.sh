#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
#
# Runs every op on small tensors (bench/smoke.ts) under the tools of NVIDIA's compute-sanitizer, side by side, in an unpacked bundle of
# scripts/gpu-bundle.cjs or in a checkout whose bench is compiled:
#
#   sh scripts/gpu-sanitize.sh [--seconds N] [--tools 'memcheck initcheck synccheck racecheck'] [name ...]     a name picks ops
#
# After N seconds (default 90) a tool begins no more calls. Prints a line a process (racecheck is shared by four); whole logs are
# gpu-sanitize-<tool>-<part>.log in $OUT, or here.
# Exits with 1 if a tool found something or did not end, with 2 if there is no compute-sanitizer.
set -eu

seconds=90
tools='memcheck initcheck synccheck racecheck'
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=${2:?gpu-sanitize.sh: expected a number after --seconds}; shift 2 ;;
    --tools) tools=${2:?gpu-sanitize.sh: expected names after --tools}; shift 2 ;;
    *) break ;;
  esac
done
device=${TERNFLASH_SANITIZE_DEVICE:-cuda}
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(cd "${OUT:-.}" && pwd)
node=$root/bin/node
[ -x "$node" ] || node=$(command -v node)
sanitizer=$(command -v compute-sanitizer || true)
for place in /usr/local/cuda/bin/compute-sanitizer /usr/local/cuda/compute-sanitizer/compute-sanitizer; do
  if [ -z "$sanitizer" ] && [ -x "$place" ]; then sanitizer=$place; fi
done
if [ -z "$sanitizer" ]; then
  echo 'gpu-sanitize.sh: expected compute-sanitizer, of the CUDA toolkit, in PATH or /usr/local/cuda, got none: nothing was checked' >&2
  exit 2
fi
[ "$device" = cpu ] || export TERNFLASH_CUDA=1

check() { # tool, part, names: leaves its exit status in a file
  tool=$1
  part=$2
  file=$out/gpu-sanitize-$tool-${part%/*}
  shift 2
  # With guard bands memcheck also sees what lies beyond a tensor inside a larger block; without them initcheck sees what nobody wrote.
  poison=1
  [ "$tool" != initcheck ] || poison=0
  status=0
  TERNFLASH_POISON=$poison timeout $((seconds + 120)) "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 77 \
    --print-limit 20 --log-file "$file.log" \
    "$node" "$root/.out/bench/smoke.js" --device "$device" --part "$part" --seconds "$seconds" "$@" >"$file.out" 2>&1 || status=$?
  echo $status >"$file.status"
}

parts() { # of a tool: racecheck is much slower than the others
  if [ "$1" = racecheck ]; then echo '1/4 2/4 3/4 4/4'; else echo 1/1; fi
}

for tool in $tools; do
  rm -f "$out/gpu-sanitize-$tool"-*
  for part in $(parts "$tool"); do
    check "$tool" "$part" "$@" &
  done
done
wait

failed=0
for tool in $tools; do
  for part in $(parts "$tool"); do
    file=$out/gpu-sanitize-$tool-${part%/*}
    status=$(cat "$file.status")
    # The summary of the process that computed: the last one, if several wrote theirs.
    summary=$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$file.log" 2>/dev/null | tail -n 1 | sed 's/^=* *//')
    calls=$(tail -n 1 "$file.out")
    case $status in
      0) verdict=clean ;;
      77) verdict='FOUND SOMETHING' ;;
      124) verdict='NOT ENDED IN TIME' ;;
      *) verdict="FAILED ($status)" ;;
    esac
    [ "$status" = 0 ] || failed=1
    echo "$tool $part: $verdict; ${summary:-no summary}; $calls"
    if [ "$status" != 0 ]; then
      grep -vE '^=+ *$' "$file.log" 2>/dev/null | head -n 12 | sed 's/^/    /' || true
      head -n 3 "$file.out" | sed 's/^/    /'
    fi
    rm -f "$file.status" "$file.out"
  done
done
exit $failed
