#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright 2026 The Ternflash Authors
"""Trains with PyTorch, eager, the model that the demo trained, from the same weights on the same batches, and prints both side by side:

  node .out/examples/train-ternary-lm.js --device cuda --dtype bfloat16 --export FOLDER
  python3 bench/torch_demo.py FOLDER [--device cuda] [--compile] [--json FILE]

Matrices are rounded to trits and activations to int8 on every call with gradients passing straight through, as BitLinear of BitNet b1.58; the
rounded numbers, which bfloat16 holds exactly, go through cuBLAS in bfloat16. Parameters are of the demo's dtype; bfloat16 ones have float32
masters, which a fused AdamW updates."""

import argparse
import json
import os
import struct
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class TernaryProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        scale = weight.abs().mean(dtype=torch.float32).clamp(min=1e-5)
        trits = (weight * (1 / scale)).round().clamp(-1, 1).to(x.dtype)
        s = 127 / x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-5)
        codes = (x * s).round().to(x.dtype)
        ctx.save_for_backward(trits, scale, codes, s)
        return (F.linear(codes, trits) * (scale / s)).to(x.dtype)

    @staticmethod
    def backward(ctx, d_out):
        trits, scale, codes, s = ctx.saved_tensors
        d_x = ((d_out @ trits) * scale).to(d_out.dtype)
        rounded = (codes / s).to(d_out.dtype).flatten(0, -2)
        return d_x, d_out.flatten(0, -2).t() @ rounded


class TernaryLinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x):
        return TernaryProduct.apply(x, self.weight)


