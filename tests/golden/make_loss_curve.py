"""Writes tests/golden/loss_curve/: 100 training steps of a small OpenELM, in f64, f32 and bf16.

`initial.safetensors` holds the weights before step 0, `tokens.safetensors` the token stream, `curve.json` the settings
and what every step reported. The learning task is a seeded Markov chain: every token has four likely successors, so
the loss falls from ln(vocab) towards the chain's entropy within the hundred steps.

How far the curves lie apart is printed and stored: it is what a tolerance can be argued from.
"""

import copy
import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from openelm_reference import Z_LOSS, Config, OpenELM, learning_rate, loss_parts, save

HERE = Path(__file__).parent / "loss_curve"
# Heads 2, 2, 2, 4 over 1, 1, 1, 2 key/value heads; FFN widths 32, 48, 64, 80.
CONFIG = Config(
    vocab=384, model_dim=96, layers=4, head_dim=32, group=2, alpha=(0.4, 0.8), beta=(0.33, 0.83), ffn_divisor=16, context=64
)
STEPS, ROWS, SEQ = 100, 8, 64
WARMUP, PEAK, FIRST, FLOOR = 10, 4e-3, 1e-6, 0.1
BETAS, EPS, DECAY, CLIP, CLIP_EPS = (0.9, 0.95), 1e-8, 0.1, 1.0, 1e-6


def markov_stream(length):
    """A Markov chain over the vocabulary: four successors with probabilities .5 .25 .15 .1 for each token."""
    rng = np.random.default_rng(4)
    successors = rng.integers(0, CONFIG.vocab, size=(CONFIG.vocab, 4))
    choices = rng.choice(4, size=length, p=[0.5, 0.25, 0.15, 0.1])
    stream = np.zeros(length, dtype=np.uint16)
    for i in range(1, length):
        stream[i] = successors[stream[i - 1], choices[i]]
    return stream


def batch(stream, step):
    """Row r of a step is 64 inputs and, one further, 64 targets; rows follow each other in the stream."""
    starts = (step * ROWS + torch.arange(ROWS)) * SEQ
    window = stream[starts[:, None] + torch.arange(SEQ + 1)]
    return window[:, :-1], window[:, 1:]


def train(model, stream, bf16=False, threads=1):
    """One list for each of: loss, cross-entropy, z-loss, norm of the gradient before clipping."""
    torch.set_num_threads(threads)
    model = copy.deepcopy(model)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    record = {"loss": [], "cross_entropy": [], "z_loss": [], "grad_norm": []}
    for step in range(STEPS):
        inputs, targets = batch(stream, step)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            logits = model(inputs)
        cross_entropy, z_loss = loss_parts(logits, targets)
        loss = cross_entropy + z_loss
        model.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
        adamw(model, moments, step, clip=min(1.0, CLIP / (norm.item() + CLIP_EPS)))
        for name, value in zip(record, (loss, cross_entropy, z_loss, norm)):
            record[name].append(value.item())
    return record


