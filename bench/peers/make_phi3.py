"""Writes models of Phi-3-mini's shape with random weights, in GGUF, for measuring speed: nothing is quantised.

Blocks are drawn as bytes, with scales such that a weight matrix keeps the size of what it multiplies; what the model says
has no meaning. Two files of one name are the same to the byte.

    python make_phi3.py OUT.gguf [--type Q4_K_M] [--layers 32] [--window 2047]
"""

import argparse
import os
from math import prod, sqrt
from pathlib import Path

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, FFN, VOCAB, CONTEXT = 3072, 32, 32, 8192, 32064, 4096
WINDOW = 2047
Type = gguf.GGMLQuantizationType

# File type of each recipe (`general.file_type`), and the type of most of its matrices.
RECIPES = {
    "Q4_K_M": (gguf.LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K),
    "Q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
    "Q4_0": (gguf.LlamaFileType.MOSTLY_Q4_0, Type.Q4_0),
    "Q6_K": (gguf.LlamaFileType.MOSTLY_Q6_K, Type.Q6_K),
    "BF16": (gguf.LlamaFileType.MOSTLY_BF16, Type.BF16),
}
SPECIAL = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>"]
SPECIAL += ["<|placeholder4|>", "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
FIRST_SPECIAL, END_OF_TEXT = 32000, 32000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=RECIPES, default="Q4_K_M")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--window", type=int, default=WINDOW, help="tokens a query sees (default %(default)s)")
    args = parser.parse_args()
    write(args.out, args.type, args.layers, args.window)


def write(path, recipe, layers=LAYERS, window=WINDOW):
    """The whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "phi3")
    add_settings(writer, recipe, layers, window)
    add_tokenizer(writer)
    tensors = list(tensors_of(recipe, layers))
    for name, shape, kind, _ in tensors:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes(shape, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, (_, shape, kind, deviation) in enumerate(tensors):
        writer.write_tensor_data(weights(np.random.Generator(np.random.SFC64(number)), shape, kind, deviation))
    writer.close()
    os.replace(part, path)


# --- what the file says of itself -----------------------------------------------------------------------------------


def add_settings(writer, recipe, layers, window):
    writer.add_name(f"Random weights in the shape of Phi-3-mini, {recipe}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_orig_ctx_len(CONTEXT)
    writer.add_sliding_window(window)
    writer.add_file_type(RECIPES[recipe][0])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_tokenizer(writer):
    """A vocabulary of SentencePiece's kind: bytes, made-up pieces that merge from letters, Phi-3's special tokens."""
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256
    pieces = made_up_pieces(FIRST_SPECIAL - len(tokens))
    tokens, types = tokens + pieces, types + [kinds.NORMAL] * len(pieces)
    names = SPECIAL + [f"<|unused{i}|>" for i in range(VOCAB - FIRST_SPECIAL - len(SPECIAL))]
    tokens, types = tokens + names, types + [kinds.CONTROL] * len(names)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    # A merge is the better the earlier it stands in the list.
    writer.add_token_scores([float(min(0, 258 - i)) if i < FIRST_SPECIAL else 0.0 for i in range(VOCAB)])
    writer.add_token_types([int(kind) for kind in types])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END_OF_TEXT)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )


def made_up_pieces(count):
    """`count` different pieces: single characters, then letters side by side, with and without a word's beginning."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    pieces = ["▁"] + [chr(code) for code in range(33, 127)]
    pieces += [first + second for first in letters for second in letters]
    pieces += [f"▁{letter}" for letter in letters]
    pieces += [f"▁{first}{second}" for first in letters for second in letters]
    pieces += [first + second + third for first in letters for second in letters for third in letters]
    pieces += [f"▁{first}{second}{third}" for first in letters for second in letters for third in letters]
    return pieces[:count]


# --- weights --------------------------------------------------------------------------------------------------------


