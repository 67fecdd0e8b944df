"""Training steps of the benchmark model in PyTorch, set up for speed on a CPU: the peer of `bench/train.py`.

Speaks the workers' protocol of `bench/README.md`. What PyTorch's documentation recommends is used: fused scaled
dot-product attention, the native RMSNorm, a fused AdamW, gradients set to None, autocast for bf16, torch.compile.
Every choice between equals was measured; `bench/README.md` has the figures.

    python torch_train.py --dtype f32|bf16 [--compile] [--bf16 autocast|master] [--threads N] [--seed N]
"""

import argparse
import json
import os
import resource
import sys
import time
from contextlib import nullcontext

VOCAB, DIM, LAYERS, HEADS, HEAD_DIM, FFN, SEQ, ROWS = 8192, 512, 8, 8, 64, 1536, 512, 4
RATE, BETAS, EPS, DECAY, CLIP = 3e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
WARMUP_STEPS = 2


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--bf16", choices=["autocast", "master"], help="default: whichever is faster")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Weights cast in every step cost eager mode more than copies of them; compiled code folds the casts into its loops.
    args.bf16 = args.bf16 or ("autocast" if args.compile else "master")
    return args


def build(torch):
    """The model's class; PyTorch is imported only when it is known how many threads it may have."""
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
        def __init__(self):
            super().__init__()
            into, out = DIM**-0.5, DIM**-0.5 * (2 * LAYERS) ** -0.5
            self.attn_norm, self.ffn_norm = Norm(DIM), Norm(DIM)
            self.q_norm, self.k_norm = Norm(HEAD_DIM), Norm(HEAD_DIM)
            self.qkv, self.out = linear(DIM, 3 * DIM, into), linear(DIM, DIM, out)
            self.ffn_in, self.ffn_out = linear(DIM, 2 * FFN, into), linear(FFN, DIM, out)

        def forward(self, x, cos, sin):
            batch, seq, _ = x.shape
            heads = self.qkv(self.attn_norm(x)).view(batch, seq, 3, HEADS, HEAD_DIM)
            q, k, v = (part.transpose(1, 2) for part in heads.unbind(2))
            q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, DIM))
            gate, up = self.ffn_in(self.ffn_norm(x)).chunk(2, dim=-1)
            return x + self.ffn_out(F.silu(gate) * up)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCAB, DIM)
            nn.init.normal_(self.embedding.weight, 0.0, DIM**-0.5)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm = Norm(DIM)
            half = HEAD_DIM // 2
            angles = torch.outer(torch.arange(SEQ).float(), 10000.0 ** (-torch.arange(half).float() / half))
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
        self.model = build(torch)
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
        tokens = torch.randint(VOCAB, (ROWS, SEQ + 1))
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
        say(seconds=seconds, tokens=steps * ROWS * SEQ, loss=loss, peak_rss_bytes=peak)


if __name__ == "__main__":
    main()
