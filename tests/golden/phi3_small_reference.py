"""Phi-3-small in plain PyTorch, written for reading: the one model of the family that `transformers` has no class for.

It differs from its siblings in most parts: LayerNorm and biases everywhere, one packed projection ordered by key/value
head, a clamped GEGLU on interleaved lanes, the scales of muP, and attention that skips blocks of keys in every layer
but each `dense_attention_every_n_layers`-th. Modules carry the names of the published tensors, and the settings are
the keys of a published `config.json`, so `Phi3Small(json.load(file))` is the whole interface.

Sources: Phi-3 technical report, arXiv:2404.14219, section 2 (blocksparse attention); the configuration and tensor names
of Microsoft's published checkpoints; Yang et al. 2022, arXiv:2203.03466 (muP); Ding et al. 2024, arXiv:2402.13753
(LongRoPE).

Run it directly to check the parameter count of the published size and the rule of the sparse blocks:

    python phi3_small_reference.py
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# What config.json may leave out. `dummy_token_indices` is never in a published file (there it follows from the
# vocabulary, ids 100256, 100258-100260, 100264, 100265 and 100267-100351); a small vocabulary has to name its own.
DEFAULTS = {"rope_scaling": None, "dummy_token_indices": [], "blocksparse_homo_head_pattern": False}


def sees_block(config, head, query_block, key_block):
    """Whether query head `head` lets a block of queries attend to a block of keys (all counted from 0).

    The nearest `blocksparse_num_local_blocks` are always seen; of the older ones every `blocksparse_vert_stride`-th,
    each head starting at another, so that together the heads reach everything.
    """
    stride = config["blocksparse_vert_stride"]
    shift = 0 if config["blocksparse_homo_head_pattern"] else max(1, stride // config["num_attention_heads"])
    is_local = query_block - key_block < config["blocksparse_num_local_blocks"]
    return query_block >= key_block and (is_local or (key_block + head * shift + 1) % stride == 0)


def sparse_mask(config, seq):
    """[heads, query, key]: true where the key is not after the query and its block is seen."""
    size = config["blocksparse_block_size"]
    blocks = range(-(-seq // size))
    heads = range(config["num_attention_heads"])
    seen = torch.tensor([[[sees_block(config, head, q, k) for k in blocks] for q in blocks] for head in heads])
    return seen.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, :seq, :seq] & causal_mask(seq)


def causal_mask(seq):
    return torch.ones(seq, seq, dtype=torch.bool).tril()


def rope_tables(config, seq, dtype):
    """cos and sin, each [seq, head_dim / 2].

    With LongRoPE the length of the whole sequence chooses the factors of all its positions: short up to and including
    `original_max_position_embeddings`, long above.
    """
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    frequencies = config["rope_embedding_base"] ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    positions, magnitude = torch.arange(seq, dtype=torch.float32), 1.0
    scaling = config["rope_scaling"]
    if scaling is None:
        positions = positions * config["rope_position_scale"]
    else:
        reach = "long" if seq > scaling["original_max_position_embeddings"] else "short"
        frequencies = frequencies / torch.tensor(scaling[f"{reach}_factor"])
        magnitude = scaling[f"{reach}_mscale"]
    angles = torch.outer(positions, frequencies).to(dtype)
    return angles.cos() * magnitude, angles.sin() * magnitude


def rotate(x, cos, sin):
    """RoPE, rotate-half: component i pairs with i + head_dim/2. `x`: [batch, heads, seq, head_dim]."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        hidden, self.q_heads, self.kv_heads = (
            config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        )
        self.head_dim = hidden // self.q_heads
        self.scale = config["mup_attn_multiplier"] / self.head_dim if config["mup_use_scaling"] else self.head_dim**-0.5
        every = config["dense_attention_every_n_layers"]
        self.is_sparse = not every or (layer + 1) % every != 0
        self.query_key_value = nn.Linear(hidden, (self.q_heads + 2 * self.kv_heads) * self.head_dim)
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, x, cos, sin, sparse, causal):
        batch, seq, hidden = x.shape
        group = self.q_heads // self.kv_heads
        # For each key/value head in turn: its query heads, its key, its value.
        packed = self.query_key_value(x).view(batch, seq, self.kv_heads, group + 2, self.head_dim)
        q, k, v = packed.split([group, 1, 1], dim=3)
        q, k, v = (part.flatten(2, 3).transpose(1, 2) for part in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = (q @ k.transpose(-1, -2)) * self.scale
        weights = scores.masked_fill(~(sparse if self.is_sparse else causal), -math.inf).softmax(-1)
        return self.dense((weights @ v).transpose(1, 2).reshape(batch, seq, hidden))


class FeedForward(nn.Module):
    """GEGLU with the sigmoid approximation of GELU: even lanes of `up_proj` are the gate, odd lanes the value.

    `gate * sigmoid(1.702 * gate) * (value + 1)`, the gate clamped from above and the value from both sides; infinities
    pass unclamped.
    """

    def __init__(self, config):
        super().__init__()
        hidden, inner = config["hidden_size"], config["ff_intermediate_size"]
        self.limit = config["gegelu_limit"]
        self.up_proj = nn.Linear(hidden, 2 * inner)
        self.down_proj = nn.Linear(inner, hidden)

    def forward(self, x):
        lanes = self.up_proj(x)
        gate, value = lanes[..., 0::2], lanes[..., 1::2]
        gate = torch.where(gate.isinf(), gate, gate.clamp(max=self.limit))
        value = torch.where(value.isinf(), value, value.clamp(-self.limit, self.limit))
        return self.down_proj(gate * torch.sigmoid(1.702 * gate) * (value + 1))


class Layer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_epsilon"]
        self.input_layernorm = nn.LayerNorm(hidden, eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(hidden, eps)
        self.mlp = FeedForward(config)

    def forward(self, x, *attention):
        x = x + self.self_attn(self.input_layernorm(x), *attention)
        return x + self.mlp(self.post_attention_layernorm(x))


class Phi3Small(nn.Module):
    """`forward(tokens)`: tokens [batch, seq] to logits [batch, seq, vocab], -inf for the dummy tokens."""

    def __init__(self, config):
        super().__init__()
        self.config = config = DEFAULTS | config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(config, layer) for layer in range(config["num_hidden_layers"]))
        self.model.final_layernorm = nn.LayerNorm(config["hidden_size"], config["layer_norm_epsilon"])

    def forward(self, tokens):
        config, seq, embedding = self.config, tokens.shape[1], self.model.embed_tokens.weight
        cos, sin = rope_tables(config, seq, embedding.dtype)
        sparse, causal = sparse_mask(config, seq), causal_mask(seq)
        x = self.model.embed_tokens(tokens) * config["mup_embedding_multiplier"]
        for layer in self.model.layers:
            x = layer(x, cos, sin, sparse, causal)
        # The head is tied to the embedding.
        logits = F.linear(self.model.final_layernorm(x), embedding) / config["mup_width_multiplier"]
        logits[..., config["dummy_token_indices"]] = -math.inf
        return logits


# --- self-check -----------------------------------------------------------------------------------------------------

PUBLISHED = {
    "vocab_size": 100352,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "ff_intermediate_size": 14336,
    "gegelu_limit": 20.0,
    "layer_norm_epsilon": 1e-5,
    "dense_attention_every_n_layers": 2,
    "blocksparse_block_size": 64,
    "blocksparse_num_local_blocks": 16,
    "blocksparse_vert_stride": 8,
    "mup_use_scaling": True,
    "mup_attn_multiplier": 1.0,
    "mup_embedding_multiplier": 10.0,
    "mup_width_multiplier": 8.0,
}


def main():
    with torch.device("meta"):
        model = Phi3Small(PUBLISHED)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == 7_392_272_384, counted

    config = model.config
    last = 127  # the last block of the 8k context
    seen = [[key for key in range(last + 1) if sees_block(config, head, last, key)] for head in range(32)]
    local = list(range(112, 128))
    assert all(blocks[-16:] == local for blocks in seen), "the last 16 blocks are local to every head"
    assert seen[0] == [*range(7, 112, 8), *local] and seen[7] == [*range(0, 112, 8), *local]
    assert sorted(set().union(*seen)) == list(range(128)), "together the heads see everything"
    print(f"{counted:,} parameters; a head sees {len(seen[0])} of 128 blocks at the end of the 8k context")


if __name__ == "__main__":
    main()
