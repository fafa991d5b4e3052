#!/usr/bin/env python3
"""Writes testdata/golden/wilson.json: 95 % Wilson intervals as [hits, of, low, high].

Run from the repository root:  python3 scripts/golden_wilson.py
The ends are the roots p of (k/n - p)^2 = z^2 p (1 - p) / n, solved in 50 digits: the definition of
the interval, not the closed form of the Rust code.
"""

import json
from decimal import Decimal, getcontext
from statistics import NormalDist

getcontext().prec = 50


def quantile():
    """The 97.5 % point: a float start, then Newton steps on the error function's series."""
    x = Decimal(NormalDist().inv_cdf(0.975))
    pi = Decimal("3.14159265358979323846264338327950288419716939937511")
    for _ in range(3):
        term, total, k = x, x, 0
        while abs(term) > Decimal(10) ** -48:
            k += 1
            term = term * (-x * x) / (2 * k)
            total += term / (2 * k + 1)
        density = (-x * x / 2).exp() / (2 * pi).sqrt()
        x -= (Decimal("0.5") + total / (2 * pi).sqrt() - Decimal("0.975")) / density
    return x


def interval(hits, of, z):
    n, p = Decimal(of), Decimal(hits) / Decimal(of)
    a, b, c = 1 + z * z / n, -(2 * p + z * z / n), p * p
    root = (b * b - 4 * a * c).sqrt()
    return float((-b - root) / (2 * a)), float((-b + root) / (2 * a))


def main():
    z = quantile()
    rows = []
    for of in (1, 2, 5, 10, 32, 64, 100, 1000):
        for hits in sorted({0, 1, of // 3, of // 2, of - 1, of}):
            rows.append([hits, of, *interval(hits, of, z)])
    with open("testdata/golden/wilson.json", "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
