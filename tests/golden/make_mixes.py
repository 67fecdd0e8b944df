"""Which tensor gets which type: records what llama.cpp's own quantisation makes of small models.

    bench/.peers/bin/python tests/golden/make_mixes.py bench/.peers/llama_cpp/llama_peer

`bench/run infer` builds that program. Writes tests/golden/mixes.json; weights do not matter and are zeros but for one.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

TYPES = """F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL
IQ4_XS""".split()
VOCABULARY = 64
# Architecture, layers, heads, heads of keys and values, width of the stream and of the feed-forward half, tied or not.
MODELS = {
    "llama": ("llama", 18, 4, 4, 256, 512, False),
    "llama_shared_heads": ("llama", 10, 8, 2, 256, 512, True),
    "llama_odd": ("llama", 3, 3, 3, 288, 320, False),
    "llama_tiny": ("llama", 2, 4, 4, 80, 80, True),
    "phi3": ("phi3", 18, 4, 4, 256, 512, False),
    "openelm": ("openelm", 9, 4, 2, 256, 512, True),
}


def tensors_of(kind, layers, heads, kv_heads, dim, ffn, tied):
    """Names and shapes, slowest axis first."""
    kv = dim // heads * kv_heads
    yield "token_embd.weight", (VOCABULARY, dim)
    yield "output_norm.weight", (dim,)
    if not tied:
        yield "output.weight", (VOCABULARY, dim)
    for layer in range(layers):
        at = f"blk.{layer}."
        yield at + "attn_norm.weight", (dim,)
        yield at + "ffn_norm.weight", (dim,)
        yield at + "attn_output.weight", (dim, dim)
        yield at + "ffn_down.weight", (dim, ffn)
        if kind == "llama":
            yield at + "attn_q.weight", (dim, dim)
            yield at + "attn_k.weight", (kv, dim)
            yield at + "attn_v.weight", (kv, dim)
        else:
            yield at + "attn_qkv.weight", (dim + 2 * kv, dim)
        if kind == "openelm":
            yield at + "attn_q_norm.weight", (dim // heads,)
            yield at + "attn_k_norm.weight", (dim // heads,)
        if kind != "phi3":
            yield at + "ffn_gate.weight", (ffn, dim)
        yield at + "ffn_up.weight", (2 * ffn if kind == "phi3" else ffn, dim)


def write(path, kind, layers, heads, kv_heads, dim, ffn, tied):
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    for name, shape in tensors_of(kind, layers, heads, kv_heads, dim, ffn, tied):
        values = np.zeros(shape, np.float32)
        values.flat[0] = 1
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def types_of(path):
    """Names of the types by tensor: one for all layers, or theirs in their order."""
    types = {}
    for tensor in sorted(gguf.GGUFReader(path).tensors, key=lambda tensor: layer_of(tensor.name)):
        name = tensor.name.split(".", 2)[2] if tensor.name.startswith("blk.") else tensor.name
        if len(tensor.shape) > 1:
            types.setdefault(name, []).append(tensor.tensor_type.name)
    return {name: " ".join(kinds if len(set(kinds)) > 1 else kinds[:1]) for name, kinds in sorted(types.items())}


def layer_of(name):
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def main(peer):
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            source, target = Path(folder) / "source.gguf", Path(folder) / "target.gguf"
            write(source, *model)
            keys = ("architecture", "layers", "heads", "kv_heads", "dim", "ffn", "tied")
            out[name] = dict(zip(keys, model)) | {"types": {}}
            for kind in TYPES:
                ended = subprocess.run([peer, "quantize", source, target, kind], capture_output=True, text=True)
                if ended.returncode != 0:
                    sys.exit(f"{name} as {kind}:\n{ended.stderr}")
                out[name]["types"][kind] = types_of(target)
    path = Path(__file__).parent / "mixes.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
