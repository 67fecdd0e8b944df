"""One training step (forward, backward, clip, AdamW) of two models; against PyTorch, candle and Burn."""

import argparse
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from statistics import median

import harness
from peers.torch_train import HEAD_DIM, SHAPES

WARMUP_STEPS = 2
GROUPS = ["f32", "bf16", "270m", "threads", "avx2"]
PEERS = ["eager", "compiled", "candle", "burn"]


class Model:
    """What a worker must report, from counts that are made here and not by a worker.

    The batch stays the same, so the model soon knows it by heart, at a pace that the recipe sets. A worker whose losses
    lie elsewhere does not do the work, however fast it is.
    """

    def __init__(self, name, third_loss, least_loss):
        self.name, self.third_loss, self.least_loss = name, third_loss, least_loss
        shape = SHAPES[name]
        self.rows, self.seq = shape.rows, shape.seq
        heads = sum(q for q, _, _ in shape.layers)
        weights = shape.vocab * shape.dim
        weights += sum(shape.dim * ((2 * q + 2 * kv) * HEAD_DIM + 3 * ffn) for q, kv, ffn in shape.layers)
        self.parameters = weights + len(shape.layers) * (2 * shape.dim + 2 * HEAD_DIM) + shape.dim
        # Multiplications and additions a token, forward and backward: 6 for every weight of a matrix product (the tied
        # output matrix too), and attention's two products, of which causality asks for half.
        self.flop_per_token = 6 * weights + 6 * shape.seq * HEAD_DIM * heads


