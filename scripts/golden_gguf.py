#!/usr/bin/env python3
"""A golden GGUF file, made by the reference Python package of the format.

    pip install gguf numpy
    python3 scripts/golden_gguf.py

Writes testdata/golden/small.gguf: every type of key, arrays of three kinds, tensors of four types.
"""

from pathlib import Path

import gguf
import numpy as np

path = Path(__file__).resolve().parent.parent / "testdata" / "golden" / "small.gguf"
writer = gguf.GGUFWriter(path, "llama")
writer.add_uint8("k.u8", 255)
writer.add_int8("k.i8", -1)
writer.add_uint16("k.u16", 65535)
writer.add_int16("k.i16", -2)
writer.add_uint32("k.u32", 1 << 31)
writer.add_int32("k.i32", -3)
writer.add_float32("k.f32", 1e-5)
writer.add_bool("k.bool", True)
writer.add_string("k.str", "größer\n")
writer.add_array("k.strs", ["", "Ġthe", "x"])
writer.add_array("k.ints", [1, -2, 3])
writer.add_array("k.floats", [0.5, -1.5])
writer.add_uint64("k.u64", 1 << 63)
writer.add_int64("k.i64", -4)
writer.add_float64("k.f64", 0.1)
values = np.arange(64, dtype=np.float32).reshape(2, 32) / 8 - 4
writer.add_tensor("a.f32", values)
writer.add_tensor("b.vector", values[0])
for name, kind in [
    ("c.f16", gguf.GGMLQuantizationType.F16),
    ("d.q8_0", gguf.GGMLQuantizationType.Q8_0),
    ("e.bf16", gguf.GGMLQuantizationType.BF16),
]:
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(f"{path.name}: {path.stat().st_size} bytes")
