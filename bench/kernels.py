"""Matrix products and attention of ours, forward and backward, against PyTorch's and the bare kernel's peak."""

import argparse
import json
import os
import shlex
import sys
from statistics import median

import harness

SIZES = [512, 1024, 2048, 4096]
KINDS = ["forward", "input", "weight"]
HEAD_DIMS = [64, 96, 128]
DIRECTIONS = ["forward", "backward"]
WIDTH = 1024
FIELDS = {"seconds", "flops"}


def options():
    parser = argparse.ArgumentParser(prog="bench/run kernels", description=__doc__)
    parser.add_argument("--rows", default="product,attention", help="groups, with commas (default %(default)s)")
    parser.add_argument("--dtypes", default="bf16,f32", help="(default %(default)s)")
    sizes = ",".join(map(str, SIZES))
    parser.add_argument("--sizes", default=sizes, help="of squares, and tokens (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each sample, at least 3 (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a sample, about (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, sizes up to 1,024")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", metavar="COMMAND", help="another worker in place of ours; --threads is added")
    args = parser.parse_args()
    args.rows, args.dtypes = args.rows.split(","), args.dtypes.split(",")
    try:
        args.sizes = [int(size) for size in args.sizes.split(",")]
    except ValueError:
        parser.error("--sizes takes numbers with commas")
    if args.quick:
        args.rounds, args.sizes = 3, [size for size in args.sizes if size <= 1024]
    if set(args.rows) - {"product", "attention"} or set(args.dtypes) - {"f32", "bf16"}:
        parser.error("--rows takes product and attention, --dtypes takes f32 and bf16")
    if args.rounds < 3 or args.threads < 1:
        parser.error("--rounds is at least 3, --threads at least 1")
    return args


def samples(args):
    """What is measured: a label, the request without its number of repetitions, the operations of one repetition.

    A backward pass of attention makes five products where a forward pass makes two.
    """
    for dtype in args.dtypes:
        if "product" in args.rows:
            for n in args.sizes:
                for kind in KINDS:
                    yield f"{dtype} {kind} {n}", f"product {dtype} {kind} {n} {n} {n}", 2 * n**3
        if "attention" in args.rows:
            for dim in HEAD_DIMS:
                for n in args.sizes:
                    heads = WIDTH // dim
                    for direction, products in zip(DIRECTIONS, (2, 5)):
                        label = f"{dtype} attention {direction} {heads} x {dim} x {n}"
                        yield label, f"attention {dtype} {direction} {heads} {dim} {n}", products * n**2 * dim * heads


def sample(worker, request, flop, repetitions):
    """GFLOP/s, and the peak if the worker measured one."""
    answer = worker.ask(f"{request} {repetitions}", FIELDS)
    if abs(answer["flops"] / (flop * repetitions) - 1) > 0.01:
        harness.fail(f"{worker.label} counts {answer['flops']} for `{request}`, not {flop} x {repetitions}")
    return flop * repetitions / answer["seconds"] / 1e9, answer.get("peak_gflops", 0)


def measure(args, workers, label, request, flop):
    """One line of the table, one result."""
    # Warms up, and tells how many repetitions make a sample.
    repetitions = []
    for worker in workers:
        sample(worker, request, flop, 1)
        rate, _ = sample(worker, request, flop, 1)
        repetitions.append(max(1, round(args.seconds * rate * 1e9 / flop)))
    rates, peaks = [[] for _ in workers], []
    for _ in range(args.rounds):
        for worker, n, own in zip(workers, repetitions, rates):
            rate, peak = sample(worker, request, flop, n)
            own.append(rate)
            peaks.append(peak)
    ours, torch = map(median, rates)
    peak = max(peaks)
    line = [
        label,
        f"{ours:.0f}",
        f"{min(rates[0]):.0f}..{max(rates[0]):.0f}",
        f"{ours / peak:.0%}" if peak else "",
        f"{torch:.0f}",
        f"{min(rates[1]):.0f}..{max(rates[1]):.0f}",
        f"{ours / torch:.2f}",
    ]
    harness.note(f"{label}: ours {ours:.0f}, PyTorch {torch:.0f} GFLOP/s")
    return line, harness.result(f"kernels {label}", "GFLOP/s", ours, "PyTorch", torch) | {"peak": round(peak, 1)}


def main():
    args = options()
    ours = shlex.split(args.ours) if args.ours else [harness.build_example("elmwood-engine", "kernels")]
    threads = ["--threads", str(args.threads)]
    torch = [sys.executable, "-B", str(harness.HERE / "peers" / "torch_kernels.py")]
    workers = [
        harness.Worker("ours", ours + threads),
        harness.Worker("PyTorch", torch + threads, harness.allocator()),
    ]
    lines, results = [], []
    for label, request, flop in samples(args):
        line, result = measure(args, workers, label, request, flop)
        lines.append(line)
        results.append(result)
    for worker in workers:
        worker.quit()
    harness.heading("kernels", [harness.describe(worker.ready) for worker in workers])
    harness.table(["", "ours GFLOP/s", "range", "of peak", "PyTorch GFLOP/s", "range", "ours / it"], lines)
    print(
        f"\nMedian of {args.rounds} samples of about {args.seconds} s, {args.threads} threads. Squares: X Wᵀ (forward), "
        "dY W (input), dYᵀ X added to a sum (weight). Attention: causal, heads x width x tokens; two products forward, "
        "five backward, half of each. Peak: the bare kernel around each sample, the largest of them.\n"
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
