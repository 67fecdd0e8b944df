"""Writes `gguf/every_type.gguf` with the `gguf` package: every type of metadata, and tensors of several types.

The values follow rules that the test repeats: see `crates/model/tests/gguf.rs`.
With a file as argument, reads that with the package instead and prints what is in it.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

FILE = Path(__file__).parent / "gguf" / "every_type.gguf"
KIND = gguf.GGUFValueType


def write():
    FILE.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(FILE, "golden")
    numbers = [
        ("u8", KIND.UINT8, 200), ("i8", KIND.INT8, -100), ("u16", KIND.UINT16, 60000), ("i16", KIND.INT16, -30000),
        ("u32", KIND.UINT32, 4000000000), ("i32", KIND.INT32, -2000000000), ("u64", KIND.UINT64, 2**64 - 1),
        ("i64", KIND.INT64, -(2**63)), ("f32", KIND.FLOAT32, 0.1), ("f64", KIND.FLOAT64, 0.1),
    ]
    for name, kind, value in numbers:
        writer.add_key_value(f"golden.{name}", value, kind)
        writer.add_key_value(f"golden.{name}s", [value, type(value)(1), type(value)(2)], KIND.ARRAY, kind)
    writer.add_bool("golden.bool", True)
    writer.add_array("golden.bools", [True, False, True])
    writer.add_string("golden.string", "Grün, 中文, 🐈\n")
    writer.add_array("golden.strings", ["a", "", "▁b", "ç"])
    writer.add_array("golden.nested", [[1, 2, 3], [4], [5, 6]])

    writer.add_tensor("vector", np.arange(5, dtype=np.float32) / 4)
    writer.add_tensor("matrix", (np.arange(6, dtype=np.float16) / 8).reshape(2, 3))
    weights = np.sin(np.arange(3 * 2 * 64, dtype=np.float32)).reshape(3, 2, 64)
    for kind in [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.BF16]:
        writer.add_tensor(f"cube.{kind.name}", gguf.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("indices", np.arange(4, dtype=np.int32).reshape(1, 2, 2, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(FILE, FILE.stat().st_size, "bytes")


def show(path):
    reader = gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        print(key, [kind.name for kind in field.types], str(field.contents())[:80])
    for tensor in reader.tensors:
        print(tensor.name, tensor.shape.tolist(), tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)


if __name__ == "__main__":
    show(sys.argv[1]) if len(sys.argv) > 1 else write()
