"""One training step of a 31M-parameter model: forward, backward, clip, AdamW; against PyTorch, eager and compiled."""

import argparse
import json
import os
import shlex
import shutil
import sys
from statistics import median

import harness

DIM, LAYERS, HEADS, HEAD_DIM, FFN, VOCAB, SEQ, ROWS = 512, 8, 8, 64, 1536, 8192, 512, 4
# The batch stays the same, so the model soon knows it by heart, at a pace that the recipe sets. A worker whose losses lie
# elsewhere does not do the work, however fast it is. PyTorch over six seeds and types: 3.82..3.91 in the third step, 0.045..
# 0.052 in the eighth; one that never updates stays at 9.5.
WARMUP_STEPS = 2
THIRD_LOSS = (3.5, 4.3)
LAST_LOSS = 0.2
# Multiplications and additions a token, forward and backward: 6 for every weight of a matrix product (the tied output
# matrix too), and attention's two products, of which causality asks for half.
WEIGHTS = LAYERS * (4 * DIM * HEADS * HEAD_DIM + 3 * DIM * FFN) + VOCAB * DIM
FLOP_PER_TOKEN = 6 * WEIGHTS + 6 * SEQ * HEAD_DIM * HEADS * LAYERS
PARAMETERS = WEIGHTS + LAYERS * (2 * DIM + 2 * HEAD_DIM) + DIM


def options():
    parser = argparse.ArgumentParser(prog="bench/run train", description=__doc__)
    parser.add_argument("--rows", default="f32,bf16", help="types to measure, with commas (default %(default)s)")
    parser.add_argument("--peers", default="eager,compiled", help="PyTorch variants (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each worker, at least 5 (default %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps in a round (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="5 rounds of 1 step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", metavar="COMMAND", help="another worker in place of ours; --dtype and --threads are added")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps = 5, 1
    if args.rounds < 5 or args.steps < 1 or args.threads < 1:
        parser.error("--rounds is at least 5, --steps and --threads at least 1")
    args.rows, args.peers = args.rows.split(","), args.peers.split(",")
    if set(args.rows) - {"f32", "bf16"} or set(args.peers) - {"eager", "compiled"}:
        parser.error("--rows takes f32 and bf16, --peers takes eager and compiled")
    if "compiled" in args.peers and shutil.which("g++") is None:
        parser.error("torch.compile needs g++; install it, or pass --peers eager")
    return args


def torch_environment():
    """A faster allocator, since glibc's gives large buffers back and pays for their pages again in every step; and
    compiled code that is called from C++ throughout."""
    libraries = sorted(harness.PEERS.glob("lib/python*/site-packages/cmeel.prefix/lib/libmimalloc.so"))
    if not libraries:
        harness.fail("mimalloc is missing from bench/.peers; remove that folder and run again")
    return {
        "LD_PRELOAD": str(libraries[0]),
        "MIMALLOC_PURGE_DELAY": "-1",
        "TORCHINDUCTOR_CPP_WRAPPER": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(harness.PEERS / "inductor"),
    }


def start(args, ours, dtype):
    common = ["--dtype", dtype, "--threads", str(args.threads)]
    workers = [harness.Worker(f"ours {dtype}", ours + common)]
    for peer in args.peers:
        command = [sys.executable, "-B", str(harness.HERE / "peers" / "torch_train.py"), *common]
        command += ["--compile"] if peer == "compiled" else []
        workers.append(harness.Worker(f"PyTorch {peer} {dtype}", command, torch_environment()))
    return workers


def check(worker, third, report, steps):
    """The worker did the work, and learnt from it what it must."""
    if worker.ready.get("parameters", PARAMETERS) != PARAMETERS:
        harness.fail(f"{worker.label} has {worker.ready['parameters']} parameters, not {PARAMETERS}")
    if any(round["tokens"] != steps * ROWS * SEQ for round in report):
        harness.fail(f"{worker.label} did not run {steps * ROWS * SEQ} tokens in a round")
    low, high = THIRD_LOSS
    if not low <= third <= high:
        harness.fail(f"{worker.label} has loss {third:.4f} in step {WARMUP_STEPS + 1}, expected {low}..{high}")
    last = report[-1]["loss"]
    if not 0 <= last <= LAST_LOSS:
        harness.fail(f"{worker.label} ends with loss {last:.4f}, expected less than {LAST_LOSS}")


def describe(ready):
    """A worker's name and version, as far as it tells them."""
    return " ".join(str(ready[key]) for key in ("name", "system", "version", "isa") if key in ready) or "ours"


def main():
    args = options()
    ours = shlex.split(args.ours) if args.ours else [harness.build_example("elmwood-train", "train_step")]
    rows, results, versions = [], [], {}
    for dtype in args.rows:
        workers = start(args, ours, dtype)
        # One step that is not timed: its loss tells whether the model learns as it should.
        thirds = [worker.go(1)["loss"] for worker in workers]
        reports = harness.alternate(workers, args.steps, args.rounds)
        for worker, third, report in zip(workers, thirds, reports):
            worker.quit()
            check(worker, third, report, args.steps)
            versions[describe(worker.ready)] = True

        own = median(harness.rates(reports[0]))
        for worker, third, report in zip(workers, thirds, reports):
            speeds = sorted(harness.rates(report))
            middle = median(speeds)
            gflops = middle * FLOP_PER_TOKEN / 1e9
            peak = worker.ready.get("peak_gflops")
            rows.append(
                [
                    worker.label,
                    f"{middle:.0f}",
                    f"{speeds[0]:.0f}..{speeds[-1]:.0f}",
                    "" if worker is workers[0] else f"{own / middle:.2f}",
                    f"{gflops:.0f}",
                    f"{gflops / peak:.0%}" if peak else "",
                    f"{third:.2f}",
                    f"{report[-1].get('peak_rss_bytes', 0) / 2**20:.0f}",
                ]
            )
            if worker is not workers[0]:
                results.append(harness.result(f"train {dtype}", "tokens/s", own, worker.label, middle))
    harness.heading("train", versions)
    harness.table(
        ["", "tokens/s", "range", "ours / it", "GFLOP/s", "of peak", "loss 3", "MiB"],
        rows,
    )
    print(
        f"\nMedian of {args.rounds} rounds of {args.steps} steps, {ROWS} x {SEQ} tokens each, {args.threads} threads; "
        f"{FLOP_PER_TOKEN / 1e6:.1f} MFLOP a token, causal half; loss 3: of the third step, all on one batch.\n"
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
