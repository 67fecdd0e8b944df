"""AdamW against Muon on the quickstart, both tuned: the held-out loss, and how many steps Muon needs for AdamW's."""

import argparse
import json
import math
import os
import shutil
import subprocess
from statistics import mean, stdev

import harness

RUNS = harness.HERE / ".runs" / "optimizers-study"
# What a run of one step makes, and all others share: links to files that nothing ever writes to.
SHARED = ["extract", "curate", "tokenizer", "pack"]
WARMUP_SHARE = 0.05

# Each line is tried with the best of the lines above it, from where the search begins. Muon is tuned on the shorter run that
# the claim is about, and begins with what the first three lines found for AdamW.
ADAMW_START = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.1, "beta2": 0.95}
ADAMW_GRID = [
    ("lr", [1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3]),
    ("weight_decay", [0.3]),
    ("beta2", [0.99]),
    ("beta1", [0.8]),
    ("lr", [4e-3]),
]
MUON_START = {"optimizer": "muon", "lr": 2e-3, "weight_decay": 0.3, "beta2": 0.99, "muon_lr": 3e-3, "muon_momentum": 0.95}
MUON_GRID = [
    ("muon_lr", [3e-3, 6e-3, 1.2e-2]),
    ("muon_momentum", [0.975, 0.9, 0.8]),
    ("lr", [4e-3]),
]
SHARES = [0.7, 0.6, 1.0]
# How settings are called in the name of a run.
SHORT = {"lr": "lr", "weight_decay": "wd", "beta1": "a", "beta2": "b", "muon_lr": "mlr", "muon_momentum": "m"}


def options():
    parser = argparse.ArgumentParser(prog="bench/run optimizers", description=__doc__)
    parser.add_argument("--steps", type=int, default=782, help="AdamW's steps, 2,048 tokens each (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of what was found best (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--elmwood", metavar="FILE", help="the command to use; built from this tree if left out")
    args = parser.parse_args()
    if args.steps < 50 or args.seeds < 2 or args.threads < 1:
        parser.error("--steps is at least 50, --seeds 2, --threads 1")
    return args


class Study:
    """Runs that are done once: each is named after its settings, and one that was killed goes on."""

    def __init__(self, args):
        self.args, self.command = args, args.elmwood or harness.build_command()
        RUNS.mkdir(parents=True, exist_ok=True)
        corpus = RUNS / "corpus"
        if not all((corpus / stage / "stage.json").exists() for stage in SHARED):
            harness.note("making the corpus")
            self.train("corpus", {"steps": 1, "warmup_steps": 1})

    def train(self, name, settings):
        """`elmwood train`; its summary, or none if the loss became infinite or not a number."""
        settings = settings | {"threads": self.args.threads}
        sets = [f"--set=train.{key}={value}" for key, value in settings.items()]
        command = [self.command, "train", "--quiet", "--json", "--runs", str(RUNS), f"--set=name={name}", *sets]
        done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
        if "lower `lr`" in done.stderr:
            return None
        harness.fail(f"{name} failed:\n{done.stderr}")

    def run(self, settings, share=1.0, seed=1):
        """What a run of these settings over a share of the steps came to."""
        steps = round(share * self.args.steps)
        schedule = {"steps": steps, "warmup_steps": round(WARMUP_SHARE * steps), "eval_every": steps, "save_every": 200}
        name = "-".join([settings["optimizer"], *(f"{SHORT[key]}{value:g}" for key, value in settings.items() if key in SHORT)])
        name = f"{name}-n{steps}-s{seed}"
        result, folder = RUNS / f"{name}.json", RUNS / name
        if not result.exists():
            for stage in SHARED:
                if not (folder / stage).exists():
                    shutil.copytree(RUNS / "corpus" / stage, folder / stage, copy_function=os.link)
            summary = self.train(name, settings | schedule | {"seed": seed})
            loss = summary and summary["held_out_nats_per_token"]
            found = {"name": name, "settings": settings, "steps": steps, "seed": seed, "loss": loss}
            half = result.with_suffix(".tmp")
            half.write_text(json.dumps(found))
            half.rename(result)
        if folder.exists():
            shutil.rmtree(folder)
        found = json.loads(result.read_text())
        found["loss"] = math.inf if found["loss"] is None else found["loss"]
        harness.note(f"{name}: {found['loss']:.4f}")
        return found

    def tune(self, settings, grid, share=1.0):
        """The best settings that one line of the grid after the other leads to, and all runs on the way."""
        best, runs = None, []
        for key, values in grid:
            base = settings
            for value in values:
                runs.append(self.run(base | {key: value}, share))
                if best is None or runs[-1]["loss"] < best["loss"]:
                    best = runs[-1]
            settings = best["settings"]
        return settings, runs


def describe(settings):
    return ", ".join(f"{key} {settings[key]:g}" for key in SHORT if key in settings)


def main():
    args = options()
    study = Study(args)
    adamw, tried = study.tune(ADAMW_START, ADAMW_GRID)
    muon, tried_too = study.tune(MUON_START, MUON_GRID, SHARES[0])
    variants = [("AdamW", adamw, 1.0)] + [("Muon", muon, share) for share in SHARES]
    found = [[study.run(settings, share, seed + 1) for seed in range(args.seeds)] for _, settings, share in variants]
    goal = mean(run["loss"] for run in found[0])

    harness.heading("optimizers", ["elmwood"])
    rows, results = [], []
    for (name, settings, share), runs in zip(variants, found):
        label, losses = f"{name}, {share:.0%} of the steps", [run["loss"] for run in runs]
        difference = mean(losses) - goal
        row = [f"{loss:.4f}" for loss in losses] + [f"{mean(losses):.4f}", f"{stdev(losses):.4f}"]
        rows.append([label, str(runs[0]["steps"]), *row, f"{difference:+.4f}" if name == "Muon" else ""])
        if name == "Muon":
            results.append(harness.result(label, "nats/token", mean(losses), "AdamW", goal, 4, less=True))
    harness.table(["", "steps", *(f"seed {seed + 1}" for seed in range(args.seeds)), "mean", "deviation", "to AdamW"], rows)
    print(f"\nHeld-out loss, nats a token. AdamW: {describe(adamw)}. Muon: {describe(muon)}.\n\nTried, with seed 1:\n")
    cells = [
        [run["settings"]["optimizer"], str(run["steps"])]
        + [f"{run['settings'][key]:g}" if key in run["settings"] else "" for key in SHORT]
        + [f"{run['loss']:.4f}"]
        for run in tried + tried_too
    ]
    harness.table(["", "steps", *SHORT, "loss"], cells)
    print()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
