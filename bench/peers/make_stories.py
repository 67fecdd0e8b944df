"""Writes a model of llama2.c's first format as GGUF in f32, with its tokenizer, so that every peer can read it.

    python make_stories.py MODEL.bin TOKENIZER.bin OUT.gguf
"""

import os
import struct
import sys
from pathlib import Path

import gguf
import numpy as np


def write(model, tokenizer, out):
    """The whole file or none. Raises ValueError for what is no such model."""
    data = Path(model).read_bytes()
    dim, ffn, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", data)
    kv_dim = dim // heads * kv_heads
    # In the file's order; rows of a matrix are its outputs.
    shapes = {
        "token_embd": (abs(vocab), dim),
        "attn_norm": (layers, dim),
        "attn_q": (layers, dim, dim),
        "attn_k": (layers, kv_dim, dim),
        "attn_v": (layers, kv_dim, dim),
        "attn_output": (layers, dim, dim),
        "ffn_norm": (layers, dim),
        "ffn_gate": (layers, ffn, dim),
        "ffn_down": (layers, dim, ffn),
        "ffn_up": (layers, ffn, dim),
        "output_norm": (dim,),
        "rotation": (context, dim // heads),
    }
    if vocab < 0:
        shapes["output"] = (-vocab, dim)
    numbers = np.frombuffer(data, "<f4", offset=28)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if sum(sizes) != len(numbers):
        raise ValueError(f"{model} has {len(numbers)} numbers, and its header asks for {sum(sizes)}")
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    tensors = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts)}
    # The rotation's table is not needed. Llama in GGUF turns neighbours, as this format does.
    del tensors["rotation"]

    part = Path(out).with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_name(Path(model).stem)
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(ffn)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(abs(vocab))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, Path(tokenizer).read_bytes(), abs(vocab))
    for name, tensor in tensors.items():
        if name.startswith(("attn_", "ffn_")):
            for layer in range(layers):
                writer.add_tensor(f"blk.{layer}.{name}.weight", tensor[layer])
        else:
            writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, out)


def add_tokenizer(writer, data, vocab):
    """The length of the longest piece, then for each token its score, its length and its bytes."""
    tokens, scores, types, place = [], [], [], 4
    for token in range(vocab):
        score, length = struct.unpack_from("<fi", data, place)
        place += 8 + length
        # The file has spaces where SentencePiece writes its mark.
        tokens.append(data[place - length : place].decode().replace(" ", "▁"))
        scores.append(score)
        types.append(gguf.TokenType.BYTE if 3 <= token < 259 else gguf.TokenType.NORMAL)
    tokens[:3] = ["<unk>", "<s>", "</s>"]
    types[:3] = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    write(*sys.argv[1:])
