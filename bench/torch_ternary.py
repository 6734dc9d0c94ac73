# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
"""Times ternary products beside PyTorch's, in one process: called by `npm run bench -- ternary --peer torch`.

Int8 activations, bfloat16 results, one scale for the weight. Beside it torch.matmul of bfloat16, torch._int_mm of int8 (more than 16 tokens) and
torch._scaled_mm of fp8. Weights take turns from more memory than the L2 cache holds, all calls are in CUDA graphs, and all contenders take turns;
medians of 9. Of fused kernels the rounding of activations is timed, beside a copy of the same bytes. Every product is first compared with the exact one.

usage: torch_ternary.py LIBRARY [decode] [prefill] [rounding]
"""
import ctypes
import json
import math
import os
import statistics
import sys

import torch

FIELDS = [(name, ctypes.c_void_p) for name in ("x", "codes", "scales", "packed", "weight_scale", "bias", "out", "workspace")]
FIELDS += [("workspace_bytes", ctypes.c_int64), ("stream", ctypes.c_void_p)]
FIELDS += [(name, ctypes.c_int64) for name in ("dtype", "m", "n", "k", "row_scales", "follows")]
ROTATED_BYTES = 160_000_000
DECODE = [(n, k) for n, k in ((28672, 8192), (14336, 4096), (4096, 4096), (2560, 2560), (6912, 2560), (2560, 6912))]
PREFILL = [(m, n, k) for n, k in ((4096, 4096), (14336, 4096), (6912, 2560), (2560, 6912)) for m in (16, 64, 128, 256, 512)]
PREFILL += [(2048, 4096, 4096), (8192, 4096, 4096), (8192, 14336, 4096), (16384, 8192, 8192)]


class Call(ctypes.Structure):
    _fields_ = FIELDS


class Ternflash:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.workspace = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")

    def describe(self, x, codes, scales, packed, weight_scale, out, follows):
        call = Call()
        for name, tensor in (("x", x), ("codes", codes), ("scales", scales), ("packed", packed), ("weight_scale", weight_scale), ("out", out)):
            setattr(call, name, tensor.data_ptr())
        call.workspace = self.workspace.data_ptr()
        call.workspace_bytes = self.workspace.numel()
        call.stream = torch.cuda.current_stream().cuda_stream
        call.dtype = 1
        call.m, call.k = x.shape
        call.n = out.shape[1]
        call.row_scales = weight_scale.numel() > 1
        call.follows = follows
        return call

    def round(self, *arguments):
        if self.library.ternflash_quantize_activations(ctypes.byref(self.describe(*arguments))) != 0:
            raise RuntimeError("ternflash_quantize_activations failed")

    def multiply(self, *arguments):
        if self.library.ternflash_ternary_matmul(ctypes.byref(self.describe(*arguments))) != 0:
            raise RuntimeError("ternflash_ternary_matmul failed")


