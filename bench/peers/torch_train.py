"""Training steps of the benchmark models in PyTorch, set up for speed on a CPU: the peer of `bench/train.py`.

Speaks the workers' protocol of `bench/README.md`. What PyTorch's documentation recommends is used: fused scaled
dot-product attention, the native RMSNorm, a fused AdamW, gradients set to None, autocast for bf16, torch.compile.
Every choice between equals was measured; `bench/README.md` has the figures.

    python torch_train.py [--model 36m|openelm-270m] --dtype f32|bf16 [--compile] [--bf16 autocast|master]
                          [--threads N] [--seed N]
"""

import argparse
import json
import os
import resource
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

HEAD_DIM = 64
RATE, BETAS, EPS, DECAY, CLIP = 3e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
WARMUP_STEPS = 2


@dataclass
class Shape:
    """A model and its batch; `layers` has query heads, key-value heads and feed-forward width of each layer."""

    vocab: int
    dim: int
    layers: list
    rows: int
    seq: int


def scaled(dim, n_layers, groups, attention, ffn, divisor):
    """OpenELM's layer-wise scaling: two multipliers in straight lines, rounded as in Apple's CoreNet."""

    def line(first, last):
        step = (last - first) / (n_layers - 1)
        return [round(last if i == n_layers - 1 else i * step + first, 2) for i in range(n_layers)]

    def divisible(value, divisor):
        rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
        return rounded + divisor if rounded < 0.9 * value else rounded

    layers = []
    for a, f in zip(line(*attention), line(*ffn)):
        heads = divisible(dim * a, HEAD_DIM * groups) // HEAD_DIM
        layers.append((heads, heads // groups, divisible(f * dim, divisor)))
    return layers


SHAPES = {
    "36m": Shape(8192, 512, [(8, 8, 1536)] * 8, rows=4, seq=512),
    "openelm-270m": Shape(32000, 1280, scaled(1280, 16, 4, (0.5, 1.0), (0.5, 4.0), 256), rows=1, seq=1024),
}


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(SHAPES), default="36m")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--bf16", choices=["autocast", "master"], help="default: whichever is faster")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Weights cast in every step cost eager mode more than copies of them; compiled code folds the casts into its loops.
    args.bf16 = args.bf16 or ("autocast" if args.compile else "master")
    return args


def build(torch, shape):
    """The model; PyTorch is imported only when it is known how many threads it may have."""
    F, nn = torch.nn.functional, torch.nn

    class Norm(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(dim))

        def forward(self, x):
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), 1e-6)

    def linear(inputs, outputs, std):
        layer = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(layer.weight, 0.0, std)
        return layer

    def rotate(x, cos, sin):
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-high, low], dim=-1) * sin

    class Block(nn.Module):
        def __init__(self, heads, kv_heads, ffn):
            super().__init__()
            dim = shape.dim
            into, out = dim**-0.5, dim**-0.5 * (2 * len(shape.layers)) ** -0.5
            self.heads, self.kv_heads = heads, kv_heads
            self.attn_norm, self.ffn_norm = Norm(dim), Norm(dim)
            self.q_norm, self.k_norm = Norm(HEAD_DIM), Norm(HEAD_DIM)
            self.qkv = linear(dim, (heads + 2 * kv_heads) * HEAD_DIM, into)
            self.out = linear(heads * HEAD_DIM, dim, out)
            self.ffn_in, self.ffn_out = linear(dim, 2 * ffn, into), linear(ffn, dim, out)

        def forward(self, x, cos, sin):
            batch, seq, _ = x.shape
            heads = self.qkv(self.attn_norm(x)).view(batch, seq, -1, HEAD_DIM).transpose(1, 2)
            q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
            q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
            shared = self.heads != self.kv_heads
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, -1))
            gate, up = self.ffn_in(self.ffn_norm(x)).chunk(2, dim=-1)
            return x + self.ffn_out(F.silu(gate) * up)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(shape.vocab, shape.dim)
            nn.init.normal_(self.embedding.weight, 0.0, shape.dim**-0.5)
            self.blocks = nn.ModuleList(Block(*layer) for layer in shape.layers)
            self.norm = Norm(shape.dim)
            half = HEAD_DIM // 2
            angles = torch.outer(torch.arange(shape.seq).float(), 10000.0 ** (-torch.arange(half).float() / half))
            self.register_buffer("cos", angles.cos().repeat(1, 2))
            self.register_buffer("sin", angles.sin().repeat(1, 2))

        def forward(self, tokens, targets, dtype):
            cos, sin = self.cos.to(dtype), self.sin.to(dtype)
            x = self.embedding(tokens)
            for block in self.blocks:
                x = block(x, cos, sin)
            logits = F.linear(self.norm(x), self.embedding.weight)
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return Model()


class Trainer:
    """One step is: forward, backward, clip to norm 1, AdamW; always on the same random batch."""

    def __init__(self, torch, args):
        self.torch = torch
        torch.manual_seed(args.seed)
        self.shape = SHAPES[args.model]
        self.model = build(torch, self.shape)
        self.parameters = list(self.model.parameters())
        # With `master`, the model computes in bf16 and AdamW works on f32 copies of its weights.
        self.masters = None
        self.dtype = torch.float32 if args.dtype == "f32" else torch.bfloat16
        if args.dtype == "bf16" and args.bf16 == "master":
            self.masters = [p.detach().clone() for p in self.parameters]
            self.model.bfloat16()
        self.autocast = args.dtype == "bf16" and args.bf16 == "autocast"
        updated = self.masters or self.parameters
        groups = [
            {"params": [p for p in updated if p.dim() > 1], "weight_decay": DECAY},
            {"params": [p for p in updated if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS, fused=True)
        self.forward = torch.compile(self.model) if args.compile else self.model
        tokens = torch.randint(self.shape.vocab, (self.shape.rows, self.shape.seq + 1))
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step(self):
        torch = self.torch
        with torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext():
            loss = self.forward(self.inputs, self.targets, self.dtype)
        loss.backward()
        if self.masters is not None:
            for master, parameter in zip(self.masters, self.parameters):
                master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.masters or self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masters is not None:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.masters)
        return loss


def say(**fields):
    print(json.dumps(fields), flush=True)


def main():
    args = options()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    trainer = Trainer(torch, args)
    for _ in range(WARMUP_STEPS):
        loss = trainer.step()
    say(
        ready=True,
        name="PyTorch" + (" compiled" if args.compile else ""),
        version=torch.__version__,
        dtype=args.dtype,
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in trainer.parameters),
        warmup_steps=WARMUP_STEPS,
        loss=loss.item(),
    )
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        if len(words) != 2 or words[0] != "go":
            sys.exit(f"unknown request `{line.strip()}`; expected `go N` or `quit`")
        steps = int(words[1])
        begin = time.perf_counter()
        for _ in range(steps):
            loss = trainer.step()
        loss = loss.item()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        say(seconds=seconds, tokens=steps * trainer.shape.rows * trainer.shape.seq, loss=loss, peak_rss_bytes=peak)


if __name__ == "__main__":
    main()
