"""Writes tests/golden/architectures/: what Hugging Face `transformers` computes for small models of the Llama, Mistral,
Qwen 2 and Phi-3 families, and what `phi3_small_reference.py` does for Phi-3-small, for which it has no class.

Weights are not stored. Both sides make them from the name of a tensor and the index of an element, in row-major order:

    h     = splitmix64(fnv1a64(name) + index * 0x9E3779B97F4A7C15)     all in wrapping 64-bit arithmetic
    u     = (h >> 40) / 2^23 - 1                                       in [-1, 1), exact
    value = 0.25 * u                          names that end in `.bias`
            1 + 0.25 * u                      names with `norm` in them
            u                                 `model.embed_tokens.weight`
            u * sqrt(3 / fan_in)              every other; fan_in is the last dimension

computed in f64 and rounded once to f32. `splitmix64` is one step of that generator from the state h:
z = h + 0x9E3779B97F4A7C15; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; z ^ z >> 31.

Greedy tokens come from a fresh run over the whole sequence for each of them, without a cache: where the rotary factors
change with the length, that is the definition, and a cache must agree with it. The prompt is chosen among many so that
the best token always leads clearly, which makes the tokens a test that rounding cannot upset.

    python make_architectures.py [case ...]
"""

import copy
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is local: a case is its config.json

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from architecture_cases import CASES, SWITCH
from openelm_reference import save
from phi3_small_reference import Phi3Small

HERE = Path(__file__).parent / "architectures"
NEW_TOKENS = 64
PROMPTS = 256  # tried for each case
# The best token leads the second by at least this share of the largest logit: a thousand times what rounding moves.
LEAD = 5e-3
SPECIAL_TOKENS = 3  # ids below are never in a prompt


# --- weights --------------------------------------------------------------------------------------------------------

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return np.uint64(value)


def splitmix64(h):
    z = h + GOLDEN_GAMMA
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def hashes(name, count):
    return splitmix64(fnv1a64(name) + np.arange(count, dtype=np.uint64) * GOLDEN_GAMMA)


def make_tensor(name, shape):
    u = (hashes(name, np.prod(shape)) >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
    if name.endswith(".bias"):
        value = 0.25 * u
    elif "norm" in name:
        value = 1.0 + 0.25 * u
    elif name == "model.embed_tokens.weight":
        value = u
    else:
        value = u * np.sqrt(3.0 / shape[-1])
    return torch.from_numpy(value.astype(np.float32).reshape(shape))


def make_prompt(name, salt, length, vocab):
    drawn = hashes(f"{name} prompt {salt}", length) % np.uint64(vocab - SPECIAL_TOKENS)
    return torch.from_numpy(drawn.astype(np.int64)) + SPECIAL_TOKENS


# --- models ---------------------------------------------------------------------------------------------------------


def build(config):
    """The model that a config.json describes, in f32 with plain attention, and with the weights of the formula."""
    if config["model_type"] == "phi3small":
        model = Phi3Small(config)
    else:
        parsed = parse(config)
        model = AutoModelForCausalLM.from_config(parsed, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied head is not among them
            parameter.copy_(make_tensor(name, tuple(parameter.shape)))
    return model.eval()


def parse(config):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        return AutoConfig.from_pretrained(folder)


def logits_of(model, tokens):
    """[batch, seq] to [batch, seq, vocab], with nothing cached."""
    with torch.no_grad():
        if isinstance(model, Phi3Small):
            return model(tokens)
        return model(input_ids=tokens, use_cache=False).logits


def decode(model, prompts, least_lead):
    """Greedy continuations of `prompts` [batch, seq]: whole sequences [kept, seq + NEW_TOKENS] and the logits that
    chose the new tokens [kept, NEW_TOKENS, vocab]. A row is given up once its best token leads by less than
    `least_lead`."""
    sequences, rows = prompts, torch.empty(len(prompts), 0, 1)
    for _ in range(NEW_TOKENS):
        row = logits_of(model, sequences)[:, -1:]
        kept = leads(row)[:, 0] >= least_lead
        rows = torch.cat([rows.expand(-1, -1, row.shape[-1]), row], dim=1)[kept]
        sequences = torch.cat([sequences, row.argmax(-1)], dim=1)[kept]
    return sequences, rows


def leads(rows):
    """By how much the best of each row leads the next, as a share of the row's largest magnitude."""
    best = rows.topk(2).values
    return (best[..., 0] - best[..., 1]) / finite(rows).abs().amax(-1)


def finite(rows):
    return rows.masked_fill(rows.isinf(), 0.0)


def choose_prompt(name, case, model):
    """The prompt whose continuation is clear at every step and has the most different tokens."""
    vocab = case.config["vocab_size"]
    prompts = torch.stack([make_prompt(name, salt, case.prompt, vocab) for salt in range(PROMPTS)])
    clear, _ = decode(model, prompts, LEAD)
    assert len(clear), f"{name}: try more prompts"
    return max(clear, key=lambda sequence: len(sequence[case.prompt :].unique()))[: case.prompt]


# --- records --------------------------------------------------------------------------------------------------------


def check_spellings(case, model, sequence):
    """Other ways to write the same config.json: logits must be the same to the bit. Returns those to store."""
    if isinstance(model, Phi3Small):
        return {}
    spellings = {name: case.config | change for name, change in case.variants.items()}
    # As transformers itself writes it today: `rope_parameters` holds what was `rope_theta` and `rope_scaling`.
    spellings["v5"] = model.config.to_diff_dict() | {"architectures": case.config["architectures"]}
    for name, config in spellings.items():
        assert torch.equal(logits_of(build(config), sequence), logits_of(model, sequence)), name
    return spellings


def check_cache(model, prompt, sequence):
    """`generate`, which caches, must give the tokens of the fresh runs; Phi-3's starts over at the switch."""
    if isinstance(model, Phi3Small):
        return
    limits = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generated = model.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), **limits)
    assert torch.equal(generated, sequence), "generate disagrees"


