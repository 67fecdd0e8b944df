"""Matrix products and attention in PyTorch: the peer of `bench/kernels.py`, whose protocol `bench/README.md` has.

    python torch_kernels.py [--threads N]
"""

import argparse
import json
import os
import sys
import time


def say(**fields):
    print(json.dumps(fields), flush=True)


class Kernels:
    """Answers requests; operands are made once for a request and kept for the next one of the same kind."""

    def __init__(self, torch):
        self.torch, self.key, self.call, self.flops = torch, None, None, 0

    def run(self, words, repetitions):
        if words != self.key:
            self.key = words
            kind, dtype, *rest = words
            dtype = {"f32": self.torch.float32, "bf16": self.torch.bfloat16}[dtype]
            prepare = {"product": self.product, "attention": self.attention}[kind]
            self.call, self.flops = prepare(dtype, rest[0], *map(int, rest[1:]))
        call = self.call
        if self.key[2] == "backward":
            return self.backward(repetitions)
        begin = time.perf_counter()
        with self.torch.no_grad():
            for _ in range(repetitions):
                call()
        return time.perf_counter() - begin

    def product(self, dtype, kind, m, n, k):
        """Y = X Wᵀ with X of m rows and W of n; dX = dY W; dW += dYᵀ X, which sums over the m rows."""
        torch = self.torch
        x, w, dy = (torch.randn(shape, dtype=dtype) for shape in ((m, k), (n, k), (m, n)))
        # What a layer does, in f32 as in bf16: PyTorch keeps a gradient in the type of its weight.
        y, dx, dw = (torch.zeros(shape, dtype=dtype) for shape in ((m, n), (m, k), (n, k)))
        calls = {
            "forward": lambda: torch.matmul(x, w.t(), out=y),
            "input": lambda: torch.matmul(dy, w, out=dx),
            "weight": lambda: dw.addmm_(dy.t(), x),
        }
        return calls[kind], 2 * m * n * k

    def attention(self, dtype, direction, heads, dim, tokens):
        torch = self.torch
        back = direction == "backward"
        q, k, v = (torch.randn((1, heads, tokens, dim), dtype=dtype, requires_grad=back) for _ in range(3))
        attend = torch.nn.functional.scaled_dot_product_attention
        call = lambda: attend(q, k, v, is_causal=True)  # noqa: E731
        if back:
            self.inputs, self.gradient = (q, k, v), torch.randn((1, heads, tokens, dim), dtype=dtype)
        return call, (5 if back else 2) * heads * tokens**2 * dim

    def backward(self, repetitions):
        """Only the way back is timed; what it needs of the way there is made before."""
        output = self.call()
        begin = time.perf_counter()
        for _ in range(repetitions):
            self.torch.autograd.grad(output, self.inputs, self.gradient, retain_graph=True)
        return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    kernels = Kernels(torch)
    say(ready=True, name="PyTorch", version=torch.__version__, threads=torch.get_num_threads())
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        seconds = kernels.run(words[:-1], int(words[-1]))
        say(seconds=seconds, flops=kernels.flops * int(words[-1]))


if __name__ == "__main__":
    main()
