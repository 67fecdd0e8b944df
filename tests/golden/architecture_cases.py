"""The models of `make_architectures.py`: a small config.json for each thing that sets one architecture apart.

Keys and their layout are those of published files. Widths are small and a few settings further out than any published
one, so that a reader who overlooks a key gets other logits.
"""

import math
from dataclasses import dataclass, field


@dataclass
class Case:
    """`config` is the config.json.

    `prompt` and `long_prompt` are lengths; `positions` and `steps` name logits to record besides the first, middle and
    last ones. `variants` change how the config is spelt and must give the same logits to the bit; `mistakes` change
    what it says in ways that a reader could get wrong, and their effect is measured.
    """

    config: dict
    prompt: int = 40
    long_prompt: int = 0
    positions: tuple = ()
    steps: tuple = ()
    variants: dict = field(default_factory=dict)
    mistakes: dict = field(default_factory=dict)


COMMON = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 128,
}


def like_llama(**keys):
    return COMMON | {
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 2048,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    } | keys


def llama(**keys):
    named = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False}
    return like_llama(**named) | keys


def phi3(**keys):
    return COMMON | {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "attention_bias": False,
        "hidden_size": 96,
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 2,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    } | keys


def phi3_small(**keys):
    """The keys of the published file; `gegelu_limit` and the muP multipliers are others, small enough to be felt."""
    return {
        "architectures": ["Phi3SmallForCausalLM"],
        "model_type": "phi3small",
        "attention_dropout_prob": 0.0,
        "blocksparse_block_size": 4,
        "blocksparse_homo_head_pattern": False,
        "blocksparse_num_local_blocks": 3,
        "blocksparse_triton_kernel_block_size": 4,
        "blocksparse_vert_stride": 4,
        "bos_token_id": 2,
        "dense_attention_every_n_layers": 2,
        "dummy_token_indices": [100, 102, 103, *range(120, 128)],
        "embedding_dropout_prob": 0.1,
        "eos_token_id": 2,
        "ff_dim_multiplier": None,
        "ff_intermediate_size": 96,
        "ffn_dropout_prob": 0.1,
        "gegelu_limit": 1.5,
        "gegelu_pad_to_256": True,
        "hidden_act": "gegelu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 256,
        "mup_attn_multiplier": 3.0,
        "mup_embedding_multiplier": 0.5,
        "mup_use_scaling": True,
        "mup_width_multiplier": 4.0,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "pad_sequence_to_multiple_of_64": True,
        "reorder_and_upcast_attn": False,
        "rope_embedding_base": 1000000,
        "rope_position_scale": 1.0,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": 128,
    } | keys


def factors(pairs):
    """Two lists of divisors of the rotary frequencies, one for each pair of lanes; neither is monotonic everywhere."""
    short = [round(1.0 + 0.04 * pair + 0.03 * (pair % 3), 4) for pair in range(pairs)]
    long = [round(1.3 * 1.25**pair + 0.2 * (pair % 2), 4) for pair in range(pairs)]
    return {"short_factor": short, "long_factor": long}


SWITCH = 48  # the longest sequence that uses the short factors
LONGROPE = {"max_position_embeddings": 192, "original_max_position_embeddings": SWITCH}
LONGROPE_STEPS = {"prompt": 30, "long_prompt": 60, "steps": (17, 18, 19)}  # sequences of 47, 48 and 49 tokens


def longrope(pairs, type="longrope", **keys):
    return {"type": type, **factors(pairs), **keys}


def only(pairs, which):
    """The same factors for every length."""
    chosen = factors(pairs)[f"{which}_factor"]
    return {"type": "longrope", "short_factor": chosen, "long_factor": chosen}


LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 512,
    "rope_type": "llama3",
}
SMALL_LONGROPE = longrope(4, "su", short_mscale=1.1, long_mscale=1.25, original_max_position_embeddings=SWITCH)

