#!/usr/bin/env python3
"""Writes testdata/golden/stats.json: bootstrap intervals, McNemar, Spearman, quantiles.

Run from the repository root:  python3 scripts/golden_stats.py
Needs numpy. The counter-based generator is written again from its description, the test is summed in
whole numbers, and quantiles are numpy's own.
"""

import json
from fractions import Fraction
from math import comb

import numpy as np

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & M64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def stream_key(seed, name):
    fnv = 0xCBF29CE484222325
    for byte in name.encode():
        fnv = ((fnv ^ byte) * 0x100000001B3) & M64
    return mix64(seed ^ mix64(fnv))


def philox(counter, key):
    """Ten rounds of Philox4x32 on arrays of 64-bit integers that hold 32 bits each."""
    k0, k1 = key & M32, key >> 32
    a, b, c, d = counter
    for _ in range(10):
        low, high = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (
            (high >> np.uint64(32)) ^ b ^ np.uint64(k0),
            high & np.uint64(M32),
            (low >> np.uint64(32)) ^ d ^ np.uint64(k1),
            low & np.uint64(M32),
        )
        k0, k1 = (k0 + 0x9E3779B9) & M32, (k1 + 0xBB67AE85) & M32
    return a, b


def below(key, resamples, bound):
    """Draws [resamples, bound] in 0..bound: 64 bits times the bound, upper half."""
    step = np.arange(resamples, dtype=np.uint64)[:, None] ^ np.uint64(mix64(0))
    index = np.arange(bound, dtype=np.uint64)[None, :]
    step, index = np.broadcast_arrays(step, index)
    mask, half = np.uint64(M32), np.uint64(32)
    a, b = philox((index & mask, index >> half, step & mask, step >> half), key)
    # (b 2^32 + a) bound / 2^64 in pieces that fit 64 bits.
    n = np.uint64(bound)
    return ((b * n + ((a * n) >> half)) >> half).astype(np.int64)


def bootstrap(values, clusters, seed):
    ids = clusters if clusters is not None else list(range(len(values)))
    names = sorted(set(ids))
    sums = np.array([sum(v for v, i in zip(values, ids) if i == name) for name in names])
    counts = np.array([sum(1 for i in ids if i == name) for name in names])
    places = below(stream_key(seed, "bootstrap"), 10_000, len(names))
    means = sums[places].sum(axis=1) / counts[places].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    row = {"values": values, "clusters": clusters, "seed": seed}
    return row | {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def mcnemar(first, second):
    ours = sum(a and not b for a, b in zip(first, second))
    theirs = sum(b and not a for a, b in zip(first, second))
    n = ours + theirs
    tail = sum(comb(n, k) for k in range(min(ours, theirs) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def spearman(first, second):
    def ranks(values):
        return np.array([(sum(o < v for o in values) + sum(o <= v for o in values) + 1) / 2
                         for v in values])
    a, b = ranks(first), ranks(second)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def main():
    rng = np.random.default_rng(5)
    flags = lambda n, p: (rng.random(n) < p)
    out = {"bootstrap": [], "mcnemar": [], "spearman": [], "quantile": []}
    for n, seed in ((1, 0), (7, 1), (40, 2), (133, 12345678901234567890)):
        values = np.round(rng.normal(size=n), 6).tolist()
        out["bootstrap"].append(bootstrap(values, None, seed))
        out["bootstrap"].append(bootstrap(values, rng.integers(0, 1 + n // 4, n).tolist(), seed))
    hits = flags(64, 0.7).astype(float).tolist()
    out["bootstrap"].append(bootstrap(hits, [i // 4 for i in range(64)], 3))
    for n, p, q in ((10, 0.5, 0.5), (100, 0.9, 0.6), (3000, 0.52, 0.48), (20, 1.0, 0.0)):
        first, second = flags(n, p).tolist(), flags(n, q).tolist()
        out["mcnemar"].append([first, second, mcnemar(first, second)])
    for n, kinds in ((2, 9), (12, 4), (30, 1000), (5, 1)):
        first, second = (rng.integers(0, kinds, n).astype(float).tolist() for _ in range(2))
        out["spearman"].append([first, second, spearman(first, second)])
    for n in (1, 2, 5, 100):
        values = np.round(rng.normal(size=n), 6).tolist()
        for q in (0.0, 0.025, 0.5, 0.95, 1.0):
            out["quantile"].append([values, q, float(np.quantile(values, q))])
    with open("testdata/golden/stats.json", "w") as file:
        json.dump(out, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
