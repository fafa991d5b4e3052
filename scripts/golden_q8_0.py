#!/usr/bin/env python3
"""Golden blocks of the q8_0 format, made by the reference Python package of the GGUF format.

    pip install gguf numpy
    python3 scripts/golden_q8_0.py

Writes testdata/golden/q8_0.bin: the number of values (u32), the values (f32), their blocks; all
little-endian. Rows have 64 values, so that each is two blocks.
"""

from pathlib import Path

import gguf
import numpy as np

rng = np.random.default_rng(1)
rows = [
    rng.normal(size=(24, 64)),
    rng.normal(size=(4, 64)) * 1e-4,
    # Scales that are subnormal in f16, and one that becomes zero.
    rng.normal(size=(2, 64)) * 1e-5,
    rng.normal(size=(2, 64)) * 1e-9,
    rng.normal(size=(2, 64)) * 1e5,
    np.zeros((1, 64)),
    # Ties: the scale is 1, the values lie half-way between codes.
    np.concatenate([[[127.0]], np.arange(-31, 32)[None, :] + 0.5], axis=1),
    np.full((1, 64), -3.25),
]
values = np.concatenate(rows).astype("<f4")
blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
path = Path(__file__).resolve().parent.parent / "testdata" / "golden" / "q8_0.bin"
path.write_bytes(np.uint32(values.size).tobytes() + values.tobytes() + blocks.tobytes())
print(f"{path.name}: {values.size} values, {blocks.size} bytes of blocks")
