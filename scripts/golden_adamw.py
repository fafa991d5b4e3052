#!/usr/bin/env python3
"""Writes testdata/golden/adamw.json: AdamW in plain 64-bit Python, one value at a time.

Run from the repository root:  python3 scripts/golden_adamw.py
The formula is algorithm 2 of arXiv 1711.05101, written without looking at the Rust rule.
"""

import json
import math
import struct

LR, BETA1, BETA2, EPS, DECAY = 0.01, 0.9, 0.95, 1e-8, 0.1
STEPS = 200
START = [1.0, -0.5, 0.25, 2.0, 0.0, -1.5]


def as_f32(x):
    """Gradients reach the rule in 32 bits, so both sides start from the same numbers."""
    return struct.unpack("f", struct.pack("f", x))[0]


def gradient(step, index, value):
    """A slope towards 0.3 with a wave in it; the last value gets a gradient every other step."""
    if index == 5 and step % 2 == 0:
        return 0.0
    return as_f32(0.5 * (value - 0.3) + math.sin(0.7 * step + 1.3 * index) * 10.0 ** (-index / 2))


def main():
    values, m, v = list(START), [0.0] * len(START), [0.0] * len(START)
    grads, trajectory = [], []
    for step in range(1, STEPS + 1):
        grads.append([gradient(step, i, x) for i, x in enumerate(values)])
        for i, g in enumerate(grads[-1]):
            m[i] = BETA1 * m[i] + (1 - BETA1) * g
            v[i] = BETA2 * v[i] + (1 - BETA2) * g * g
            m_hat = m[i] / (1 - BETA1**step)
            v_hat = v[i] / (1 - BETA2**step)
            values[i] = values[i] - LR * DECAY * values[i] - LR * m_hat / (math.sqrt(v_hat) + EPS)
        trajectory.append(list(values))
    out = {
        "lr": LR, "betas": [BETA1, BETA2], "eps": EPS, "weight_decay": DECAY,
        "start": START, "grads": grads, "trajectory": trajectory,
    }
    with open("testdata/golden/adamw.json", "w") as file:
        json.dump(out, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
