"""Writes tests/golden/quant/: random blocks of every quantised format, and the weights that they stand for.

The answers are those of the package `gguf`, which reads these formats with NumPy. Every byte of a block is random but
for those of its f16 scales, which are random numbers of either sign, subnormal ones among them.
"""

from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent / "quant"
SCALES = {  # where in the block f16 values are
    "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "q2_k": [80, 82], "q3_k": [108], "q4_k": [0, 2],
    "q5_k": [0, 2], "q6_k": [208], "iq4_nl": [0], "iq4_xs": [0],
}  # fmt: skip
WEIGHTS = 768


def main():
    HERE.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for name, places in SCALES.items():
        kind = gguf.GGMLQuantizationType[name.upper()]
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        n_blocks = WEIGHTS // weights
        blocks = random.integers(0, 256, (n_blocks, size), dtype=np.uint8)
        for place in places:
            exponents = random.uniform(-24, 4, n_blocks)
            scales = (random.choice([-1.0, 1.0], n_blocks) * 2.0**exponents).astype("<f2")
            blocks[:, place : place + 2] = scales.view(np.uint8).reshape(n_blocks, 2)
        expected = gguf.quants.dequantize(blocks, kind).astype("<f4")
        assert expected.size == WEIGHTS and np.isfinite(expected).all()
        (HERE / f"{name}.blocks").write_bytes(blocks.tobytes())
        (HERE / f"{name}.f32").write_bytes(expected.tobytes())


if __name__ == "__main__":
    main()
