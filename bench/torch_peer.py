#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
"""Times with PyTorch what `bench/run.js --device cuda` times with Ternflash: the same cases by the same names and sizes.

  python3 bench/torch_peer.py [--device cuda] [--json FILE] [--seconds N] [--no-compile] [--small] [name ...]

A name picks the cases that contain it. Every case may have several variants, such as the kernels that can compute attention; the fastest counts.
Compiled variants come last, while there is time. Tensors of attention lie in memory as Ternflash's do, [batch, sequence, heads, head dim]."""

import argparse
import contextlib
import json
import math
import os
import sys
import time

# One process compiles: a pool of them would take longer to start.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from torch_timing import time_on_device

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda")
parser.add_argument("--json")
parser.add_argument("--seconds", type=float, default=60)
parser.add_argument("--no-compile", action="store_true")
parser.add_argument("--small", action="store_true")
parser.add_argument("names", nargs="*")
OPTIONS = parser.parse_args()
DEVICE = OPTIONS.device
BF16 = torch.bfloat16
SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
EPS = 1e-5


def size(full, small):
    return small if OPTIONS.small else full


def randn(*shape, dtype=BF16, grad=False, std=1.0):
    return (torch.randn(*shape, device=DEVICE, dtype=dtype) * std).requires_grad_(grad)


class Case:
    """`variants`: by label, what prepares a run. A label that begins with "compiled" is compiled."""

    def __init__(self, name, variants):
        self.name = name
        self.variants = variants


def differentiated(function, leaves, d_out):
    """Forward and backward; the gradients are dropped."""

    def run():
        function().backward(d_out)
        for leaf in leaves:
            leaf.grad = None

    return run


def without_grad(function):
    def run():
        with torch.no_grad():
            function()

    return run


