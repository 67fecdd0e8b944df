"""What quantising costs: perplexity of files that we and llama.cpp quantise from the same weights, by both programs."""

import argparse
import json
import math
import os
import shlex
import struct
import subprocess
from pathlib import Path

import harness
import infer
import numpy as np

TYPES = "Q8_0,Q6_K,Q5_K_M,Q5_K_S,Q4_K_M,Q4_K_S,IQ4_XS,Q4_0,Q3_K_M,Q2_K"
WINDOW = 512
FOLDER = harness.HERE / ".runs" / "quantise"
# Every row of every matrix is a whole number of blocks of 256, so that all types are used as they are.
RECIPE = """
name = "k256"
seed = 1
[source]
kind = "rust-docs"
pages = 3000
[tokenizer]
vocab_size = 4096
[model]
model_dim = 256
num_transformer_layers = 8
head_dim = 64
num_gqa_groups = 2
qkv_multipliers = [1.0, 1.0]
ffn_multipliers = [1.0, 4.0]
ffn_dim_divisor = 256
[train]
dtype = "bf16"
seq_len = 512
batch_rows = 4
tokens = 1_000_000
optimizer = "muon"
muon_lr = 6e-3
muon_momentum = 0.8
lr = 4e-3
weight_decay = 0.3
beta2 = 0.99
warmup_steps = 40
"""


def options():
    parser = argparse.ArgumentParser(prog="bench/run quantise", description=__doc__)
    parser.add_argument("--types", default=TYPES, help="with commas (default %(default)s)")
    parser.add_argument("--windows", type=int, default=24, help=f"of {WINDOW} tokens (default %(default)s)")
    parser.add_argument("--model", type=Path, help="a model's folder or GGUF file in place of one trained for this")
    parser.add_argument("--text", type=Path, help="the text to score, with --model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours", metavar="COMMAND", help="another build of the `elmwood` command")
    parser.add_argument("--llama", metavar="COMMAND", help="another build of bench/peers/llama_cpp")
    args = parser.parse_args()
    if bool(args.model) != bool(args.text):
        parser.error("--model and --text go together")
    args.types = args.types.split(",")
    return args


def trained(ours):
    """A small model, some minutes in the making, and text that it has not seen; made once."""
    recipe, text, run = FOLDER / "k256.toml", FOLDER / "held_out.txt", FOLDER / "runs" / "k256"
    FOLDER.mkdir(parents=True, exist_ok=True)
    recipe.write_text(RECIPE)
    harness.note("training a small model; some minutes the first time")
    infer.checked([*ours, "grow", recipe, "--runs", FOLDER / "runs", "--quiet"], FOLDER)
    if not text.exists():
        ids = "\n".join(map(str, held_out_ids(run / "pack" / "held_out.safetensors")))
        decoded = subprocess.run([*ours, "tokenizer", "decode", run / "model"], input=ids, capture_output=True, text=True)
        text.write_text(decoded.stdout)
    return run / "model", text


def held_out_ids(path):
    """All tokens of a file of rows."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    tokens = json.loads(data[8 : 8 + size])["tokens"]
    begin, end = tokens["data_offsets"]
    return np.frombuffer(data[8 + size + begin : 8 + size + end], {"U16": "<u2", "U32": "<u4"}[tokens["dtype"]])


class Scores:
    """A text, to be scored by both programs."""

    def __init__(self, args, ours, llama, model, text):
        self.args, self.ours, self.llama, self.text = args, ours, llama, text
        encoded = infer.checked([*ours, "tokenizer", "encode", model, "--file", text, "--bos"], FOLDER)
        ids = json.loads(encoded)
        self.windows = [ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW + 1, WINDOW)][: args.windows]
        self.bos = ids[0]

    def by_ours(self, path):
        """Perplexity and its standard error."""
        more = ["--file", self.text, "--context", WINDOW, "--chunks", self.args.windows, "--threads", self.args.threads]
        answer = json.loads(infer.checked([*self.ours, "perplexity", path, *more, "--json", "--quiet"], FOLDER))
        return answer["perplexity"], answer["standard_error"]

    def by_llama(self, path):
        """The same from llama.cpp's logits, by the definition of its own program."""
        total = count = 0
        for window in self.windows:
            ids, logits = FOLDER / "window.ids", FOLDER / "window.logits"
            ids.write_text(" ".join(map(str, [self.bos, *window[1:]])))
            more = ["--ids", ids, "--out", logits, "--weights", "plain", "--threads", self.args.threads]
            infer.checked([*self.llama, "logits", path, *more], FOLDER)
            rows = np.fromfile(logits, np.float32).reshape(WINDOW, -1).astype(np.float64)[WINDOW // 2 : -1]
            largest = rows.max(1)
            targets = rows[np.arange(len(rows)), window[WINDOW // 2 + 1 :]]
            total += (np.log(np.exp(rows - largest[:, None]).sum(1)) + largest - targets).sum()
            count += len(rows)
        return math.exp(total / count)


def main():
    args = options()
    ours = shlex.split(args.ours) if args.ours else [harness.build_command()]
    llama = shlex.split(args.llama) if args.llama else [infer.build_llama()]
    model, text = (args.model.resolve(), args.text.resolve()) if args.model else trained(ours)
    FOLDER.mkdir(parents=True, exist_ok=True)
    whole = FOLDER / "f32.gguf"
    infer.checked([*ours, "convert", model, whole, "--quant", "f32", "--force", "--quiet"], FOLDER)
    scores = Scores(args, ours, llama, whole, text)
    (base, error), base_llama = scores.by_ours(whole), scores.by_llama(whole)
    lines = [["F32", "32.00", f"{base:.4f}", "", f"{base_llama:.4f}", "", ""]]
    results = [harness.result("quantise F32", "perplexity", base, "llama.cpp", base_llama, 4, less=True)]
    for kind in args.types:
        own, theirs = FOLDER / "ours.gguf", FOLDER / "llama.gguf"
        converted = [*ours, "convert", whole, own, "--quant", kind, "--force", "--json", "--quiet"]
        bits = json.loads(infer.checked(converted, FOLDER))["bits_per_weight"]
        infer.checked([*llama, "quantize", whole, theirs, kind, "--threads", args.threads], FOLDER)
        a, b = scores.by_ours(own)[0], scores.by_ours(theirs)[0]
        c, d = scores.by_llama(own), scores.by_llama(theirs)
        harness.note(f"{kind}: by ours {a:.4f} and {b:.4f}, by llama.cpp {c:.4f} and {d:.4f}")
        lines.append([kind, f"{bits:.2f}", f"{a:.4f}", f"{b:.4f}", f"{c:.4f}", f"{d:.4f}", f"{c / d - 1:+.2%}"])
        results.append(harness.result(f"quantise {kind}", "perplexity", c, "llama.cpp", d, 4, less=True))
    harness.heading("quantise", ["perplexity, lower is better"])
    print(f"{len(scores.windows)} windows of {WINDOW} tokens; the standard error of each number is {error:.2f}\n")
    header = ["type", "bits", "ours by ours", "llama.cpp's by ours", "ours by llama.cpp", "llama.cpp's by it", "ours to its"]
    harness.table(header, lines)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
