# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
"""Times attention beside PyTorch's cuDNN kernel, both in this process: called by `npm run bench -- flash-attention --peer torch`.

bfloat16, 16,384 tokens, heads x head dim = 2048, normally distributed numbers; each call in a CUDA graph. Two protocols:

interleaved  both take turns, 18 ms each, and share one clock; the median of 11 turns
alone        each by itself for 0.6 s, until its own power has set its clock, and then timed for 0.25 s; the better of two readings, in both orders

usage: torch_attention.py LIBRARY [backward] [flash] [interleaved] [alone] [packed] [D128 causal S512 ...]

Without a word of a kind, all of that kind. backward: the backward pass, else the forward one. flash: beside PyTorch's FlashAttention-2 kernel as well.
packed: beside each case of the forward pass the same one as packed sequences of one length.
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


class BackwardCall(ctypes.Structure):
    _fields_ = [("forward", Call)] + [(name, ctypes.c_void_p) for name in ("d_out", "d_q", "d_k", "d_v", "delta")] + [("deterministic", ctypes.c_int64)]


class Ternflash:
    def __init__(self, path):
        os.environ.setdefault("TERNFLASH_ATTENTION_KERNEL", "hopper")  # and no other without being noticed
        self.library = ctypes.CDLL(path)
        self.workspace = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda")

    def attention(self, q, k, v, out, lse, *options, **named):
        """As describe()."""
        if self.library.ternflash_attention(ctypes.byref(self.describe(q, k, v, out, lse, *options, **named))) != 0:
            raise RuntimeError("ternflash_attention failed")

    def backward(self, q, k, v, out, lse, d_out, d_q, d_k, d_v, delta, *options, deterministic=False, **named):
        """Of out and lse as attention() gave them; d_q, d_k, d_v: like q, k, v; delta: like lse."""
        if self.workspace.numel() < 1 << 29:
            self.workspace = torch.zeros(1 << 29, dtype=torch.uint8, device="cuda")
        call = BackwardCall()
        call.forward = self.describe(q, k, v, out, lse, *options, **named)
        for name, tensor in (("d_out", d_out), ("d_q", d_q), ("d_k", d_k), ("d_v", d_v), ("delta", delta)):
            setattr(call, name, tensor.data_ptr())
        call.deterministic = deterministic
        if self.library.ternflash_attention_backward(ctypes.byref(call)) != 0:
            raise RuntimeError("ternflash_attention_backward failed")

    def describe(self, q, k, v, out, lse, window=(-1, -1), scale=None, softcap=0.0, sinks=None, cu_seqlens=None, longest=None):
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
        return call


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
    for order in (list(graphs), list(graphs)[::-1]):
        for name in order:
            graph = graphs[name]
            replay_ms = graph.replay() * graph.count
            graph.replay(max(2, round(600 / replay_ms)))
            best[name] = min(best[name], graph.replay(max(2, round(250 / replay_ms))))
    return best


def cases(words):
    for head_dim in (64, 128, 256):
        for causal in (False, True):
            for length in (512, 1024, 2048, 4096, 8192, 16384):
                name = f"D{head_dim} {'causal' if causal else 'full'} S{length}"
                kinds = [[w for w in words if w[0] == "D"], [w for w in words if w in ("full", "causal")], [w for w in words if w[0] == "S"]]
                if all(not kind or any(w in name.split() for w in kind) for kind in kinds):
                    yield name, head_dim, causal, length


def operands(batch, length, heads, head_dim, count):
    return [torch.randn(batch, length, heads, head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(count)]


def difference(ours, expected):
    """The largest, of tensors of larger numbers than 1 as a share of the largest."""
    return max(((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1)).item() for a, b in zip(ours, expected))


def forward_functions(ternflash, batch, length, heads, head_dim, causal, words):
    """What is timed, by name, and by how much the results differ."""
    q, k, v = operands(batch, length, heads, head_dim, 3)
    out = torch.full_like(q, math.nan)
    lse = torch.full((batch, heads, length), math.nan, device="cuda")
    window = (-1, 0 if causal else -1)
    starts = torch.arange(batch + 1, device="cuda", dtype=torch.int32).mul(length).repeat(2, 1).contiguous()

    def torch_by(backend):
        def call():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal)

        return call

    def ours():
        ternflash.attention(q, k, v, out, lse, window)

    def packed():
        flat = [each.view(-1, heads, head_dim) for each in (q, k, v, out)]
        ternflash.attention(*flat, lse, window, cu_seqlens=starts, longest=(length, length))

    functions = {"cudnn": torch_by(SDPBackend.CUDNN_ATTENTION), "ours": ours}
    if "flash" in words:
        functions["flash"] = torch_by(SDPBackend.FLASH_ATTENTION)
    if "packed" in words:
        functions["packed"] = packed
    ours()
    return functions, difference([out], [functions["cudnn"]().transpose(1, 2)])


def backward_functions(ternflash, batch, length, heads, head_dim, causal, words):
    """What is timed, by name, and by how much the results differ."""
    q, k, v, d_out = operands(batch, length, heads, head_dim, 4)
    out, d_q, d_k, d_v = (torch.full_like(q, math.nan) for _ in range(4))
    lse, delta = (torch.full((batch, heads, length), math.nan, device="cuda") for _ in range(2))
    window = (-1, 0 if causal else -1)
    views = [each.transpose(1, 2) for each in (q, k, v, d_out)]
    aten = torch.ops.aten

    def cudnn_call():
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(*views[:3], None, True, 0.0, causal, False)
        return lambda: aten._scaled_dot_product_cudnn_attention_backward(
            views[3], *views[:3], out, lse, seed, offset, None, cum_q, cum_k, max_q, max_k, 0.0, causal
        )

    def flash_call():
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_flash_attention(*views[:3], 0.0, causal, False)
        return lambda: aten._scaled_dot_product_flash_attention_backward(
            views[3], *views[:3], out, lse, cum_q, cum_k, max_q, max_k, 0.0, causal, seed, offset
        )

    def ours():
        ternflash.backward(q, k, v, out, lse, d_out, d_q, d_k, d_v, delta, window)

    functions = {"cudnn": cudnn_call(), "ours": ours}
    if "flash" in words:
        functions["flash"] = flash_call()
    ternflash.attention(q, k, v, out, lse, window)
    ours()
    return functions, difference([d_q, d_k, d_v], [each.transpose(1, 2) for each in functions["cudnn"]()[:3]])


def main():
    library, *words = sys.argv[1:]
    protocols = [word for word in ("interleaved", "alone") if word in words] or ["interleaved", "alone"]
    backward = "backward" in words
    if backward:
        os.environ.setdefault("TERNFLASH_ATTENTION_KERNEL", "auto")
    ternflash = Ternflash(library)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; TFLOP/s, ratio: ours to cuDNN's", flush=True)
    results = []
    if not any(cases(words)):
        sys.exit(f"torch_attention.py: expected words that some case has, got {' '.join(words)}")
    for name, head_dim, causal, length in cases(words):
        batch, heads = TOKENS // length, HIDDEN // head_dim
        torch.manual_seed(1)
        functions, error = (backward_functions if backward else forward_functions)(ternflash, batch, length, heads, head_dim, causal, words)
        if not error < 0.05:
            raise RuntimeError(f"{name}: the results differ by {error}")
        flops = (10 if backward else 4) * batch * heads * length * length * head_dim * (0.5 if causal else 1)
        graphs = {each: Graph(function, flops / 500e9) for each, function in functions.items()}
        row = {"case": name}
        text = f"{name:20}"
        for protocol in protocols:
            times = (interleaved if protocol == "interleaved" else alone)(graphs)
            rates = {each: flops / ms / 1e9 for each, ms in times.items()}
            row[protocol] = {**rates, "ratio": rates["ours"] / rates["cudnn"], "clock_power": clock()}
            text += f" | {protocol}: cuDNN {rates['cudnn']:5.0f}, ours {rates['ours']:5.0f}, ratio {row[protocol]['ratio']:.3f}"
            text += f", packed {rates['packed'] / rates['ours']:.3f} of ours" if "packed" in rates else ""
            text += f", FlashAttention-2 {rates['flash']:5.0f}, ratio {rates['ours'] / rates['flash']:.3f}" if "flash" in rates else ""
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