def tensors_of(recipe, layers):
    """Name, shape with rows first, type and standard deviation of every tensor, in the file's order.

    Matrices keep the size of their input; those that write into the residual stream do so divided by the root of their
    number, so that the stream grows by a constant factor over all layers.
    """
    most = RECIPES[recipe][1]
    mixed = recipe == "Q4_K_M"
    into_stream = 1 / sqrt(2 * layers)

    def better(layer):
        """Where Q4_K_M spends more: the first and the last eighth of the layers, and every third between."""
        eighth = layers // 8
        return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2

    yield "token_embd.weight", (VOCAB, HIDDEN), most, 1.0
    for layer in range(layers):
        prefix = f"blk.{layer}"
        down = Type.Q6_K if mixed and better(layer) else most
        yield f"{prefix}.attn_norm.weight", (HIDDEN,), Type.F32, 0.1
        yield f"{prefix}.attn_qkv.weight", (3 * HIDDEN, HIDDEN), Type.Q5_K if mixed else most, 1 / sqrt(HIDDEN)
        yield f"{prefix}.attn_output.weight", (HIDDEN, HIDDEN), most, into_stream / sqrt(HIDDEN)
        yield f"{prefix}.ffn_norm.weight", (HIDDEN,), Type.F32, 0.1
        yield f"{prefix}.ffn_up.weight", (2 * FFN, HIDDEN), most, 1 / sqrt(HIDDEN)
        yield f"{prefix}.ffn_down.weight", (HIDDEN, FFN), down, into_stream / sqrt(FFN)
    yield "output_norm.weight", (HIDDEN,), Type.F32, 0.1
    yield "output.weight", (VOCAB, HIDDEN), Type.Q6_K if mixed else most, 1 / sqrt(HIDDEN)


def n_bytes(shape, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return prod(shape) // block * size


def weights(random, shape, kind, deviation):
    """The bytes of one tensor. Its quantised values have mean 0 and about this deviation; norms are near 1."""
    if kind is Type.F32:
        return (1 + deviation * random.standard_normal(shape)).astype(np.float32)
    if kind is Type.BF16:
        # Uniform; rounded by cutting off the lower half.
        drawn = np.frombuffer(random.bytes(2 * prod(shape)), np.int16).astype(np.float32)
        drawn *= deviation * sqrt(3) / 2**15
        return np.ascontiguousarray(drawn.view(np.uint16)[1::2])
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.frombuffer(bytearray(random.bytes(n_bytes(shape, kind))), np.uint8).reshape(-1, size)
    return BLOCKS[kind](random, blocks, deviation).reshape(-1)


def put_f16(blocks, place, values):
    blocks[:, place : place + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)


def near(random, blocks, value):
    """One scale a block, within a quarter of `value`."""
    return value * random.uniform(0.75, 1.25, len(blocks)).astype(np.float32)


def signed(random, values):
    return np.where(random.integers(0, 2, len(values), dtype=np.int8) == 1, values, -values)


def q8_0(random, blocks, deviation):
    # Uniform in -127..127: 73.6. A file made from real weights never holds -128.
    put_f16(blocks, 0, near(random, blocks, deviation / 73.6))
    numbers = blocks[:, 2:].view(np.int8)
    np.maximum(numbers, -127, out=numbers)
    return blocks


def q4_0(random, blocks, deviation):
    # Uniform in -8..7, deviation 4.6; the scale's sign takes the mean away.
    put_f16(blocks, 0, signed(random, near(random, blocks, deviation / 4.64)))
    return blocks


def with_minima(levels):
    """Q4_K and Q5_K: scale, scale of the minima, then eight 6-bit pairs of them in 12 bytes.

    Scale and minimum of a group are the same 6-bit number, and the minima's scale is the middle of the levels as large,
    so that every group is centred.
    """
    middle, spread = (levels - 1) / 2, sqrt((levels**2 - 1) / 12)

    def fill(random, blocks, deviation):
        scale = near(random, blocks, deviation / spread / 48)
        put_f16(blocks, 0, scale)
        put_f16(blocks, 2, scale * middle)
        factors = random.integers(32, 64, (len(blocks), 8), dtype=np.uint8)
        first, second = factors[:, :4], factors[:, 4:]
        # The second four keep their upper two bits above those of the first.
        head = first | (second >> 4) << 6
        blocks[:, 4:8], blocks[:, 8:12] = head, head
        blocks[:, 12:16] = (second & 15) | (second & 15) << 4
        return blocks

    return fill


def q6_k(random, blocks, deviation):
    # 6 bits less 32, deviation 18.5; group scales of both signs between 32 and 95, root mean square 66.
    blocks[:, 192:208] = signed_scales(random, len(blocks))
    put_f16(blocks, 208, near(random, blocks, deviation / 18.5 / 66))
    return blocks


def signed_scales(random, count):
    drawn = random.integers(32, 96, (count, 16), dtype=np.int8)
    signs = 1 - 2 * random.integers(0, 2, (count, 16), dtype=np.int8)
    return (drawn * signs).view(np.uint8)


BLOCKS = {
    Type.Q8_0: q8_0,
    Type.Q4_0: q4_0,
    Type.Q4_K: with_minima(16),
    Type.Q5_K: with_minima(32),
    Type.Q6_K: q6_k,
}


if __name__ == "__main__":
    main()
