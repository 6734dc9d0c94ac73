# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
"""Times attention forward beside PyTorch's cuDNN kernel, both in this process: called by `npm run bench -- flash-attention --peer torch`.

bfloat16, 16,384 tokens, heads x head dim = 2048, normally distributed numbers; each call in a CUDA graph. Two protocols:

interleaved  both take turns, 18 ms each, and share one clock; the median of 11 turns
alone        each by itself for 0.25 s, so that its own power sets its clock, and then timed for 0.25 s; the better of two readings

usage: torch_attention.py LIBRARY [interleaved] [alone] [packed] [D128 causal S512 ...]

Without a word of a kind, all of that kind; packed: beside each case the same one as packed sequences of one length.
"""
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

TOKENS = 16384
HIDDEN = 2048
FIELDS = [(name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "lse", "sinks", "cu_seqlens", "workspace")]
FIELDS += [("workspace_bytes", ctypes.c_int64), ("stream", ctypes.c_void_p)]
FIELDS += [
    (name, ctypes.c_int64)
    for name in ("dtype", "batch", "queries", "keys", "heads", "key_heads", "head_dim", "total_queries", "total_keys", "window_left", "window_right")
]
FIELDS += [("scale", ctypes.c_double), ("softcap", ctypes.c_double)]


class Call(ctypes.Structure):
    _fields_ = FIELDS


class Ternflash:
    def __init__(self, path):
        os.environ.setdefault("TERNFLASH_ATTENTION_KERNEL", "hopper")  # and no other without being noticed
        self.function = ctypes.CDLL(path).ternflash_attention
        self.workspace = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda")

    def attention(self, q, k, v, out, lse, window=(-1, -1), scale=None, softcap=0.0, sinks=None, cu_seqlens=None, longest=None):
        """q, k, v, out: [batch, rows, heads, head_dim], or [total, heads, head_dim] with cu_seqlens [2, batch + 1] and longest = (queries, keys)."""
        call = Call()
        for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out), ("lse", lse), ("sinks", sinks), ("cu_seqlens", cu_seqlens)):
            setattr(call, name, tensor.data_ptr() if tensor is not None else None)
        call.workspace = self.workspace.data_ptr()
        call.workspace_bytes = self.workspace.numel()
        call.stream = torch.cuda.current_stream().cuda_stream
        call.dtype = 0 if q.dtype == torch.float16 else 1
        if cu_seqlens is None:
            call.batch, call.queries, call.keys = q.shape[0], q.shape[1], k.shape[1]
        else:
            call.batch, (call.queries, call.keys) = cu_seqlens.shape[1] - 1, longest
            call.total_queries, call.total_keys = q.shape[0], k.shape[0]
        call.heads, call.key_heads, call.head_dim = q.shape[-2], k.shape[-2], q.shape[-1]
        call.window_left, call.window_right = window
        call.scale = scale if scale is not None else q.shape[-1] ** -0.5
        call.softcap = softcap
        if self.function(ctypes.byref(call)) != 0:
            raise RuntimeError("ternflash_attention failed")


def clock():
    query = "clocks.sm,power.draw"
    text = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", "0"], capture_output=True, text=True)
    return [float(each) for each in text.stdout.split(",")] if text.returncode == 0 else [math.nan, math.nan]


class Graph:
    """Replays a function as often as takes 18 ms."""

    def __init__(self, function, expected_ms):
        self.count = max(2, round(18 / expected_ms))
        for _ in range(2):
            function()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(self.count):
                function()
        self.replay()

    def replay(self, times=1):
        """Milliseconds a call."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            self.graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / (times * self.count)


def interleaved(graphs):
    times = {name: [] for name in graphs}
    for _ in range(12):
        for name, graph in graphs.items():
            times[name].append(graph.replay())
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def alone(graphs):
    best = {name: math.inf for name in graphs}
    for _ in range(2):
        for name, graph in graphs.items():
            times = max(2, round(250 / (graph.replay() * graph.count)))
            graph.replay(times)
            best[name] = min(best[name], graph.replay(times))
    return best


def cases(words):
    for head_dim in (64, 128, 256):
        for causal in (False, True):
            for length in (512, 1024, 2048, 4096, 8192, 16384):
                name = f"D{head_dim} {'causal' if causal else 'full'} S{length}"
                kinds = [[w for w in words if w[0] == "D"], [w for w in words if w in ("full", "causal")], [w for w in words if w[0] == "S"]]
                if all(not kind or any(w in name.split() for w in kind) for kind in kinds):
                    yield name, head_dim, causal, length


def main():
    library, *words = sys.argv[1:]
    protocols = [word for word in ("interleaved", "alone") if word in words] or ["interleaved", "alone"]
    packed = "packed" in words
    ternflash = Ternflash(library)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; TFLOP/s, ratio: ours to cuDNN's", flush=True)
    results = []
    if not any(cases(words)):
        sys.exit(f"torch_attention.py: expected words that some case has, got {' '.join(words)}")
    for name, head_dim, causal, length in cases(words):
        batch, heads = TOKENS // length, HIDDEN // head_dim
        torch.manual_seed(1)
        q, k, v = (torch.randn(batch, length, heads, head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        out = torch.full_like(q, math.nan)
        lse = torch.full((batch, heads, length), math.nan, device="cuda")
        window = (-1, 0 if causal else -1)
        starts = torch.arange(batch + 1, device="cuda", dtype=torch.int32).mul(length).repeat(2, 1).contiguous()

        def cudnn():
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal)

        def ours():
            ternflash.attention(q, k, v, out, lse, window)

        def ours_packed():
            flat = [each.view(-1, heads, head_dim) for each in (q, k, v, out)]
            ternflash.attention(*flat, lse, window, cu_seqlens=starts, longest=(length, length))

        ours()
        expected = cudnn().transpose(1, 2)
        error = (out.float() - expected.float()).abs().max().item()
        if not error < 0.05:
            raise RuntimeError(f"{name}: the results differ by {error}")
        flops = 4 * batch * heads * length * length * head_dim * (0.5 if causal else 1)
        functions = {"cudnn": cudnn, "ours": ours, **({"packed": ours_packed} if packed else {})}
        graphs = {each: Graph(function, flops / 500e9) for each, function in functions.items()}
        row = {"case": name}
        text = f"{name:20}"
        for protocol in protocols:
            times = (interleaved if protocol == "interleaved" else alone)(graphs)
            rates = {each: flops / ms / 1e9 for each, ms in times.items()}
            row[protocol] = {**rates, "ratio": rates["ours"] / rates["cudnn"], "clock_power": clock()}
            text += f" | {protocol}: cuDNN {rates['cudnn']:5.0f}, ours {rates['ours']:5.0f}, ratio {row[protocol]['ratio']:.3f}"
            if packed:
                text += f", packed {rates['packed'] / rates['ours']:.3f} of ours"
        print(text, flush=True)
        results.append(row)
    for protocol in protocols:
        ratios = [row[protocol]["ratio"] for row in results]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"{protocol}: geometric mean {mean:.3f}, least {min(ratios):.3f}")
    with open(os.path.join(os.environ.get("OUT", "."), "torch-attention.json"), "w") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
