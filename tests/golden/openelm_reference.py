"""OpenELM in plain PyTorch, written for reading: the yardstick that Elmwood's engine is measured against.

Layer-wise scaling, one block, the loss and the learning-rate schedule, each a few lines in the order of the equations.
Nothing here is fast and nothing is shared with the Rust code, so that a mistake has to be made twice to go unseen.

Sources: Mehta et al. 2024, arXiv:2404.14619 (layer-wise scaling); the layout and rounding rules of Apple's published
checkpoints; Su et al. 2021, arXiv:2104.09864 (RoPE, rotate-half layout); Zhang and Sennrich 2019, arXiv:1910.07467.

Run it directly to check the scaling rules and parameter counts of the four published sizes:

    python openelm_reference.py
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

NORM_EPS = 1e-6
Z_LOSS = 1e-4
NO_TARGET = -1  # a position without a target: it enters neither cross-entropy nor z-loss


# --- layer-wise scaling ---------------------------------------------------------------------------------------------


def spread(first, last, n_layers):
    """`n_layers` values from `first` to `last` in equal steps, each rounded to two decimals."""
    if n_layers == 1:
        return [first]
    values = [first + i * (last - first) / (n_layers - 1) for i in range(n_layers)]
    values[-1] = last
    return [float(np.round(value, 2)) for value in values]


def make_divisible(value, divisor):
    """The multiple of `divisor` nearest to `value`, at least `divisor`, never more than 10 % below `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Config:
    """`group` is the number of query heads that share one key/value head; `alpha` scales heads, `beta` the FFN."""

    vocab: int
    model_dim: int
    layers: int
    head_dim: int
    group: int
    alpha: tuple
    beta: tuple
    ffn_divisor: int
    context: int
    rope_base: float = 10000.0

    @property
    def q_heads(self):
        divisor = self.head_dim * self.group
        widths = (make_divisible(self.model_dim * a, divisor) for a in spread(*self.alpha, self.layers))
        return [width // self.head_dim for width in widths]

    @property
    def kv_heads(self):
        return [heads // self.group for heads in self.q_heads]

    @property
    def ffn_multipliers(self):
        return spread(*self.beta, self.layers)

    @property
    def ffn_dims(self):
        return [make_divisible(b * self.model_dim, self.ffn_divisor) for b in self.ffn_multipliers]

    def to_apple(self):
        """The keys and values of a published `config.json`."""
        return {
            "activation_fn_name": "swish",
            "architectures": ["OpenELMForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "ffn_dim_divisor": self.ffn_divisor,
            "ffn_multipliers": self.ffn_multipliers,
            "ffn_with_glu": True,
            "head_dim": self.head_dim,
            "initializer_range": 0.02,
            "max_context_length": self.context,
            "model_dim": self.model_dim,
            "model_type": "openelm",
            "normalization_layer_name": "rms_norm",
            "normalize_qk_projections": True,
            "num_gqa_groups": self.group,
            "num_kv_heads": self.kv_heads,
            "num_query_heads": self.q_heads,
            "num_transformer_layers": self.layers,
            "qkv_multipliers": list(self.alpha),
            "rope_freq_constant": int(self.rope_base),
            "rope_max_length": 2 * self.context,
            "share_input_output_layers": True,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": self.vocab,
        }


# --- layers ---------------------------------------------------------------------------------------------------------


def at_least_f32(x):
    return x if x.dtype == torch.float64 else x.float()


class RMSNorm(nn.Module):
    """`y = x / sqrt(mean(x^2) + eps) * weight`: statistics in f32, cast back, then the weight."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        wide = at_least_f32(x)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)
        return normed.to(x.dtype) * self.weight


def rotate(x, positions, base):
    """RoPE, rotate-half: component i pairs with i + head_dim/2. `x`: [batch, heads, seq, head_dim]."""
    half = x.shape[-1] // 2
    wide = at_least_f32(x)
    frequencies = base ** (-torch.arange(half, dtype=wide.dtype) / half)
    angles = positions[:, None, :, None].to(wide.dtype) * frequencies
    cos, sin = angles.cos(), angles.sin()
    low, high = wide[..., :half], wide[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with RMSNorm on queries and keys before RoPE."""

    def __init__(self, config, layer):
        super().__init__()
        self.head_dim, self.group, self.base = config.head_dim, config.group, config.rope_base
        self.q_heads, self.kv_heads = config.q_heads[layer], config.kv_heads[layer]
        qkv_dim = (self.q_heads + 2 * self.kv_heads) * self.head_dim
        self.qkv_proj = nn.Linear(config.model_dim, qkv_dim, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)
        self.out_proj = nn.Linear(self.q_heads * self.head_dim, config.model_dim, bias=False)

    def forward(self, x, positions, visible):
        batch, seq, _ = x.shape
        # All query heads, then all key heads, then all value heads.
        heads = self.qkv_proj(x).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.q_heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = rotate(self.q_norm(q), positions, self.base), rotate(self.k_norm(k), positions, self.base)
        # Key/value head j serves query heads j*group .. (j+1)*group - 1.
        k, v = k.repeat_interleave(self.group, dim=1), v.repeat_interleave(self.group, dim=1)
        scores = at_least_f32(q @ k.transpose(-1, -2)) * self.head_dim**-0.5
        weights = scores.masked_fill(~visible[:, None], -math.inf).softmax(-1).to(v.dtype)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(batch, seq, -1))


class FeedForward(nn.Module):
    """SwiGLU; the gate is the first half of `proj_1`."""

    def __init__(self, config, layer):
        super().__init__()
        self.proj_1 = nn.Linear(config.model_dim, 2 * config.ffn_dims[layer], bias=False)
        self.proj_2 = nn.Linear(config.ffn_dims[layer], config.model_dim, bias=False)

    def forward(self, x):
        gate, up = self.proj_1(x).chunk(2, dim=-1)
        return self.proj_2(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attn_norm, self.attn = RMSNorm(config.model_dim), Attention(config, layer)
        self.ffn_norm, self.ffn = RMSNorm(config.model_dim), FeedForward(config, layer)

    def forward(self, x, positions, visible):
        x = x + self.attn(self.attn_norm(x), positions, visible)
        return x + self.ffn(self.ffn_norm(x))


class OpenELM(nn.Module):
    """`forward(tokens, segments)`: tokens [batch, seq] to logits [batch, seq, vocab].

    `segments` [batch, seq] numbers the documents packed in a row. A token sees only its own document, and positions
    begin again at 0 in each. Without it a row is one document.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embeddings = nn.Embedding(config.vocab, config.model_dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.model_dim)

    def forward(self, tokens, segments=None):
        segments = torch.zeros_like(tokens) if segments is None else segments
        positions, visible = positions_in(segments), visible_to(segments)
        x = self.token_embeddings(tokens)
        for layer in self.layers:
            x = layer(x, positions, visible)
        return F.linear(self.norm(x), self.token_embeddings.weight)

    def initialise(self, seed):
        """N(0, fan_in^-1/2) for linear layers, N(0, D^-1/2) for embeddings, N(0, (2 L D)^-1/2) into the residual
        stream, 1 for norms. Drawn in the order of `named_parameters`, in f32."""
        generator = torch.Generator().manual_seed(seed)
        dim, depth = self.config.model_dim, self.config.layers
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 1:
                    parameter.fill_(1.0)
                    continue
                std = dim**-0.5
                if name.endswith(("out_proj.weight", "proj_2.weight")):
                    std *= (2 * depth) ** -0.5
                parameter.normal_(0.0, std, generator=generator)
        return self

    def to_apple(self):
        """Tensors under the names of Apple's published checkpoints."""
        return {f"transformer.{name}": p.detach().float().contiguous() for name, p in self.named_parameters()}


def positions_in(segments):
    """Position of each token in its own document."""
    index = torch.arange(segments.shape[1]).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def visible_to(segments):
    """[batch, query, key]: true where the key is in the same document and not after the query."""
    seq = segments.shape[1]
    return (segments[:, :, None] == segments[:, None, :]) & torch.ones(seq, seq, dtype=torch.bool).tril()


# --- training -------------------------------------------------------------------------------------------------------


def loss_parts(logits, targets):
    """Mean cross-entropy and `1e-4 * mean(logsumexp^2)`, both over the positions that have a target.

    The z-loss of Apple's training code also counts positions without a target; this one does not.
    """
    valid = targets != NO_TARGET
    logits, targets = at_least_f32(logits[valid]), targets[valid].long()
    norms = logits.logsumexp(-1)
    cross_entropy = (norms - logits.gather(-1, targets[:, None]).squeeze(-1)).mean()
    return cross_entropy, Z_LOSS * norms.square().mean()


def next_tokens(tokens, segments):
    """The following token of the same document, `NO_TARGET` where there is none."""
    targets = torch.full_like(tokens, NO_TARGET)
    same = segments[:, 1:] == segments[:, :-1]
    targets[:, :-1] = torch.where(same, tokens[:, 1:], NO_TARGET)
    return targets


def learning_rate(step, steps, warmup, peak, first=1e-6, floor=0.1):
    """Learning rate of the 0-based `step`: linear from `first` to `peak` in `warmup` steps, then a cosine to `floor * peak`."""
    if step < warmup:
        return first + step * (peak - first) / warmup
    low = floor * peak
    return low + 0.5 * (peak - low) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1)))


def save(tensors, path):
    """Writes a safetensors file that everyone may read."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


# --- self-check -----------------------------------------------------------------------------------------------------


def published(layers, model_dim, head_dim, vocab=32000):
    return Config(vocab, model_dim, layers, head_dim, 4, (0.5, 1.0), (0.5, 4.0), 256, 2048)


def main():
    expected = {
        "270M": (published(16, 1280, 64), 271_527_168),
        "450M": (published(20, 1536, 64), 457_179_136),
        "1.1B": (published(28, 2048, 64), 1_079_891_456),
        "3B": (published(36, 3072, 128), 3_036_647_424),
    }
    for name, (config, parameters) in expected.items():
        with torch.device("meta"):
            counted = sum(p.numel() for p in OpenELM(config).parameters())
        assert counted == parameters, (name, counted, parameters)
        print(f"{name}: {counted:,} parameters, heads {config.q_heads}, ffn {config.ffn_dims}")


if __name__ == "__main__":
    main()
