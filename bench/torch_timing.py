# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
"""Times what PyTorch does on a GPU, as bench/gpu-timing.ts times Ternflash: many runs queued, the device's own events around them, and where
Python takes longer to queue a run than the device to do it, a head start, so that the device never waits in between."""

import time

import torch

MIN_MILLISECONDS = 20
MAX_RUNS = 1000
MAX_QUEUED_RUNS = 200
BUDGET_SECONDS = 0.18
MIN_SAMPLES = 5
CYCLES_PER_MILLISECOND = 2_000_000


def measure(run, runs, device, head_start_ms=0.0):
    """Milliseconds on the device, and milliseconds it took to queue, of all runs."""
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(runs):
            run()
        took = (time.perf_counter() - start) * 1000
        return took, took
    begin = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    if head_start_ms > 0:
        torch.cuda._sleep(int(head_start_ms * CYCLES_PER_MILLISECOND))
    begin.record()
    queued = time.perf_counter()
    for _ in range(runs):
        run()
    calls = (time.perf_counter() - queued) * 1000
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end), calls


def time_on_device(run, device):
    measure(run, 2, device)
    runs = 1
    total, calls = measure(run, runs, device)
    while total < 2 and runs < MAX_RUNS:
        runs *= 2
        total, calls = measure(run, runs, device)
    per_run, call_ms = total / runs, calls / runs
    head_start = device == "cuda" and call_ms > per_run / 3
    most = MAX_QUEUED_RUNS if head_start else MAX_RUNS
    count = max(1, min(most, int(MIN_MILLISECONDS / max(per_run, 1e-6)) + 1))
    samples = []
    begin = time.perf_counter()
    while len(samples) < MIN_SAMPLES or time.perf_counter() - begin < BUDGET_SECONDS:
        ahead = 1.5 * count * call_ms if head_start else 0.0
        samples.append(measure(run, count, device, ahead)[0] / count)
    samples.sort()

    def quantile(q):
        return samples[round((len(samples) - 1) * q)]

    times = {"ms": quantile(0.5), "low": quantile(0.25), "high": quantile(0.75), "fastest": samples[0], "samples": len(samples)}
    return {**times, "callMs": call_ms, "headStart": head_start}