class Norm(nn.Module):
    def __init__(self, features, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x, cos, sin):
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.key_heads, self.head_dim = c["heads"], c["keyHeads"], c["headDim"]
        self.query = TernaryLinear(c["hidden"], self.heads * self.head_dim)
        self.key = TernaryLinear(c["hidden"], self.key_heads * self.head_dim)
        self.value = TernaryLinear(c["hidden"], self.key_heads * self.head_dim)
        self.subNorm = Norm(self.heads * self.head_dim, c["normEps"])
        self.output = TernaryLinear(self.heads * self.head_dim, c["hidden"])

    def forward(self, x, cos, sin):
        def split(y, heads):
            return y.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2)

        q = rotate(split(self.query(x), self.heads), cos, sin)
        k = rotate(split(self.key(x), self.key_heads), cos, sin)
        v = split(self.value(x), self.key_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.key_heads)
        return self.output(self.subNorm(mixed.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = TernaryLinear(c["hidden"], c["intermediate"])
        self.up = TernaryLinear(c["hidden"], c["intermediate"])
        self.subNorm = Norm(c["intermediate"], c["normEps"])
        self.down = TernaryLinear(c["intermediate"], c["hidden"])

    def forward(self, x):
        return self.down(self.subNorm(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attentionNorm = Norm(c["hidden"], c["normEps"])
        self.attention = Attention(c)
        self.mlpNorm = Norm(c["hidden"], c["normEps"])
        self.mlp = MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attentionNorm(x), cos, sin)
        return x + self.mlp(self.mlpNorm(x))


class CausalLM(nn.Module):
    """Names are those of the safetensors file."""

    def __init__(self, c):
        super().__init__()
        expected = {"ternary": True, "subNorm": True, "activation": "swiglu", "dropout": 0, "tieEmbeddings": True}
        for name, value in expected.items():
            if c[name] != value:
                raise SystemExit(f"torch_demo: expected {value} for {name} of the model, got {c[name]}")
        self.config = c
        self.embedding = nn.Parameter(torch.empty(c["vocabulary"], c["hidden"]))
        self.layers = nn.ModuleList(Block(c) for _ in range(c["layers"]))
        self.norm = Norm(c["hidden"], c["normEps"])

    def angles(self, sequence):
        dim = self.config["headDim"]
        device = self.embedding.device
        frequencies = self.config["ropeTheta"] ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
        angles = torch.outer(torch.arange(sequence, device=device, dtype=torch.float32), frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)

    def forward(self, ids, targets, cos, sin):
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = F.linear(self.norm(x), self.embedding)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def read_safetensors(path):
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with open(path, "rb") as file:
        data = bytearray(file.read())
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        part = torch.frombuffer(data[begin:end], dtype=dtypes[entry["dtype"]])
        tensors[name] = part.view(entry["shape"]).clone()
    return tensors


def read_tokens(folder, name, device):
    with open(os.path.join(folder, name), "rb") as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.int32).to(device=device, dtype=torch.int64)


class Optimizer:
    """AdamW, fused. Parameters of 16 bits have float32 masters."""

    def __init__(self, model, run):
        self.parameters = list(model.parameters())
        self.has_masters = self.parameters[0].dtype != torch.float32
        self.masters = [p.detach().float().clone() for p in self.parameters] if self.has_masters else self.parameters
        groups = [
            {"params": [m for m in self.masters if m.dim() > 1], "weight_decay": run["weightDecay"]},
            {"params": [m for m in self.masters if m.dim() <= 1], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, betas=tuple(run["betas"]), eps=run["eps"], fused=True)
        if self.has_masters:
            for master in self.masters:
                master.grad = torch.empty_like(master)

    @torch.no_grad()
    def step(self, learning_rate):
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        if self.has_masters:
            torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in self.parameters])
        self.adamw.step()
        if self.has_masters:
            torch._foreach_copy_([p.data for p in self.parameters], self.masters)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    device = options.device
    with open(os.path.join(options.folder, "run.json")) as file:
        run = json.load(file)
    with open(os.path.join(options.folder, "result.json")) as file:
        ours = json.load(file)
    train, validation, starts = (
        read_tokens(options.folder, name, device) for name in ("train.i32", "validation.i32", "starts.i32")
    )
    sequence, batch, steps = run["sequence"], run["batch"], run["steps"]
    starts = starts.view(steps, batch)
    dtype = getattr(torch, run["dtype"])
    model = CausalLM(run["model"])
    model.load_state_dict(read_safetensors(os.path.join(options.folder, "model.safetensors")))
    model = model.to(device=device, dtype=dtype)
    cos, sin = model.angles(sequence)
    window = torch.arange(sequence, device=device)
    forward = torch.compile(model) if options.compile else model

    def synchronize():
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    def loss_of(tokens, at):
        places = at[:, None] + window
        return forward(tokens[places], tokens[places + 1], cos, sin)

    @torch.no_grad()
    def validate():
        at = torch.tensor(run["validationStarts"], device=device)
        losses = [loss_of(validation, part) for part in at.split(batch)]
        return torch.stack(losses).mean().item()

    optimizer = Optimizer(model, run)
    before = validate()
    warm_up = min(run["warmUp"], steps // 2)
    losses = []
    begin = time.perf_counter()
    for step in range(steps):
        if step == warm_up:
            synchronize()
            begin = time.perf_counter()
        loss = loss_of(train, starts[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run["maxGradientNorm"])
        optimizer.step(run["learningRates"][step])
        model.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    synchronize()
    took = time.perf_counter() - begin
    losses = torch.stack(losses).tolist()
    result = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "compiled": options.compile,
        "tokensPerSecond": (steps - warm_up) * batch * sequence / took,
        "losses": losses,
        "before": before,
        "after": validate(),
    }
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"run": {**run, "learningRates": None, "validationStarts": None}, "ours": ours, "torch": result}, file)

    def last(values):
        part = values[-min(50, len(values)) :]
        return sum(part) / len(part)

    label = f"PyTorch {torch.__version__}{', compiled' if options.compile else ', eager'}"
    print(f"{steps} steps of {batch} x {sequence} tokens, {run['dtype']}, {sum(p.numel() for p in model.parameters())} parameters, {result['device']}")
    print(f"| {'':<28} | Ternflash | {label} |")
    print("| --- | ---: | ---: |")
    rows = [
        ("validation loss before", ours["before"], before, 4),
        ("loss of the first step", ours["losses"][0], losses[0], 4),
        ("mean loss of the last 50", last(ours["losses"]), last(losses), 4),
        ("validation loss after", ours["after"], result["after"], 4),
        ("tokens/s", ours["tokensPerSecond"], result["tokensPerSecond"], 0),
    ]
    for name, left, right, digits in rows:
        print(f"| {name:<28} | {left:.{digits}f} | {right:.{digits}f} |")


main()
