"""Writes tests/golden/openelm/: a small random OpenELM with a different shape in every layer, its logits and gradients.

Everything is computed in f64 from the f32 weights and then rounded to f32, so the files hold the exact answer. How far
an f32 run of the same code is from it is printed and stored in `deviation.json`.
"""

import copy
import json
from pathlib import Path

import torch

from openelm_reference import Config, OpenELM, learning_rate, loss_parts, next_tokens, positions_in, save

HERE = Path(__file__).parent / "openelm"
# Heads 2, 4, 6, 6 (the third by the 10 % rule) over 1, 2, 3, 3 key/value heads; FFN widths 16, 32, 48, 64.
CONFIG = Config(
    vocab=256, model_dim=64, layers=4, head_dim=16, group=2, alpha=(0.5, 1.5), beta=(0.25, 1.0), ffn_divisor=16, context=64
)
SEQ = 48
SEGMENT_STARTS = [[0, 13, 31], [0, 29]]


def make_model():
    model = OpenELM(CONFIG).initialise(seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0, 0.2, generator=generator)
    return model


def make_input():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(CONFIG.vocab, (len(SEGMENT_STARTS), SEQ), generator=generator)
    segments = torch.zeros_like(tokens)
    for row, starts in enumerate(SEGMENT_STARTS):
        for start in starts[1:]:
            segments[row, start:] += 1
    return tokens, segments


def compute(model, tokens, segments):
    targets = next_tokens(tokens, segments)
    masked = model(tokens, segments)
    cross_entropy, z_loss = loss_parts(masked, targets)
    loss = cross_entropy + z_loss
    model.zero_grad()
    loss.backward()
    out = {
        "logits": model(tokens).detach(),
        "logits_masked": masked.detach(),
        "loss": loss.detach().reshape(1),
        "cross_entropy": cross_entropy.detach().reshape(1),
        "z_loss": z_loss.detach().reshape(1),
    }
    return out | {f"grad.transformer.{name}": p.grad.clone() for name, p in model.named_parameters()}


def check(model, tokens, segments):
    """What must hold whatever the weights are: each document alone gives the same logits; differences match gradients."""
    answer = compute(model, tokens, segments)
    for row, starts in enumerate(SEGMENT_STARTS):
        for start, end in zip(starts, starts[1:] + [SEQ]):
            alone = model(tokens[row : row + 1, start:end])[0]
            torch.testing.assert_close(alone, answer["logits_masked"][row, start:end], rtol=0, atol=1e-12)
    targets = next_tokens(tokens, segments)
    for name, parameter in model.named_parameters():
        index = torch.argmax(parameter.grad.abs())
        flat, step, losses = parameter.data.view(-1), 1e-5, []
        for sign in (1, -1):
            flat[index] += sign * step
            losses.append(sum(loss_parts(model(tokens, segments), targets)).item())
            flat[index] -= sign * step
        difference = (losses[0] - losses[1]) / (2 * step)
        exact = parameter.grad.view(-1)[index].item()
        assert abs(difference - exact) < 1e-6 * abs(exact) + 1e-9, (name, difference, exact)
    assert learning_rate(0, 100, 10, 1.0) == 1e-6 and learning_rate(10, 100, 10, 1.0) == 1.0


def main():
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    model = make_model()
    tokens, segments = make_input()
    exact_model = copy.deepcopy(model).double()
    check(exact_model, tokens, segments)
    exact, single = compute(exact_model, tokens, segments), compute(model, tokens, segments)

    deviation = {}
    for name, value in exact.items():
        error = (single[name].double() - value).abs().max().item()
        deviation[name] = {"max_abs": float(f"{value.abs().max().item():.3g}"), "f32_max_error": float(f"{error:.2g}")}
        print(f"{name:55} max {deviation[name]['max_abs']:<10} f32 error {error:.2e}")

    starts = torch.full((len(SEGMENT_STARTS), max(map(len, SEGMENT_STARTS))), -1)
    for row, values in enumerate(SEGMENT_STARTS):
        starts[row, : len(values)] = torch.tensor(values)
    integers = {
        "tokens": tokens,
        "segments": segments,
        "segment_starts": starts,
        "positions": positions_in(segments),
        "targets": next_tokens(tokens, segments),
    }
    golden = {name: value.int().contiguous() for name, value in integers.items()}
    golden |= {name: value.float().contiguous() for name, value in exact.items()}
    save(golden, HERE / "golden.safetensors")
    save(model.to_apple(), HERE / "model.safetensors")
    (HERE / "config.json").write_text(json.dumps(CONFIG.to_apple(), indent=2) + "\n")
    (HERE / "deviation.json").write_text(json.dumps(deviation, indent=1) + "\n")
    print("loss", exact["loss"].item(), "shapes", CONFIG.q_heads, CONFIG.kv_heads, CONFIG.ffn_dims)


if __name__ == "__main__":
    main()