# Everything held to eight lanes: our kernels, PyTorch's own, and the libraries that it multiplies with.
AVX2 = {
    "ELMWOOD_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
# The operators that a step is there for, as our profile calls them; what share of a step goes elsewhere is shown.
PRODUCTS = ("linear:", "head:", "attention:")

# The small model in PyTorch over six seeds and types: 3.82..3.91 in the third step, 0.045..0.052 in the eighth; one that
# never updates stays at 9.5. The large one jumps at this rate: 9.8..10.7 in the third step, 7.7..8.0 in the eighth, and
# single steps above 11 between; one that never updates stays at 10.4.
SMALL = Model("36m", third_loss=(3.5, 4.3), least_loss=0.2)
LARGE = Model("openelm-270m", third_loss=(9.0, 11.5), least_loss=9.0)


@dataclass
class Row:
    """One worker of a group: what it is called, how it is started, how many steps it takes in a round."""

    label: str
    command: list
    environment: dict
    steps: int


def options():
    parser = argparse.ArgumentParser(prog="bench/run train", description=__doc__)
    parser.add_argument("--rows", default=",".join(GROUPS), help="groups to measure, with commas (default %(default)s)")
    parser.add_argument("--peers", default=",".join(PEERS), help="(default %(default)s; candle and burn have f32 only)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each worker, at least 5 (default %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="in a round; slow workers take 1 (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="5 rounds of 1 step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", metavar="COMMAND", help="another worker in place of ours; it gets the same options")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps = 5, 1
    if args.rounds < 5 or args.steps < 1 or args.threads < 1:
        parser.error("--rounds is at least 5, --steps and --threads at least 1")
    args.rows, args.peers = args.rows.split(","), [peer for peer in args.peers.split(",") if peer]
    if set(args.rows) - set(GROUPS) or set(args.peers) - set(PEERS):
        parser.error(f"--rows takes {', '.join(GROUPS)}, --peers takes {', '.join(PEERS)}")
    if args.rows != ["threads"] and "compiled" in args.peers and shutil.which("g++") is None:
        parser.error("torch.compile needs g++; install it, or leave `compiled` out of --peers")
    if "threads" in args.rows and args.threads == 1:
        parser.error("--rows threads needs --threads of at least 2")
    return args


def torch_row(args, compiled, model, dtype, steps):
    command = [sys.executable, "-B", str(harness.HERE / "peers" / "torch_train.py")]
    command += ["--model", model.name, "--dtype", dtype, "--threads", str(args.threads)]
    # Compiled code is called from C++ throughout.
    environment = {"TORCHINDUCTOR_CPP_WRAPPER": "1", "TORCHINDUCTOR_CACHE_DIR": str(harness.PEERS / "inductor")}
    if compiled:
        command.append("--compile")
    label = f"PyTorch {'compiled' if compiled else 'eager'} {dtype}"
    return Row(label, command, harness.allocator() | environment, steps)


def rust_row(args, name, label):
    path = harness.build_peer(f"{name}_train")
    return Row(f"{label} f32", [path], harness.allocator() | {"RAYON_NUM_THREADS": str(args.threads)}, 1)


def groups(args, ours):
    """Every group that was asked for: its name, its model, its rows with ours first."""

    def own(model, dtype, threads, steps=args.steps):
        command = [*ours, "--model", model.name, "--dtype", dtype, "--threads", str(threads)]
        label = f"ours {dtype}" if threads == args.threads else f"ours {dtype}, {threads} thread"
        return Row(label, command, {}, steps)

    torch = [peer == "compiled" for peer in args.peers if peer in ("eager", "compiled")]
    if "f32" in args.rows:
        rows = [own(SMALL, "f32", args.threads)] + [torch_row(args, c, SMALL, "f32", args.steps) for c in torch]
        names = {"candle": "candle", "burn": "Burn"}
        rows += [rust_row(args, peer, names[peer]) for peer in args.peers if peer in names]
        yield "f32", SMALL, rows
    if "bf16" in args.rows:
        rows = [own(SMALL, "bf16", args.threads)] + [torch_row(args, c, SMALL, "bf16", args.steps) for c in torch]
        yield "bf16", SMALL, rows
    if "270m" in args.rows:
        rows = [own(LARGE, "bf16", args.threads, 1)] + [torch_row(args, c, LARGE, "bf16", 1) for c in torch]
        again = own(LARGE, "bf16", args.threads, 1)
        again.label, again.command = "ours bf16, recomputing", [*again.command, "--recompute"]
        rows.append(again)
        yield "270m bf16", LARGE, rows
    if "threads" in args.rows:
        for dtype in ("bf16", "f32"):
            yield f"threads {dtype}", SMALL, [own(SMALL, dtype, args.threads), own(SMALL, dtype, 1)]
    if "avx2" in args.rows:
        # Compiled by PyTorch 2.15 for AVX2, the model's loss becomes NaN in the third step: that is no peer.
        rows = [own(SMALL, "f32", args.threads), torch_row(args, False, SMALL, "f32", args.steps)]
        for row in rows:
            row.label += ", AVX2"
            row.environment |= AVX2
        yield "avx2 f32", SMALL, rows


def check(worker, model, third, report, steps):
    """The worker did the work, and learnt from it what it must."""
    expected = {"parameters": model.parameters, "flops_per_token": model.flop_per_token}
    for field, value in expected.items():
        if worker.ready.get(field, value) != value:
            harness.fail(f"{worker.label} has {field} {worker.ready[field]}, not {value}")
    if any(round["tokens"] != steps * model.rows * model.seq for round in report):
        harness.fail(f"{worker.label} did not run {steps * model.rows * model.seq} tokens in a round")
    low, high = model.third_loss
    if not low <= third <= high:
        harness.fail(f"{worker.label} has loss {third:.4f} in step {WARMUP_STEPS + 1}, expected {low}..{high}")
    losses = [round["loss"] for round in report]
    if not all(loss >= 0 for loss in losses) or min(losses) > model.least_loss:
        harness.fail(f"{worker.label} has losses {losses}, expected one of at most {model.least_loss}")


def share_outside(worker):
    """What share of our step is neither a product nor attention; None where a worker cannot tell."""
    answer = worker.ask("profile 3", {"step_ms"})
    inside = sum(ms for name, ms in answer["operators_ms"].items() if name.startswith(PRODUCTS))
    return 1 - inside / answer["step_ms"]


def measure(group, model, rows, rounds, versions):
    """Lines of the table and of the results."""
    workers = [harness.Worker(row.label, row.command, row.environment) for row in rows]
    # One step that is not timed: its loss tells whether the model learns as it should.
    thirds = [worker.go(1)["loss"] for worker in workers]
    reports = harness.alternate(workers, [row.steps for row in rows], rounds)
    lines, results = [], []
    own = median(harness.rates(reports[0]))
    own_mib = reports[0][-1].get("peak_rss_bytes", 0) / 2**20
    for row, worker, third, report in zip(rows, workers, thirds, reports):
        outside = share_outside(worker) if worker is workers[0] else None
        worker.quit()
        check(worker, model, third, report, row.steps)
        versions[harness.describe(worker.ready)] = True
        speeds = sorted(harness.rates(report))
        middle = median(speeds)
        gflops, peak = middle * model.flop_per_token / 1e9, worker.ready.get("peak_gflops")
        mib = report[-1].get("peak_rss_bytes", 0) / 2**20
        peer = worker is not workers[0]
        lines.append(
            [
                f"{row.label}, 270M" if model is LARGE else row.label,
                f"{middle:.0f}",
                f"{speeds[0]:.0f}..{speeds[-1]:.0f}",
                f"{own / middle:.2f}" if peer else "",
                f"{gflops:.0f}",
                f"{gflops / peak:.0%}" if peak else "",
                f"{outside:.0%}" if outside is not None else "",
                f"{third:.2f}",
                f"{mib:.0f}",
                f"{own_mib / mib:.2f}" if peer and mib else "",
            ]
        )
        if peer:
            results.append(harness.result(f"train {group}", "tokens/s", own, row.label, middle))
            if mib and not group.startswith("threads"):
                results.append(harness.result(f"train {group} memory", "MiB", own_mib, row.label, mib, less=True))
    return lines, results


def main():
    args = options()
    ours = shlex.split(args.ours) if args.ours else [harness.build_example("elmwood-train", "train_step")]
    lines, results, versions = [], [], {}
    for group, model, rows in groups(args, ours):
        more_lines, more_results = measure(group, model, rows, args.rounds, versions)
        lines, results = lines + more_lines, results + more_results
    harness.heading("train", versions)
    header = ["", "tokens/s", "range", "ours / it", "GFLOP/s", "of peak", "outside", "loss 3", "peak MiB", "ours / it"]
    harness.table(header, lines)
    batches = "; ".join(
        f"{model.rows} x {model.seq} tokens and {model.flop_per_token / 1e6:.1f} MFLOP a token with {model.name}"
        for model in (SMALL, LARGE)
    )
    print(
        f"\nMedian of {args.rounds} rounds of {args.steps} steps (270M, candle, Burn: 1), {args.threads} threads; "
        f"{batches}, causal half; outside: share of a step that is neither a product nor attention; "
        "loss 3: of the third step, all on one batch.\n"
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