def rows_at(values, logits):
    index = torch.tensor(sorted(values))
    return index.int(), logits[index].contiguous()


def describe(tensor):
    first, last = (float(str(tensor.flatten()[at].numpy())) for at in (0, -1))
    return {"shape": list(tensor.shape), "first": first, "last": last}


def record(name, case):
    model = build(case.config)
    prompt = choose_prompt(name, case, model)
    sequence, (rows,) = decode(model, prompt[None], 0.9 * LEAD)  # alone, a row is rounded a little otherwise
    greedy = sequence[0, case.prompt :]
    spellings = check_spellings(case, model, sequence)
    check_cache(model, prompt, sequence)

    golden = {"prompt": prompt.int(), "greedy": greedy.int()}
    ends = {0, 1, case.prompt // 2, case.prompt - 2, case.prompt - 1}
    golden["positions"], golden["logits"] = rows_at(ends | set(case.positions), logits_of(model, prompt[None])[0])
    golden["steps"], golden["step_logits"] = rows_at({0, 1, 31, NEW_TOKENS - 1} | set(case.steps), rows)
    if case.long_prompt:
        long_prompt = make_prompt(name, "long", case.long_prompt, case.config["vocab_size"])
        ends = {0, 1, SWITCH - 1, SWITCH, case.long_prompt - 1}
        golden["long_prompt"] = long_prompt.int()
        golden["long_positions"], golden["long_logits"] = rows_at(ends, logits_of(model, long_prompt[None])[0])

    # How far f32 is from f64 where only norms and softmax stay in f32, over every prediction that is tested.
    wide = copy.deepcopy(model).double()
    changed = {what: build(case.config | change) for what, change in case.mistakes.items()}
    about = {
        "architecture": case.config["architectures"][0],
        "torch": torch.__version__.split("+")[0],
        "transformers": None if isinstance(model, Phi3Small) else transformers.__version__,
        "smallest_lead": rounded(leads(rows).min()),
        "largest_logit": rounded(finite(rows).abs().max()),
        "f64_difference": rounded(difference(wide, sequence, rows)),
        "mistakes": {what: rounded(difference(other, sequence, rows)) for what, other in changed.items()},
        "tensors": {name: describe(parameter.detach()) for name, parameter in model.named_parameters()},
    }
    write(HERE / name, case.config, spellings, golden, about)
    figures = {key: about[key] for key in ("smallest_lead", "largest_logit", "f64_difference", "mistakes")}
    print(f"{name:20} {len(greedy.unique())} different tokens", figures, flush=True)


def difference(model, sequence, rows):
    """Largest difference from `rows`, the logits that chose the last NEW_TOKENS of `sequence`, each in a run that ends
    before its token."""
    lengths = range(sequence.shape[1] - NEW_TOKENS, sequence.shape[1])
    again = torch.stack([logits_of(model, sequence[:, :length])[0, -1] for length in lengths])
    assert torch.equal(again.isinf(), rows.isinf())
    return (finite(again).double() - finite(rows).double()).abs().max()


def rounded(value):
    return float(f"{float(value):.2g}")


def write(folder, config, spellings, golden, about):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(dict(sorted(config.items()))))
    for name, spelling in spellings.items():
        (folder / f"config_{name}.json").write_text(to_json(spelling))
    save(golden, folder / "golden.safetensors")
    (folder / "golden.json").write_text(to_json(about))


def to_json(value):
    """Two levels of lines; below, a value is one line."""
    lines = []
    for key, inner in value.items():
        text = json.dumps(inner)
        if isinstance(inner, dict) and inner:
            rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in inner.items())
            text = f"{{\n{rows}\n  }}"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in sys.argv[1:] or CASES:
        record(name, CASES[name])


if __name__ == "__main__":
    main()