# Tied models are deeper than the others: in a shallow one the embedding of a token speaks for that token so loudly that
# greedy decoding repeats it for ever.
CASES = {
    "llama": Case(llama(num_attention_heads=8), mistakes={"rope theta 10500": {"rope_theta": 10500.0}}),
    "llama_tied": Case(
        llama(
            attention_bias=True,
            max_position_embeddings=4096,
            num_hidden_layers=8,
            rope_scaling=LLAMA3,
            rope_theta=500000.0,
            tie_word_embeddings=True,
        ),
        mistakes={
            "no scaling": {"rope_scaling": None},
            "no smoothing": {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.001}},
        },
    ),
    # head_dim is not hidden_size / num_attention_heads.
    "llama_head_dim": Case(llama(head_dim=24)),
    "mistral": Case(
        like_llama(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=16),
        positions=(15, 16, 17),
        mistakes={"no window": {"sliding_window": None}, "window one longer": {"sliding_window": 17}},
    ),
    # Queries, keys and values have biases without a key that says so. The window is stated and not used. The epsilon
    # is far from any that is published, so that reading it matters.
    "qwen2": Case(
        like_llama(
            architectures=["Qwen2ForCausalLM"],
            model_type="qwen2",
            max_window_layers=1,
            num_hidden_layers=8,
            rms_norm_eps=0.01,
            rope_theta=1000000.0,
            sliding_window=16,
            tie_word_embeddings=True,
            use_sliding_window=False,
        ),
        mistakes={"window used": {"use_sliding_window": True}, "eps 1e-6": {"rms_norm_eps": 1e-6}},
    ),
    "phi3_mini": Case(
        phi3(hidden_size=192, num_attention_heads=2, num_key_value_heads=2, sliding_window=20),
        positions=(19, 20, 21),
        mistakes={"no window": {"sliding_window": None}, "window one longer": {"sliding_window": 21}},
    ),
    "phi3_medium": Case(
        phi3(hidden_size=128, num_attention_heads=8, num_key_value_heads=2, sliding_window=131072),
    ),
    "phi3_longrope": Case(
        phi3(rope_scaling=longrope(12), sliding_window=262144, **LONGROPE),
        **LONGROPE_STEPS,
        variants={
            # Published files state the original length outside of `rope_scaling` only; there transformers 5.23 turns
            # `su` down with a KeyError, so here it stands in both places.
            "su": {"rope_scaling": longrope(12, "su", original_max_position_embeddings=SWITCH)},
            "yarn": {"rope_scaling": longrope(12, "yarn")},
        },
        mistakes={
            "no scaling": {"rope_scaling": None},
            "short factors always": {"rope_scaling": only(12, "short")},
            "long factors always": {"rope_scaling": only(12, "long")},
            "switch one late": {"original_max_position_embeddings": SWITCH + 1},
            "no magnitude": {"rope_scaling": longrope(12, attention_factor=1.0)},
            "magnitude of yarn": {"rope_scaling": longrope(12, attention_factor=1 + 0.1 * math.log(4))},
        },
    ),
    "phi4_mini": Case(
        phi3(
            hidden_size=64,
            num_hidden_layers=8,
            num_key_value_heads=2,
            partial_rotary_factor=0.75,
            rope_scaling=longrope(6),
            sliding_window=262144,
            tie_word_embeddings=True,
            **LONGROPE,
        ),
        **LONGROPE_STEPS,
        mistakes={"no scaling": {"rope_scaling": None}, "short factors always": {"rope_scaling": only(6, "short")}},
    ),
    "phi3_small": Case(
        phi3_small(),
        prompt=60,
        mistakes={
            "dense everywhere": {"dense_attention_every_n_layers": 1},
            "sparse everywhere": {"dense_attention_every_n_layers": 0},
            "heads alike": {"blocksparse_homo_head_pattern": True},
            "one local block more": {"blocksparse_num_local_blocks": 4},
            "limit 20": {"gegelu_limit": 20.0},
            "scale 1 / sqrt(head_dim)": {"mup_use_scaling": False},
        },
    ),
    "phi3_small_longrope": Case(
        phi3_small(rope_embedding_base=10000, rope_scaling=SMALL_LONGROPE),
        **LONGROPE_STEPS,
        mistakes={"short magnitude always": {"rope_scaling": SMALL_LONGROPE | {"long_mscale": 1.1}}},
    ),
}