def attention_cases():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    tokens, features = size(16384, 256), size(2048, 256)

    def case(backward, head_dim, sequence, causal):
        kind = "forward+backward" if backward else "forward"
        name = f"attention {kind} bf16 D{head_dim} S{sequence} {'causal' if causal else 'full'}"

        def variant(backend):
            def prepare(stack):
                stack.enter_context(sdpa_kernel(backend))
                shape = (tokens // sequence, sequence, features // head_dim, head_dim)
                leaves = [randn(*shape, grad=backward) for _ in range(3)]
                d_out = randn(*shape).transpose(1, 2)

                def attend():
                    q, k, v = (leaf.transpose(1, 2) for leaf in leaves)
                    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

                return differentiated(attend, leaves, d_out) if backward else without_grad(attend)

            return prepare

        return Case(name, {"flash": variant(SDPBackend.FLASH_ATTENTION), "cuDNN": variant(SDPBackend.CUDNN_ATTENTION)})

    return [
        case(backward, head_dim, size(full, full // 64), causal)
        for backward in (False, True)
        for head_dim in (64, 128)
        for full in (2048, 4096, 8192, 16384)
        for causal in (False, True)
    ]


def matmul_cases():
    n = size(4096, 96)

    def case(layout, dtype):
        def prepare(_):
            a, b = randn(n, n, dtype=dtype), randn(n, n, dtype=dtype)
            left = a.t() if layout[0] == "T" else a
            right = b.t() if layout[1] == "T" else b
            return without_grad(lambda: left @ right)

        return Case(f"matmul {layout} {SHORT[dtype]} {n}", {"cuBLAS": prepare})

    return [case(layout, dtype) for dtype in (torch.bfloat16, torch.float16) for layout in ("NN", "NT", "TN")]


def ternary_cases():
    """The same product with the weight in bfloat16, as without this library. The weights of as many layers take turns as come from memory."""
    turn_bytes = size(128 * 2**20, 2**14)

    def case(m, n, k):
        def prepare(_):
            x = randn(m, k)
            layers = [randn(n, k) for _ in range(math.ceil(turn_bytes / (2 * n * k)))]
            turn = [0]

            def run():
                turn[0] += 1
                return F.linear(x, layers[turn[0] % len(layers)])

            return without_grad(run)

        return Case(f"ternary matmul M{m} {n}x{k}", {"dense bf16": prepare})

    small_tokens = {1: 1, 16: 2, 512: 8, 4096: 64}
    shapes = [(size(4096, 96), size(4096, 96)), (size(2560, 80), size(6912, 216))]
    return [case(size(m, small_tokens[m]), n, k) for n, k in shapes for m in (1, 16, 512, 4096)]


def elementwise(name, make):
    """`make(grad)` gives the function of its inputs, and those. Forward alone and with backward, eager and compiled."""

    def variant(backward, compiled):
        def prepare(_):
            function, inputs = make(backward)
            if compiled:
                function = torch.compile(function, dynamic=False)
            call = lambda: function(*inputs)
            if not backward:
                return without_grad(call)
            with torch.no_grad():
                d_out = torch.randn_like(call())
            return differentiated(call, [each for each in inputs if each.requires_grad], d_out)

        return prepare

    def case(backward):
        kind = "forward+backward" if backward else "forward"
        return Case(f"memory {name} {kind} bf16", {"eager": variant(backward, False), "compiled": variant(backward, True)})

    return [case(False), case(True)]


def rotate(x, cos, sin):
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def memory_cases():
    rows, cols, head_dim, inner = size(16384, 64), size(4096, 128), size(128, 32), size(11008, 352)

    def copy(_):
        length = size(2**28, 2**12)
        source, target = randn(length), randn(length)
        return lambda: target.copy_(source)

    def rms_norm(grad):
        return (lambda x, w: F.rms_norm(x, (cols,), w, EPS)), [randn(rows, cols, grad=grad), randn(cols, grad=grad)]

    def layer_norm(grad):
        inputs = [randn(rows, cols, grad=grad), randn(cols, grad=grad), randn(cols, grad=grad)]
        return (lambda x, w, b: F.layer_norm(x, (cols,), w, b, EPS)), inputs

    def rope(grad):
        frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, device=DEVICE, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(rows, device=DEVICE, dtype=torch.float32), frequencies)
        angles = torch.cat((angles, angles), dim=-1)[None, :, None, :]
        return rotate, [randn(1, rows, cols // head_dim, head_dim, grad=grad), angles.cos().to(BF16), angles.sin().to(BF16)]

    def swiglu(grad):
        return (lambda gate, up: F.silu(gate) * up), [randn(rows // 2, inner, grad=grad) for _ in range(2)]

    parameters = size(2**26, 2**12)

    def adamw(_):
        parameter = randn(parameters, dtype=torch.float32, grad=True)
        parameter.grad = randn(parameters, dtype=torch.float32)
        return torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.1, fused=True).step

    def adamw_masters(_):
        parameter, gradient = randn(parameters), randn(parameters)
        master = parameter.float().requires_grad_(True)
        master.grad = gradient.float()
        optimizer = torch.optim.AdamW([master], lr=1e-3, weight_decay=0.1, fused=True)

        def run():
            with torch.no_grad():
                master.grad.copy_(gradient)
                optimizer.step()
                parameter.copy_(master)

        return run

    def trits(weight):
        scale = weight.abs().mean(dtype=torch.float32).clamp(min=1e-5)
        return (weight.float() * (1 / scale)).round().clamp(-1, 1).to(torch.int8)

    def quantize(compiled):
        def prepare(_):
            weight = randn(size(8192, 64), size(4096, 128))
            function = torch.compile(trits, dynamic=False) if compiled else trits
            return without_grad(lambda: function(weight))

        return prepare

    return [
        Case("memory copy bf16", {"copy_": copy}),
        *elementwise("rmsNorm", rms_norm),
        *elementwise("layerNorm", layer_norm),
        *elementwise("rope", rope),
        *elementwise("swiglu", swiglu),
        Case("memory AdamW fp32", {"fused": adamw}),
        Case("memory AdamW bf16 with fp32 masters", {"fused, and copies": adamw_masters}),
        Case("memory quantizeTernary bf16", {"eager, not packed": quantize(False), "compiled, not packed": quantize(True)}),
    ]


def loss_cases():
    vocabulary, features = size(128256, 1002), size(2048, 64)
    logit_rows, feature_rows = size(2048, 32), size(4096, 32)

    def cross_entropy(backward):
        def prepare(_):
            logits = randn(logit_rows, vocabulary, grad=backward)
            targets = torch.randint(vocabulary, (logit_rows,), device=DEVICE)
            call = lambda: F.cross_entropy(logits, targets)
            return differentiated(call, [logits], None) if backward else without_grad(call)

        return prepare

    def linear_cross_entropy(_):
        x, weight = randn(feature_rows, features, grad=True), randn(vocabulary, features, std=0.02).detach().requires_grad_(True)
        targets = torch.randint(vocabulary, (feature_rows,), device=DEVICE)
        return differentiated(lambda: F.cross_entropy(F.linear(x, weight), targets), [x, weight], None)

    return [
        Case(f"loss crossEntropy forward bf16 V{vocabulary}", {"eager": cross_entropy(False)}),
        Case(f"loss crossEntropy forward+backward bf16 V{vocabulary}", {"eager": cross_entropy(True)}),
        Case(f"loss linearCrossEntropy forward+backward bf16 V{vocabulary}", {"linear, then cross_entropy": linear_cross_entropy}),
    ]


def main():
    begin = time.monotonic()
    if DEVICE == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        place = f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}"
    else:
        place = DEVICE
    print(f"PyTorch {torch.__version__}, {place}")
    cases = memory_cases() + matmul_cases() + attention_cases() + loss_cases() + ternary_cases()
    cases = [case for case in cases if not OPTIONS.names or any(name in case.name for name in OPTIONS.names)]
    times = {case.name: {} for case in cases}
    errors = {case.name: {} for case in cases}
    # Compiled variants, which may take long, when all others are done.
    for compiled in (False, True):
        for case in cases:
            for label, prepare in case.variants.items():
                if label.startswith("compiled") != compiled or (compiled and OPTIONS.no_compile):
                    continue
                if time.monotonic() - begin > OPTIONS.seconds:
                    errors[case.name][label] = "no time left"
                    continue
                try:
                    with contextlib.ExitStack() as stack:
                        times[case.name][label] = time_on_device(prepare(stack), DEVICE)
                except Exception as error:  # A kernel that this PyTorch or this GPU has not, or a compiler that is not there.
                    errors[case.name][label] = str(error).strip().split("\n")[0][:200]
                    if DEVICE == "cuda" and isinstance(error, torch.cuda.OutOfMemoryError):
                        torch.cuda.empty_cache()
    results = []
    for case in cases:
        by_time = sorted(times[case.name].items(), key=lambda item: item[1]["ms"])
        shown = [f"{label} {timing['ms']:.4f} ms" for label, timing in by_time]
        shown += [f"{label}: {error}" for label, error in errors[case.name].items()]
        print(f"{case.name:<52} | {' | '.join(shown)}")
        best = {"variant": by_time[0][0], **by_time[0][1]} if by_time else {"variant": None, "ms": None}
        variants = {label: timing["ms"] for label, timing in by_time}
        results.append({"name": case.name, **best, "variants": variants, "errors": errors[case.name]})
    if OPTIONS.json:
        with open(OPTIONS.json, "w") as file:
            json.dump({"torch": torch.__version__, "device": place, "results": results}, file, indent=2)
    print(f"{time.monotonic() - begin:.0f} s")


main()
