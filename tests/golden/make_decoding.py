"""Writes tests/golden/decoding/NAME.json: beam search and pooled hidden states of models in `architectures/`, as Hugging
Face `transformers` computes them."""

import json
from pathlib import Path

import torch
import transformers

from architecture_cases import CASES
from make_architectures import build, make_prompt

OUT = Path(__file__).parent / "decoding"
NEW_TOKENS = 12
SETTINGS = [
    {"beams": 2, "length_penalty": 1.0, "ends": [5]},
    {"beams": 3, "length_penalty": 0.0, "ends": [5, 17, 60, 90]},
    {"beams": 4, "length_penalty": 1.0, "ends": [5, 17, 60, 90]},
    {"beams": 4, "length_penalty": 2.0, "ends": [7, 23, 41, 88, 101, 120]},
    {"beams": 5, "length_penalty": -1.0, "ends": [7, 23, 41, 88, 101, 120]},
    {"beams": 7, "length_penalty": 1.0, "ends": []},
]
# Scores that lie nearer to each other may come out in another order elsewhere.
LEAST_GAP = 1e-4


def beams(model, prompt, setting):
    """The best sequences, without the prompt, up to and with the end token."""
    out = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt)[None],
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=setting["beams"],
        num_return_sequences=setting["beams"],
        length_penalty=setting["length_penalty"],
        eos_token_id=setting["ends"] or None,
        pad_token_id=0,
        early_stopping=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = []
    for row, score in zip(out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist()):
        ends = [i for i, token in enumerate(row) if token in setting["ends"]]
        found.append({"tokens": row[: ends[0] + 1] if ends else row, "score": score})
    return found


def clear(found):
    scores = [one["score"] for one in found]
    return all(a - b > LEAST_GAP for a, b in zip(scores, scores[1:]))


def record(name):
    case = CASES[name]
    model = build(case.config)
    model.generation_config.eos_token_id = None
    searches = []
    for setting in SETTINGS:
        prompts = (make_prompt(f"{name} beams", salt, 20, case.config["vocab_size"]) for salt in range(100))
        prompt, found = next((p, f) for p in prompts if clear(f := beams(model, p, setting)))
        searches.append(setting | {"max_tokens": NEW_TOKENS, "prompt": prompt.tolist(), "found": found})
    text = make_prompt(f"{name} embedding", 0, 30, case.config["vocab_size"])
    with torch.no_grad():
        hidden = model.model(text[None]).last_hidden_state[0]
    embedding = {"text": text.tolist(), "mean": hidden.mean(0).tolist(), "last": hidden[-1].tolist()}
    OUT.mkdir(exist_ok=True)
    about = {"transformers": transformers.__version__, "searches": searches, "embedding": embedding}
    (OUT / f"{name}.json").write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in ["llama", "phi3_mini"]:
        record(name)
