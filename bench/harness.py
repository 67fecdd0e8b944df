"""What all benchmarks share: building ours, talking to workers, alternating rounds, tables, the machine's name.

A worker is a process that speaks JSON lines; `bench/README.md` has the protocol.
"""

import atexit
import datetime
import json
import os
import platform
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = HERE / ".peers"
FLAGS = ["avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve"]


def fail(message):
    sys.exit(f"bench: {message}")


def note(message):
    print(f"bench: {message}", file=sys.stderr, flush=True)


# --- ours -----------------------------------------------------------------------------------------------------------


def build_example(package, example):
    """Builds a cargo example in release mode and returns its path."""
    return build(["--package", package, "--example", example], f"examples/{example}")


def build_command():
    """Builds the `elmwood` command in release mode and returns its path."""
    return build(["--package", "elmwood"], "elmwood")


def build(options, made):
    if shutil.which("cargo") is None:
        fail("cargo is missing; install Rust, or give another worker with --ours")
    command = ["cargo", "build", "--release", *options]
    note(" ".join(command))
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode != 0:
        fail(f"`{' '.join(command)}` failed; see above")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return str(ROOT / target / "release" / made)


# --- peers ----------------------------------------------------------------------------------------------------------


def build_peer(name):
    """Builds the Rust peer `bench/peers/NAME` into `bench/.peers/NAME` and returns its path."""
    if shutil.which("cargo") is None:
        fail(f"cargo is missing, which builds {name}; install Rust, or leave that peer out")
    folder, target = HERE / "peers" / name, PEERS / name
    command = ["cargo", "build", "--release", "--locked"]
    note(f"{' '.join(command)} in {folder.relative_to(ROOT)}; some minutes the first time")
    # In its folder, for the sake of its .cargo/config.toml.
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    if subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr).returncode != 0:
        fail(f"`{' '.join(command)}` failed in {folder.relative_to(ROOT)}; see above")
    return str(target / "release" / name)


def allocator():
    """Another allocator, since glibc's gives large buffers back and pays for their pages in every step."""
    libraries = sorted(PEERS.glob("lib/python*/site-packages/cmeel.prefix/lib/libmimalloc.so"))
    if not libraries:
        fail("mimalloc is missing from bench/.peers; remove that folder and run again")
    return {"LD_PRELOAD": str(libraries[0]), "MIMALLOC_PURGE_DELAY": "-1"}


# --- workers --------------------------------------------------------------------------------------------------------


class Worker:
    """A running worker that has warmed up; `ready` is what it said of itself.

    Between requests the process is stopped by signal, so that threads which wait by spinning take nothing from the others.
    """

    def __init__(self, label, command, environment=None, ready_secs=900, round_secs=600):
        self.label, self.round_secs = label, round_secs
        self.errors = tempfile.TemporaryFile()
        note(f"starting {label}: {shlex.join(command)}")
        try:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | (environment or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
            )
        except OSError as error:
            fail(f"{label} cannot be started: {error}")
        atexit.register(self.process.kill)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.ready = self._answer(ready_secs, {"ready"})
        self.process.send_signal(signal.SIGSTOP)

    def go(self, steps):
        """Runs `steps` steps; what the worker reports of them."""
        return self.ask(f"go {steps}", {"seconds", "tokens", "loss"})

    def ask(self, request, fields):
        """Sends one line; the answer, which has all of `fields`."""
        self.process.send_signal(signal.SIGCONT)
        self._send(request)
        answer = self._answer(self.round_secs, fields)
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def quit(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self._send("quit")
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _send(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            self._give_up("ended before its time")

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _answer(self, seconds, fields):
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            self.process.kill()
            self._give_up(f"gave no answer for {seconds} s")
        if line is None:
            self._give_up(f"ended with status {self.process.wait()}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not fields <= answer.keys():
            self.process.kill()
            self._give_up(f"should answer with a line of JSON with {', '.join(sorted(fields))}, not {line.strip()!r}")
        return answer

    def _give_up(self, reason):
        self.errors.seek(0)
        tail = self.errors.read().decode(errors="replace").splitlines()[-15:]
        fail("\n".join([f"{self.label} {reason}", *(f"    {line}" for line in tail)]))


def alternate(workers, steps, rounds):
    """Every worker in turn, `rounds` times over, each with its number of steps: one list of reports for each worker."""
    reports = [[] for _ in workers]
    for number in range(rounds):
        rates = []
        for worker, n, report in zip(workers, steps, reports):
            report.append(worker.go(n))
            rates.append(f"{worker.label} {report[-1]['tokens'] / report[-1]['seconds']:.0f}")
        note(f"round {number + 1} of {rounds}, tokens/s: {', '.join(rates)}")
    return reports


def rates(reports):
    """Tokens a second of each round."""
    return [report["tokens"] / report["seconds"] for report in reports]


# --- reports --------------------------------------------------------------------------------------------------------


def machine():
    """Processor, the instruction sets that matter, cores."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    found = {key: value for key, value in re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)}
    have = (found.get("flags") or found.get("Features") or "").split()
    model = " ".join(found.get("model name", platform.processor() or platform.machine()).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {' '.join(flag for flag in FLAGS if flag in have)}"


def heading(bench, versions):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    print(f"\n{bench}, {now}\n{machine()}\n{', '.join(versions)}\nbench/run {bench} {shlex.join(sys.argv[1:])}\n")


def describe(ready):
    """A worker's name and version, as far as it tells them."""
    return " ".join(str(ready[key]) for key in ("name", "system", "version", "isa") if key in ready) or "ours"


def table(header, rows):
    """A Markdown table; the first column to the left, numbers to the right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row):
        padded = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        return "| " + " | ".join(padded) + " |"

    print(line(header))
    print("|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|")
    print("\n".join(line(row) for row in rows), flush=True)


def result(bench, unit, ours, peer, peer_value, digits=1, less=False):
    """One object of the last line; `ratio` above 1 says that we are ahead, with `less` where less is better."""
    return {
        "bench": bench,
        "unit": unit,
        "ours": round(ours, digits),
        "peer": peer,
        "peer_value": round(peer_value, digits),
        "ratio": round(peer_value / ours if less else ours / peer_value, 3),
        "machine": machine(),
    }