@torch.no_grad()
def adamw(model, moments, step, clip):
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, with decay scaled by the learning rate."""
    rate = learning_rate(step, STEPS, WARMUP, PEAK, FIRST, FLOOR)
    for name, p in model.named_parameters():
        first, second = moments[name]
        gradient = p.grad * clip
        first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        if p.dim() > 1:
            p.mul_(1 - rate * DECAY)
        first_hat = first / (1 - BETAS[0] ** (step + 1))
        second_hat = second / (1 - BETAS[1] ** (step + 1))
        p.sub_(rate * first_hat / (second_hat.sqrt() + EPS))


def distance(a, b):
    """Largest and mean |a - b| of the losses, and the step of the largest."""
    gaps = np.abs(np.array(a["loss"]) - np.array(b["loss"]))
    return {"max": float(f"{gaps.max():.3g}"), "at_step": int(gaps.argmax()), "mean": float(f"{gaps.mean():.3g}")}


def rounded(record, digits):
    return {name: [float(f"{value:.{digits}g}") for value in values] for name, values in record.items()}


def main():
    HERE.mkdir(exist_ok=True)
    model = OpenELM(CONFIG).initialise(seed=5)
    stream_u16 = markov_stream(STEPS * ROWS * SEQ + 1)
    stream = torch.from_numpy(stream_u16.astype(np.int64))

    nudged = copy.deepcopy(model)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(6)
        for p in nudged.parameters():
            p.mul_(1 + 2**-9 * torch.empty_like(p).uniform_(-1, 1, generator=generator))
    f64 = train(copy.deepcopy(model).double(), stream)
    f32, f32_two = train(model, stream), train(model, stream, threads=2)
    bf16, bf16_two = train(model, stream, bf16=True), train(model, stream, bf16=True, threads=2)
    f64_nudged, bf16_nudged = train(nudged.double(), stream), train(nudged.float(), stream, bf16=True)
    spread = {
        "f32_vs_f64": distance(f32, f64),
        "f32_1_vs_2_threads": distance(f32, f32_two),
        "f32_2_threads_vs_f64": distance(f32_two, f64),
        "bf16_vs_f64": distance(bf16, f64),
        "bf16_1_vs_2_threads": distance(bf16, bf16_two),
        "f64_vs_f64_from_weights_moved_by_half_a_bf16_ulp": distance(f64, f64_nudged),
        "bf16_vs_bf16_from_weights_moved_by_half_a_bf16_ulp": distance(bf16, bf16_nudged),
    }

    curve = {
        "model": CONFIG.to_apple(),
        "data": {
            "file": "tokens.safetensors, tensor `tokens`, u16 [51201]",
            "rows": ROWS,
            "seq": SEQ,
            "rule": "row r of step t: inputs tokens[(t*rows+r)*seq ..][..seq], targets the same window one token further",
        },
        "loss": f"mean cross-entropy (nats) over all rows*seq targets + {Z_LOSS} * mean(logsumexp(logits)^2) over the same; no document masks",
        "optimizer": {
            "name": "AdamW",
            "betas": BETAS,
            "eps": EPS,
            "weight_decay": DECAY,
            "decayed": "tensors of two dimensions (the embedding too), not the norms",
            "rule": "p *= 1 - lr*decay; p -= lr * (m/(1-b1^(t+1))) / (sqrt(v/(1-b2^(t+1))) + eps)",
            "clip": "gradients of all tensors together: g *= min(1, max_norm / (norm + clip_eps))",
            "max_norm": CLIP,
            "clip_eps": CLIP_EPS,
        },
        "schedule": {
            "steps": STEPS,
            "warmup": WARMUP,
            "peak": PEAK,
            "first": FIRST,
            "floor": FLOOR,
            "rule": "step t counts from 0; t < warmup: first + t*(peak-first)/warmup; else with low = floor*peak: "
            "low + 0.5*(peak-low)*(1 + cos(pi*(t-warmup)/(steps-warmup+1)))",
        },
        "record": "loss, cross_entropy, z_loss: before the step's update; grad_norm: before clipping",
        "made_with": {"torch": torch.__version__, "numpy": np.__version__},
        "spread_of_loss": spread,
        "learning_rate": [learning_rate(t, STEPS, WARMUP, PEAK, FIRST, FLOOR) for t in range(STEPS)],
        "f64": rounded(f64, 12),
        "f32": rounded(f32, 9),
        "bf16": rounded(bf16, 9),
    }
    save(model.to_apple(), HERE / "initial.safetensors")
    save({"tokens": torch.from_numpy(stream_u16)}, HERE / "tokens.safetensors")
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in curve.items())
    (HERE / "curve.json").write_text("{\n" + lines + "\n}\n")

    print(f"ln(vocab) {math.log(CONFIG.vocab):.3f}; heads {CONFIG.q_heads}, ffn {CONFIG.ffn_dims}")
    for step in (0, 1, 2, 5, 10, 20, 40, 60, 80, 99):
        print(f"{step:3}  f64 {f64['loss'][step]:.7f}  f32 {f32['loss'][step]:.7f}  bf16 {bf16['loss'][step]:.5f}  norm {f64['grad_norm'][step]:.4f}")
    for name, value in spread.items():
        print(f"{name:52} {value}")


if __name__ == "__main__":
    main()
