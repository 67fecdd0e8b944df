"""How a training step of ours scales: with threads, length of the sequence and size of the model, beside its floor."""

import argparse
import json
import os
import shlex
import subprocess
from statistics import median

import harness

HEAD_DIM, VOCAB, FFN_RATIO = 64, 8192, 3
# Name, width, layers. Below 30 million parameters the embedding takes a third or more.
SIZES = [("1M", 64, 8), ("3M", 128, 9), ("10M", 256, 9), ("30M", 512, 8), ("100M", 768, 12), ("300M", 1024, 21)]
BASE = ("30M", 512, 8)
SEQUENCES = [512, 1024, 2048, 4096, 8192]


def options():
    parser = argparse.ArgumentParser(prog="bench/run scaling", description=__doc__)
    parser.add_argument("--rows", default="threads,sequence,size", help="groups, with commas (default %(default)s)")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each worker (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, up to 30M parameters and 2,048 tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", metavar="COMMAND", help="another worker in place of ours; it gets the same options")
    args = parser.parse_args()
    args.rows = args.rows.split(",")
    if set(args.rows) - {"threads", "sequence", "size"} or args.rounds < 1 or args.threads < 1:
        parser.error("--rows takes threads, sequence and size; --rounds and --threads are at least 1")
    args.rounds = min(args.rounds, 3) if args.quick else args.rounds
    return args


class Point:
    """One measurement: a model, a batch, a number of threads; and what a step of it needs."""

    def __init__(self, label, size, rows, seq, threads):
        self.label, self.rows, self.seq, self.threads = label, rows, seq, threads
        _, self.dim, self.layers = size
        self.tokens = rows * seq
        ffn = FFN_RATIO * self.dim
        weights = VOCAB * self.dim + self.layers * (4 * self.dim**2 + 3 * self.dim * ffn)
        self.parameters = weights + self.layers * (2 * self.dim + 2 * HEAD_DIM) + self.dim
        # As in `train.py`: 6 for every weight, and the causal half of attention's two products.
        self.flop = self.tokens * (6 * weights + 6 * seq * self.dim * self.layers)

    def bytes(self, dtype):
        """What has to pass through memory at the least if nothing stays in a cache from one phase to the next.

        44 a parameter, all of them f32: the weight read forward and backward (8), the gradient written and read for its
        norm (8), AdamW reading gradient, weight and two moments and writing back all but the gradient (28). Of each
        layer's activations what the way back needs, written and read: the inputs of both norms, of the output
        projection, q, k and v (6 widths of the model), gate, up and their product (3 of the feed-forward network).
        """
        value = 4 if dtype == "f32" else 2
        return 44 * self.parameters + 2 * value * self.tokens * self.layers * self.dim * (6 + 3 * FFN_RATIO)

    def floor(self, dtype, peak_gflops, bandwidth_gbs):
        """Seconds a step takes at the least, and what sets them."""
        compute, memory = self.flop / peak_gflops / 1e9, self.bytes(dtype) / bandwidth_gbs / 1e9
        return max((compute, "FLOP"), (memory, "memory"))


def points(args):
    """The groups of measurements; those of one group alternate."""
    if "threads" in args.rows:
        counts = sorted({1, *(2**i for i in range(1, 8) if 2**i < args.threads), args.threads})
        yield [Point(f"{n} thread{'s' if n > 1 else ''}", BASE, 4, 512, n) for n in counts]
    if "sequence" in args.rows:
        yield [Point(f"1 x {n}", BASE, 1, n, args.threads) for n in SEQUENCES if n <= 2048 or not args.quick]
    if "size" in args.rows:
        sizes = [size for size in SIZES if size[1] <= 512 or not args.quick]
        yield [Point(size[0], size, 4, 512, args.threads) for size in sizes]


def machine_rates(ours, dtype, threads):
    """GFLOP/s of the bare kernel and GB/s of memory; from a process of its own, as this takes memory itself."""
    command = [*ours, "--floor", "--dtype", dtype, "--threads", str(threads)]
    output = subprocess.run(command, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True).stdout
    try:
        answer = json.loads(output)
        return answer["peak_gflops"], answer["bandwidth_gbs"]
    except (ValueError, KeyError):
        harness.fail(f"`{shlex.join(command)}` should print peak_gflops and bandwidth_gbs, not {output.strip()!r}")


def measure(args, ours, group):
    """Lines of the table and of the results, and what the machine gives to each number of threads."""
    workers = []
    for point in group:
        command = [*ours, "--dtype", args.dtype, "--threads", str(point.threads), "--dim", str(point.dim)]
        command += ["--layers", str(point.layers), "--rows", str(point.rows), "--seq", str(point.seq)]
        workers.append(harness.Worker(point.label, command))
        if workers[-1].ready.get("parameters", point.parameters) != point.parameters:
            harness.fail(f"{point.label} has {workers[-1].ready['parameters']} parameters, not {point.parameters}")
    # So many that a round of a small model is long enough to be timed.
    first = [worker.go(1) for worker in workers]
    steps = [max(1, round(0.5 / report["seconds"])) for report in first]
    counts = sorted({point.threads for point in group})
    before = {n: machine_rates(ours, args.dtype, n) for n in counts}
    reports = harness.alternate(workers, steps, args.rounds)
    # The larger ones: neighbours only take away.
    given = {n: tuple(map(max, before[n], machine_rates(ours, args.dtype, n))) for n in counts}
    lines, results = [], []
    for point, worker, report in zip(group, workers, reports):
        worker.quit()
        rates = sorted(harness.rates(report))
        rate = median(rates)
        seconds = point.tokens / rate
        floor, limit = point.floor(args.dtype, *given[point.threads])
        lines.append(
            [
                point.label,
                f"{point.parameters / 1e6:.1f}",
                f"{rate:.0f}",
                f"{rates[0]:.0f}..{rates[-1]:.0f}",
                f"{point.flop / seconds / 1e9:.0f}",
                f"{seconds * 1e3:.1f}",
                f"{floor * 1e3:.1f}",
                limit,
                f"{floor / seconds:.0%}",
                f"{report[-1]['peak_rss_bytes'] / 2**20:.0f}",
            ]
        )
        name = f"scaling {args.dtype} {point.label}"
        results.append(harness.result(name, "tokens/s", rate, f"floor ({limit})", point.tokens / floor))
    return lines, results, given


def main():
    args = options()
    ours = shlex.split(args.ours) if args.ours else [harness.build_example("elmwood-train", "train_step")]
    lines, results, given = [], [], {}
    for group in points(args):
        more_lines, more_results, more_given = measure(args, ours, group)
        lines, results = lines + more_lines, results + more_results
        for n, rates in more_given.items():
            given[n] = tuple(map(max, given.get(n, rates), rates))
    harness.heading("scaling", [f"ours, {args.dtype}"])
    header = ["", "M params", "tokens/s", "range", "GFLOP/s", "ms a step", "floor ms", "set by", "share", "peak MiB"]
    harness.table(header, lines)
    rates = (f"{peak:.0f} GFLOP/s and {memory:.1f} GB/s with {n}" for n, (peak, memory) in sorted(given.items()))
    print(
        f"\nMedian of {args.rounds} rounds; 4 x 512 tokens a step and {args.threads} threads where the row does not "
        f"say otherwise. Floor: the larger of FLOPs over the bare kernel's rate and bytes over the memory's, "
        f"measured around each group (at most {', '.join(rates)} threads).\n"
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
