"""Local inference of a quantised Phi-3-mini, and of a model of 260,000 weights; against llama.cpp, candle and plain C."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import harness
from peers import make_phi3, make_stories

ROWS = ["prompt", "generate", "depth", "load", "plain"]
PEERS = ["llama", "candle", "plain"]
PROMPT, GENERATED, DEPTH, DEEP, DEEP_GENERATED = 512, 128, 512, 4096, 32
STORIES_TOKENS = 200
# Bytes of one number in the cache of keys and values.
KV_BYTES = {"f16": 2, "q8_0": 34 / 32, "int8": 1 + 4 / 96}
# Tokens that Phi-3-mini sees, if a program has its window: llama.cpp looks at all.
WINDOW = 2047
# Data that is beside the repository, where it is there.
STORIES = harness.ROOT.parent / "shared" / "data" / "models"
# The slow row is measured fewer times.
DEEP_ROUNDS = 3
# llama.cpp's weights come from malloc, which takes large pages only if told to: a fifth more tokens a second.
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclass
class Runner:
    """One program in one row: what it is called, how it is started, what its answers are."""

    label: str
    command: list
    environment: dict = field(default_factory=dict)
    kv: str = "f16"
    answers: list = field(default_factory=list)

    def run(self):
        """One process: its JSON, with the seconds from its start to that line."""
        start = time.monotonic()
        environment = os.environ | self.environment
        with subprocess.Popen(
            self.command, cwd=harness.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            line = process.stdout.readline()
            seconds = time.monotonic() - start
            _, errors = process.communicate()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if process.returncode != 0 or not isinstance(answer, dict):
            tail = "\n".join(f"    {text}" for text in errors.splitlines()[-15:])
            harness.fail(f"`{shlex.join(self.command)}` ended with {process.returncode} after {line.strip()!r}\n{tail}")
        self.answers.append(answer | {"seconds": seconds})

    def values(self, row):
        """Tokens a second, or milliseconds to the first token, of every round."""
        if row.name == "load":
            return sorted(answer["seconds"] * 1e3 for answer in self.answers)
        return sorted(answer["tokens_per_sec"] for answer in self.answers)

    def largest(self, name):
        return max((answer.get(name, 0) for answer in self.answers), default=0)


@dataclass
class Row:
    """What is measured, and what a token of it needs."""

    name: str
    label: str
    model: Path
    runners: list
    gop: float = 0.0
    depth: int = 0


def options():
    parser = argparse.ArgumentParser(prog="bench/run infer", description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help="what to measure, with commas (default %(default)s)")
    parser.add_argument("--peers", default=",".join(PEERS), help="(default %(default)s; plain C has one row)")
    parser.add_argument("--types", default="Q4_K_M", help=f"of {', '.join(make_phi3.RECIPES)} (default %(default)s)")
    parser.add_argument("--layers", type=int, default=make_phi3.LAYERS, help="of Phi-3-mini's (default %(default)s)")
    parser.add_argument("--weights", default="amx,repack,plain", help="layouts of llama.cpp (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each program, at least 3 (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", metavar="COMMAND", help="another program in place of ours; it gets the same options")
    parser.add_argument("--peers-only", action="store_true", help="leave ours out")
    args = parser.parse_args()
    for name, allowed in (("rows", ROWS), ("peers", PEERS), ("types", make_phi3.RECIPES)):
        chosen = [word for word in getattr(args, name).split(",") if word]
        if set(chosen) - set(allowed):
            parser.error(f"--{name} takes {', '.join(allowed)}")
        setattr(args, name, chosen)
    args.weights = args.weights.split(",")
    if args.rounds < 3 or args.threads < 1:
        parser.error("--rounds is at least 3, --threads at least 1")
    return args


# --- programs -------------------------------------------------------------------------------------------------------


def build_llama():
    """Builds llama.cpp from crates.io's copy of its sources, and our program on it; the program's path."""
    folder, target, tools = harness.HERE / "peers" / "llama_cpp", harness.PEERS / "llama_cpp", harness.PEERS / "bin"
    for tool in ("cargo", "g++"):
        if shutil.which(tool) is None:
            harness.fail(f"{tool} is missing, which llama.cpp's build needs; install it, or leave `llama` out of --peers")
    packages = json.loads(checked(["cargo", "metadata", "--locked", "--format-version", "1"], folder))["packages"]
    manifest = next(package["manifest_path"] for package in packages if package["name"] == "llama-cpp-sys-2")
    harness.note("building llama.cpp; some minutes the first time")
    cmake = [tools / "cmake", "-S", folder, "-B", target, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
    checked([*cmake, f"-DLLAMA_CPP={Path(manifest).parent / 'llama.cpp'}"], folder)
    # Two at once: its largest sources take a gigabyte each to compile.
    checked(["nice", "-n", "19", tools / "ninja", "-C", target, "-j", "2", "llama_peer"], folder)
    return str(target / "llama_peer")


def build_plain(name, flags):
    """Compiles the plain C program with these flags; its path."""
    target = harness.PEERS / "llama2_plain" / name
    target.parent.mkdir(exist_ok=True)
    source = harness.HERE / "peers" / "llama2_plain" / "run.c"
    checked([os.environ.get("CC", "gcc"), "-std=gnu11", *flags, source, "-o", target, "-lm"], harness.ROOT)
    return str(target)


def checked(command, folder):
    """Runs a command to its end; its output."""
    command = list(map(str, command))
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        harness.fail(f"`{shlex.join(command)}` cannot be started: {error}")
    if ended.returncode != 0:
        harness.fail(f"`{shlex.join(command)}` failed:\n{(ended.stdout + ended.stderr)[-4000:]}")
    return ended.stdout


class Programs:
    """Every program that was asked for, built, with the runner it makes for one measurement."""

    def __init__(self, args):
        self.args = args
        self.own = None
        if not args.peers_only:
            self.own = shlex.split(args.ours) if args.ours else [harness.build_example("elmwood-infer", "infer")]
        self.llama_path = build_llama() if "llama" in args.peers else None
        self.candle_path = harness.build_peer("candle_infer") if "candle" in args.peers else None

    def ours(self, mode, model, *more, kv="f16"):
        """None or one; the only place that knows how our program is called."""
        if self.own:
            command = [*self.own, mode, str(model), *map(str, more), "--threads", str(self.args.threads)]
            yield Runner("ours", [*command, "--cache", "bf16" if kv == "f16" else kv], kv=kv)

    def llama(self, mode, model, *more, weights=None, kv="f16", threads=None):
        """One for each layout of weights."""
        for layout in (weights or self.args.weights) if self.llama_path else []:
            command = [self.llama_path, mode, str(model), *map(str, more), "--weights", layout, "--kv", kv]
            # What is faster, as `bench/README.md` has it; a cache in 8 bits needs flash attention.
            command += ["--flash", "off" if mode == "generate" and kv == "f16" else "on"]
            label = f"llama.cpp {layout}" + (f", {kv} cache" if kv != "f16" else "")
            yield Runner(label, [*command, "--threads", str(threads or self.args.threads)], LARGE_PAGES, kv)

    def candle(self, mode, model, *more):
        if self.candle_path:
            environment = harness.allocator() | {"RAYON_NUM_THREADS": str(self.args.threads)}
            yield Runner("candle", [self.candle_path, mode, str(model), *map(str, more)], environment)


# --- rows -----------------------------------------------------------------------------------------------------------


def phi3(kind, layers):
    """The file of this type, written on first use, and read once so that it lies in memory."""
    path = harness.PEERS / "models" / f"phi3-mini-{kind}{'' if layers == make_phi3.LAYERS else f'-{layers}'}.gguf"
    if not path.exists():
        harness.note(f"writing {path.relative_to(harness.ROOT)}")
        make_phi3.write(path, kind, layers)
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
    return path


def phi3_rows(args, programs, kind):
    """Prompt, generation, generation at depth, and load, of one type of file."""
    model = phi3(kind, args.layers)
    # Operations of matrix products in one token of a prompt; the output matrix is for the last token only.
    layer = 4 * make_phi3.HIDDEN**2 + 3 * make_phi3.HIDDEN * make_phi3.FFN
    gop = 2 * args.layers * layer / 1e9

    def row(name, label, mode, *more, candle=True, kv="f16", **settings):
        llama = list(programs.llama(mode, model, *more))
        runners = [*programs.ours(mode, model, *more, kv=kv), *llama]
        return Row(name, label, model, runners + (list(programs.candle(mode, model, *more)) if candle else []), **settings)

    if "prompt" in args.rows:
        yield row("prompt", f"{kind} prompt {PROMPT}", "prompt", "--tokens", PROMPT, gop=gop)
    if "generate" in args.rows:
        more = ("--depth", DEPTH, "--tokens", GENERATED)
        yield row("generate", f"{kind} generate {GENERATED} at {DEPTH}", "generate", *more, depth=DEPTH + GENERATED // 2)
    if "depth" in args.rows:
        # candle's table of rotations ends with the context length, at 4,096.
        more = ("--depth", DEEP, "--tokens", DEEP_GENERATED)
        label, depth = f"{kind} generate {DEEP_GENERATED} at {DEEP}", DEEP + DEEP_GENERATED // 2
        deep = row("depth", label, "generate", *more, candle=False, kv="int8", depth=depth)
        # The smaller cache in the layout that comes first; to try it in all would take long.
        deep.runners += programs.llama("generate", model, *more, weights=args.weights[:1], kv="q8_0")
        yield deep
    if "load" in args.rows:
        yield row("load", f"{kind} load", "load")


def stories_row(args, programs):
    """The small model, one thread each; every program must write the same text."""
    source, tokenizer = STORIES / "stories260K.bin", STORIES / "tok512.bin"
    if not source.exists():
        harness.note(f"row `plain` skipped: there is no {source}")
        return
    model = harness.PEERS / "models" / "stories260K.gguf"
    model.parent.mkdir(exist_ok=True)
    make_stories.write(source, tokenizer, model)
    runners = [*programs.ours("plain", model, "--tokens", STORIES_TOKENS)]
    if "plain" in args.peers:
        for label, flags in (("plain C -O3", ["-O3"]), ("plain C -Ofast", ["-Ofast", "-march=native"])):
            path = build_plain(label.split("-")[-1], flags)
            # Twenty times over, from the token that begins a text.
            runners.append(Runner(label, [path, str(source), str(STORIES_TOKENS), "20", "1"]))
    begin = harness.PEERS / "models" / "begin.ids"
    begin.write_text("1\n")
    more = ("--depth", 1, "--tokens", STORIES_TOKENS)
    runners += programs.llama("generate", model, *more, weights=["plain"], threads=1)
    # Measured by the caller, who then comes back here.
    yield Row("plain", f"260K generate {STORIES_TOKENS}", model, runners)
    texts = [answer["ids"] for runner in runners for answer in runner.answers if "ids" in answer]
    for runner in programs.llama("greedy", model, "--ids", begin, "--tokens", STORIES_TOKENS, weights=["plain"]):
        runner.run()
        texts.append(runner.answers[0]["ids"])
    if any(text != texts[0] for text in texts):
        harness.fail(f"the programs do not write the same text of {model.name}: {texts}")


def weight_bytes(kind, layers):
    """What every generated token reads: all but the embedding, of which it is one row."""
    tensors = make_phi3.tensors_of(kind, layers)
    return sum(make_phi3.n_bytes(shape, form) for name, shape, form, _ in tensors if name != "token_embd.weight")


# --- reports --------------------------------------------------------------------------------------------------------


def measure(args, row):
    """Every program in turn, `rounds` times over."""
    rounds = min(args.rounds, DEEP_ROUNDS) if row.name == "depth" else args.rounds
    for number in range(rounds):
        for runner in row.runners:
            runner.run()
        last = ", ".join(f"{runner.label} {latest(row, runner):.4g}" for runner in row.runners)
        harness.note(f"{row.label}, round {number + 1} of {rounds}: {last}")


def latest(row, runner):
    return runner.answers[-1]["seconds"] * 1e3 if row.name == "load" else runner.answers[-1]["tokens_per_sec"]


def report(args, row, kind, peaks):
    """Lines of the table and of the results. `peaks`: GOP/s and GB/s that our program measured, or zeros."""
    lines, results = [], []
    less, unit = row.name == "load", "ms" if row.name == "load" else "tokens/s"
    ours = next((runner for runner in row.runners if runner.label == "ours"), None)
    own = median(ours.values(row)) if ours else 0
    for runner in row.runners:
        values = runner.values(row)
        middle = median(values)
        rate, share = "", ""
        if row.gop:
            rate, share = f"{middle * row.gop:.0f} GOP/s", portion(middle * row.gop, peaks[0])
        elif row.depth:
            seen = min(row.depth, WINDOW) if runner is ours else row.depth
            cache = 2 * args.layers * make_phi3.HIDDEN * KV_BYTES[runner.kv] * seen
            gbs = middle * (weight_bytes(kind, args.layers) + cache) / 1e9
            rate, share = f"{gbs:.1f} GB/s", portion(gbs, peaks[1])
        mib = runner.largest("peak_mib")
        ahead = (middle / own if less else own / middle) if own and runner is not ours else 0
        memory = ours.largest("peak_mib") / mib if ahead and mib else 0
        numbers = [f"{middle:.4g}", f"{values[0]:.4g}..{values[-1]:.4g}", f"{ahead:.2f}" if ahead else "", rate, share]
        numbers += [f"{mib:.0f}", f"{memory:.2f}" if memory else ""]
        lines.append([f"{row.label}: {runner.label}", *numbers])
        if ahead:
            results.append(harness.result(f"infer {row.label}", unit, own, runner.label, middle, 3, less))
            if memory:
                name = f"infer {row.label} memory"
                results.append(harness.result(name, "MiB", ours.largest("peak_mib"), runner.label, mib, less=True))
    return lines, results


def portion(value, peak):
    return f"{value / peak:.0%}" if peak else ""


def main():
    args = options()
    programs = Programs(args)
    measured = []
    for kind in args.types:
        for row in phi3_rows(args, programs, kind):
            measure(args, row)
            measured.append((row, kind))
    if "plain" in args.rows:
        for row in stories_row(args, programs):
            measure(args, row)
            measured.append((row, None))
    own = [runner for row, _ in measured for runner in row.runners if runner.label == "ours"]
    peaks = [max((runner.largest(name) for runner in own), default=0) for name in ("int8_peak_gops", "read_gbs")]
    lines, results = [], []
    for row, kind in measured:
        more_lines, more_results = report(args, row, kind, peaks)
        lines, results = lines + more_lines, results + more_results
    harness.heading("infer", versions(programs))
    unit = "tokens/s or ms"
    harness.table(["", unit, "range", "ours / it", "rate", "of peak", "peak MiB", "ours / it"], lines)
    print(
        f"\nMedian of {args.rounds} processes each (depth {DEEP}: {min(args.rounds, DEEP_ROUNDS)}), in turn, "
        f"{args.threads} threads (260K: 1). Rate: operations of a prompt's matrix products, or the bytes of weights and "
        "cache that a generated token reads. Peak: int8 products and sequential reading as our program measures them"
        f"{f', {peaks[0]:.0f} GOP/s and {peaks[1]:.1f} GB/s' if all(peaks) else ''}. "
        "Load: from the start of the process to its first token, the file in memory.\n"
    )
    print(json.dumps(results))


def versions(programs):
    found = ["ours"] if programs.own else []
    if programs.llama_path:
        said = json.loads(checked([programs.llama_path, "system"], harness.ROOT))
        features = [part.split("=")[0].strip() for part in said["system"].split("|") if part.strip().endswith("= 1")]
        names = " ".join(name.removeprefix("CPU : ") for name in features)
        found.append(f"llama.cpp {said['version']} ({names})")
    if programs.candle_path:
        lock = (harness.HERE / "peers" / "candle_infer" / "Cargo.lock").read_text()
        found.append("candle " + lock.split('name = "candle-core"\nversion = "')[1].split('"')[0])
    return found


if __name__ == "__main__":
    main()
