#!/usr/bin/env python3
"""Golden vectors of the number formats, made by the libraries whose formats they are.

    pip install bitsandbytes ml_dtypes gguf numpy torch
    python3 scripts/golden_formats.py

Writes testdata/golden/formats/*.bin, all little-endian: a u32 with the number of values, the values
as f32, then what the format makes of them:

    dynamic, dynamic-unsigned, nf4   an f32 absmax for each block, then the codes (bitsandbytes)
    nf4-dq                           mean (f32), f32 of each 256 absmaxes, their codes, the codes
    map-signed, map-unsigned         nothing: the values are the 256 levels
    fp8-e4m3, fp8-e5m2, e2m1         one code byte for each value (ml_dtypes, no scale)
    mxfp4, tq1_0, tq2_0              blocks (gguf)
    nvfp4                            values are what the blocks decode to (gguf has no encoder)
"""

from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import torch
from bitsandbytes import functional as bnb

FOLDER = Path(__file__).resolve().parent.parent / "testdata" / "golden" / "formats"
rng = np.random.default_rng(4)


def write(name, values, *parts):
    values = np.ascontiguousarray(values, dtype="<f4")
    parts = [np.ascontiguousarray(part).tobytes() for part in parts]
    data = np.uint32(values.size).tobytes() + values.tobytes() + b"".join(parts)
    (FOLDER / f"{name}.bin").write_bytes(data)
    print(f"{name}: {values.size} values, {len(data)} bytes")


def numbers(tensor):
    return tensor.cpu().numpy().reshape(-1)


def blocks(count, block):
    """Rows of normals over many sizes, the last ones of zeros and of few distinct values."""
    rows = rng.normal(size=(count, block)) * 10.0 ** rng.integers(-6, 4, size=(count, 1))
    rows[-1] = 0.0
    rows[-2] = np.where(np.arange(block) % 3 == 0, 2.5, -2.5)
    return rows.astype(np.float32)


def block_codes():
    # The code for f32 on CPUs takes a neighbour near midpoints, and is far off without a sign (as of
    # 0.50); that for other types compares with every level. It divides by 0 where all is 0.
    values = blocks(13, 256)
    values = values[np.abs(values).max(axis=1) > 0]
    for name, signed, data in [
        ("dynamic", True, values),
        ("dynamic-unsigned", False, np.exp(4 * rng.normal(size=(12, 256)) - 8).astype(np.float32)),
    ]:
        code = bnb.create_dynamic_map(signed=signed)
        write("map-signed" if signed else "map-unsigned", numbers(code))
        codes, absmax = torch.ops.bitsandbytes.quantize_blockwise(
            torch.from_numpy(data).double(), code, 256
        )
        write(name, data, numbers(absmax), numbers(codes))
    data = blocks(24, 64)
    codes, state = bnb.quantize_4bit(torch.from_numpy(data), blocksize=64, quant_type="nf4")
    write("nf4", data, numbers(state.absmax), numbers(codes))
    # More than one group of 256 absmaxes, the second one short.
    data = rng.normal(size=(260, 64)).astype(np.float32) * rng.uniform(0.5, 2, size=(260, 1))
    data = data.astype(np.float16).astype(np.float32)
    codes, state = bnb.quantize_4bit(
        torch.from_numpy(data), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    head = [numbers(state.offset.reshape(1)), numbers(state.state2.absmax), numbers(state.absmax)]
    write("nf4-dq", data, *head, numbers(codes))


def small_floats():
    """Values around every code and every tie, and normals."""
    for name, kind, top, codes in [
        ("fp8-e4m3", ml_dtypes.float8_e4m3fn, 448.0, 127),
        ("fp8-e5m2", ml_dtypes.float8_e5m2, 57344.0, 124),
        ("e2m1", ml_dtypes.float4_e2m1fn, 6.0, 8),
    ]:
        levels = np.arange(codes, dtype=np.uint8).view(kind).astype(np.float32)
        ties = (levels[:-1] + levels[1:]) / 2
        edges = np.concatenate([levels, ties, np.nextafter(ties, 0), np.nextafter(ties, top)])
        values = np.concatenate([edges, -edges, rng.normal(size=256) * top / 8])
        values = np.clip(values, -top, top).astype(np.float32)
        write(name, values, values.astype(kind).view(np.uint8))


def gguf_blocks():
    kinds = gguf.GGMLQuantizationType
    values = blocks(12, 64)
    write("mxfp4", values, gguf.quants.quantize(values, kinds.MXFP4))
    values = np.concatenate([blocks(6, 256), rng.integers(-1, 2, size=(4, 256)) * np.float32(0.375)])
    values = values.astype(np.float32)
    write("tq1_0", values, gguf.quants.quantize(values, kinds.TQ1_0))
    write("tq2_0", values, gguf.quants.quantize(values, kinds.TQ2_0))
    coded = rng.integers(0, 256, size=(12, 36), dtype=np.uint8)
    coded[:, :4] = rng.integers(0, 0x7F, size=(12, 4))
    write("nvfp4", gguf.quants.dequantize(coded, kinds.NVFP4), coded)


FOLDER.mkdir(parents=True, exist_ok=True)
block_codes()
small_floats()
gguf_blocks()
