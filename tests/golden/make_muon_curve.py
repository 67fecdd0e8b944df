"""Writes tests/golden/loss_curve/muon.json: the same 100 steps as curve.json, with Muon for the matrices in the layers.

Muon is `torch.optim.Muon` with `match_rms_adamw`. Queries, keys, values, gate and value are parameters of their own here,
which share their memory with the fused ones.

Its iteration is always in bf16, whatever the parameters are. For the f64 and f32 curves the name `torch.bfloat16` stands for
their own type while it steps, so that its code is PyTorch's and its rounding is not.
"""

import copy
import json
from contextlib import nullcontext
from unittest import mock

import numpy as np
import torch
from torch import nn

import make_loss_curve as base
from make_loss_curve import CONFIG, HERE, STEPS, batch, distance, rounded
from openelm_reference import OpenELM, learning_rate, loss_parts

MOMENTUM = 0.95


def matrices(model):
    """Every matrix in the layers by itself: the parameter it is stored in, its first row, its rows."""
    for i, layer in enumerate(model.layers):
        query, kv = CONFIG.q_heads[i] * CONFIG.head_dim, CONFIG.kv_heads[i] * CONFIG.head_dim
        qkv, gated, ffn = layer.attn.qkv_proj.weight, layer.ffn.proj_1.weight, CONFIG.ffn_dims[i]
        yield from [(qkv, 0, query), (qkv, query, kv), (qkv, query + kv, kv), (gated, 0, ffn), (gated, ffn, ffn)]
        yield from [(p, 0, p.shape[0]) for p in (layer.attn.out_proj.weight, layer.ffn.proj_2.weight)]


def train(model, stream, bf16=False, threads=1):
    """One list for each of: loss, norm of the gradient before clipping."""
    torch.set_num_threads(threads)
    model = copy.deepcopy(model)
    stored = list(matrices(model))
    hidden = [nn.Parameter(p.detach()[first : first + rows]) for p, first, rows in stored]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": [model.token_embeddings.weight]}, {"params": norms, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=base.BETAS, eps=base.EPS, weight_decay=base.DECAY)
    muon = torch.optim.Muon(hidden, lr=0.0, weight_decay=base.DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
    record = {"loss": [], "grad_norm": []}
    for step in range(STEPS):
        inputs, targets = batch(stream, step)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            logits = model(inputs)
        loss = sum(loss_parts(logits, targets))
        model.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
        for p in model.parameters():
            p.grad.mul_(min(1.0, base.CLIP / (norm.item() + base.CLIP_EPS)))
        for part, (p, first, rows) in zip(hidden, stored):
            part.grad = p.grad[first : first + rows]
        for group in adamw.param_groups + muon.param_groups:
            group["lr"] = learning_rate(step, STEPS, base.WARMUP, base.PEAK, base.FIRST, base.FLOOR)
        adamw.step()
        with nullcontext() if bf16 else mock.patch.object(torch, "bfloat16", hidden[0].dtype):
            muon.step()
        for name, value in zip(record, (loss, norm)):
            record[name].append(value.item())
    return record


def main():
    model = OpenELM(CONFIG).initialise(seed=5)
    stream = torch.from_numpy(base.markov_stream(STEPS * base.ROWS * base.SEQ + 1).astype(np.int64))
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(6)
        for p in nudged.parameters():
            p.mul_(1 + 2**-9 * torch.empty_like(p).uniform_(-1, 1, generator=generator))
    f64 = train(copy.deepcopy(model).double(), stream)
    f32, f32_two = train(model, stream), train(model, stream, threads=2)
    bf16, bf16_two = train(model, stream, bf16=True), train(model, stream, bf16=True, threads=2)
    bf16_nudged = train(nudged, stream, bf16=True)
    spread = {
        "f32_vs_f64": distance(f32, f64),
        "f32_1_vs_2_threads": distance(f32, f32_two),
        "bf16_vs_f64": distance(bf16, f64),
        "bf16_1_vs_2_threads": distance(bf16, bf16_two),
        "bf16_vs_bf16_from_weights_moved_by_half_a_bf16_ulp": distance(bf16, bf16_nudged),
    }
    curve = {
        "optimizer": "torch.optim.Muon, match_rms_adamw, for the matrices in the layers; torch.optim.AdamW for embedding and norms",
        "momentum": MOMENTUM,
        "rest": "model, data, loss, clip, schedule, decay and AdamW as in curve.json; both optimizers have the same learning rate",
        "made_with": {"torch": torch.__version__, "numpy": np.__version__},
        "spread_of_loss": spread,
        "f64": rounded(f64, 12),
        "f32": rounded(f32, 9),
        "bf16": rounded(bf16, 9),
    }
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in curve.items())
    (HERE / "muon.json").write_text("{\n" + lines + "\n}\n")
    for step in (0, 1, 2, 5, 10, 20, 40, 60, 80, 99):
        print(f"{step:3}  f64 {f64['loss'][step]:.7f}  f32 {f32['loss'][step]:.7f}  bf16 {bf16['loss'][step]:.5f}  norm {f64['grad_norm'][step]:.4f}")
    for name, value in spread.items():
        print(f"{name:52} {value}")


if __name__ == "__main__":
    main()