class Graph:
    """`functions`, one after the other, about `count` calls in all."""

    def __init__(self, functions, count):
        for function in functions:
            function()
        torch.cuda.synchronize()
        rounds = max(1, count // len(functions))
        self.calls = rounds * len(functions)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(rounds):
                for function in functions:
                    function()

    def replay(self, times=1):
        """Microseconds a call."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            self.graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1000 / (times * self.calls)


def in_turns(graphs):
    times = {name: [] for name in graphs}
    once = {name: graph.replay() * graph.calls for name, graph in graphs.items()}
    for _ in range(9):
        for name, graph in graphs.items():
            times[name].append(graph.replay(max(1, round(4000 / once[name]))))
    return {name: statistics.median(each) for name, each in times.items()}


def pack(trits):
    n, k = trits.shape
    codes = (trits.to(torch.int32) + 1).view(n, k // 4, 4)
    return (codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6).to(torch.uint8).contiguous()


def copies(byte_count):
    return max(2, min(64, int(ROTATED_BYTES / byte_count)))


def product(ternflash, m, n, k):
    torch.manual_seed(1)
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    trits = torch.randint(-1, 2, (n, k), device="cuda", dtype=torch.int8)
    weight_scale = torch.rand(1, device="cuda") + 0.1
    codes = torch.full((m, k), 77, device="cuda", dtype=torch.int8)
    scales = torch.full((m,), math.nan, device="cuda")
    out = torch.full((m, n), math.nan, device="cuda", dtype=torch.bfloat16)
    packed = [pack(trits)]
    packed += [packed[0].clone() for _ in range(copies(n * k / 4) - 1)]
    ternflash.round(x, codes, scales, packed[0], weight_scale, out, 0)
    ternflash.multiply(x, codes, scales, packed[0], weight_scale, out, 0)
    some = torch.arange(0, m, max(1, m // 64), device="cuda")
    scale = torch.full((some.numel(),), 127.0, device="cuda") / x[some].float().abs().amax(1).clamp_min(1e-5)
    exact = (x[some].float() * scale[:, None]).round().double() @ trits.double().t()
    if not torch.equal(out[some], (exact.float() * (weight_scale / scale)[:, None]).to(out.dtype)):
        raise RuntimeError(f"{m} x {n} x {k}: not the exact product")

    def each(weights, call):
        return [lambda w=w: call(w) for w in weights]

    functions = {"ours": each(packed, lambda w: ternflash.multiply(x, codes, scales, w, weight_scale, out, 1))}
    functions["bfloat16"] = each(
        [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies(n * k * 2))], lambda w: torch.matmul(x, w.t())
    )
    if m > 16:
        x8 = torch.randint(-127, 127, (m, k), device="cuda", dtype=torch.int8)
        functions["int8"] = each(
            [torch.randint(-127, 127, (n, k), device="cuda", dtype=torch.int8) for _ in range(copies(n * k))], lambda w: torch._int_mm(x8, w.t())
        )
    if m >= 16:
        one = torch.ones((), device="cuda")
        xf = x.to(torch.float8_e4m3fn)
        functions["fp8"] = each(
            [torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(copies(n * k))],
            lambda w: torch._scaled_mm(xf, w.t(), one, one, out_dtype=torch.bfloat16),
        )
    return in_turns({name: Graph(each, 100 if m <= 16 else 24) for name, each in functions.items()})


def rounding(ternflash, m, k):
    """GB/s of what is read and written, and of a copy of as many bytes."""
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    codes = torch.zeros(m, k, device="cuda", dtype=torch.int8)
    scales = torch.zeros(m, device="cuda")
    out = torch.zeros(m, 1, device="cuda", dtype=torch.bfloat16)
    source = torch.zeros(m * k * 3 // 2, device="cuda", dtype=torch.int8)
    target = torch.zeros_like(source)
    moved = 3 * m * k + 4 * m
    times = in_turns(
        {
            "ours": Graph([lambda: ternflash.round(x, codes, scales, codes, scales, out, 0)], 8),
            "copy": Graph([lambda: target.copy_(source)], 8),
        }
    )
    return {"ours": moved / times["ours"] / 1000, "copy": 2 * source.numel() / times["copy"] / 1000}


def main():
    library, *words = sys.argv[1:]
    kinds = ["decode", "prefill", "rounding"]
    unknown = [word for word in words if word not in kinds]
    if unknown:
        sys.exit(f"torch_ternary.py: expected of {', '.join(kinds)}, got {' '.join(unknown)}")
    kinds = words or kinds
    ternflash = Ternflash(library)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; µs a call, weights from memory", flush=True)
    results = []
    ratios = {"fp8": [], "bfloat16": []}
    for m, n, k in [(m, n, k) for m in (1, 8) for n, k in DECODE] * ("decode" in kinds) + PREFILL * ("prefill" in kinds):
        times = product(ternflash, m, n, k)
        results.append({"tokens": m, "n": n, "k": k, "microseconds": times})
        best = min(each for name, each in times.items() if name != "ours")
        rate = f"{n * k / 4 / times['ours'] / 1e6:4.2f} TB/s" if m < 16 else f"{2 * m * n * k / times['ours'] / 1e6:4.0f} TOPS"
        text = ", ".join(f"{name} {each:.2f}" for name, each in times.items())
        print(f"{m:5} tokens, {n:5} x {k:4} | {text} | {rate}, {best / times['ours']:.2f} x the best of PyTorch", flush=True)
        if m >= 2048:
            for name, each in ratios.items():
                each.append(times[name] / times["ours"])
    if ratios["fp8"]:
        means = {name: math.exp(statistics.fmean(map(math.log, each))) for name, each in ratios.items()}
        print(f"from 2048 tokens on, geometric mean: {means['fp8']:.2f} x fp8, {means['bfloat16']:.2f} x bfloat16", flush=True)
    if "rounding" in kinds:
        for m, k in ((16384, 4096), (8192, 14336), (32768, 2560)):
            rates = rounding(ternflash, m, k)
            results.append({"rounded": [m, k], "gigabytes_per_second": rates})
            print(f"rounding {m} x {k}: {rates['ours']:.0f} GB/s, {rates['ours'] / rates['copy']:.2f} x a copy", flush=True)
    with open(os.path.join(os.environ.get("OUT", "."), "torch-ternary.json"), "w") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
