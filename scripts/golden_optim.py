#!/usr/bin/env python3
"""Writes testdata/golden/optim.json: trajectories of Lion, SGD, Adafactor and Muon in 64 bits.

Run from the repository root with torch and bitsandbytes installed:  python3 scripts/golden_optim.py
SGD and Adafactor are PyTorch's own. Lion is its formula, checked here against bitsandbytes; Muon is
its formula in 64 bits, checked here against torch.optim.Muon, which multiplies in bf16. Options that
neither library has (Polar Express, rows, cautious decay, decoupled decay of SGD) are formulas alone,
written without looking at the Rust rules.
"""

import json
import math

import torch

STEPS, KEPT = 20, (1, 2, 5, 20)
QUINTIC = [(3.4445, -4.7750, 2.0315)] * 5
EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def start(shape):
    count = shape[0] * shape[1]
    values = torch.tensor([math.sin(1.7 * i + 0.3) for i in range(count)], dtype=torch.float32)
    return values.reshape(shape).double()


def gradient(shape, step):
    """Waves, with a value that has no gradient at even steps; exact in 32 bits."""
    count = shape[0] * shape[1]
    wave = [math.cos(0.9 * i * i + 2.3 * step) * 10.0 ** (-(i % 4)) for i in range(count)]
    if step % 2 == 0:
        wave[1] = 0.0
    return torch.tensor(wave, dtype=torch.float32).reshape(shape).double()


def polar(u, triples, margin):
    x = u / (u.norm() * margin)
    if u.shape[0] > u.shape[1]:
        x = x.T
    for a, b, c in triples:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if u.shape[0] > u.shape[1] else x


def lion(group, shape):
    b1, b2 = group.get("betas", (0.9, 0.99))
    lr, decay = group["lr"], group["weight_decay"]
    p, m = start(shape), torch.zeros(shape, dtype=torch.float64)
    for step in range(1, STEPS + 1):
        g = gradient(shape, step)
        update = torch.sign(b1 * m + (1 - b1) * g)
        p = p - lr * update - lr * decay * p
        m = b2 * m + (1 - b2) * g
        yield p


def sgd(group, shape):
    mu, lr, decay = group["momentum"], group["lr"], group["weight_decay"]
    p, m = start(shape), torch.zeros(shape, dtype=torch.float64)
    for step in range(1, STEPS + 1):
        g = gradient(shape, step)
        m = mu * m + g
        u = g + mu * m if group.get("nesterov") else m
        p = p - lr * decay * p - lr * u
        yield p


def muon(group, shape):
    mu, lr, decay = group.get("momentum", 0.95), group["lr"], group["weight_decay"]
    quintic = group.get("polar") == "newton-schulz"
    p, m = start(shape), torch.zeros(shape, dtype=torch.float64)
    rows = torch.zeros((shape[0], 1), dtype=torch.float64)
    if group.get("scale") == "spectral":
        scale = math.sqrt(max(1, shape[0] / shape[1]))
    else:
        scale = 0.2 * math.sqrt(max(shape))
    for step in range(1, STEPS + 1):
        g = gradient(shape, step)
        m = mu * m + (1 - mu) * g
        u = (1 - mu) * g + mu * m if group.get("nesterov", True) else m
        o = polar(u, QUINTIC if quintic else EXPRESS, 1.0 if quintic else 1.01)
        if group.get("row_norm"):
            rows = 0.95 * rows + 0.05 * (o * o).mean(dim=1, keepdim=True)
            even = o / rows.sqrt()
            o = even * (o.norm() / even.norm())
        mask = (o * p >= 0).double() if group.get("cautious") else 1.0
        p = p - lr * decay * mask * p - lr * scale * o
        yield p


def by_torch(make, shape):
    """Each step of an optimizer of PyTorch's kind over one parameter."""
    p = torch.nn.Parameter(start(shape).to(make.dtype))
    optimizer = make([p])
    for step in range(1, STEPS + 1):
        p.grad = gradient(shape, step).to(make.dtype)
        optimizer.step()
        yield p.detach().clone().double()


class Make:
    """An optimizer's constructor with its arguments and the format of its parameters."""

    def __init__(self, kind, dtype=torch.float64, **arguments):
        self.kind, self.dtype, self.arguments = kind, dtype, arguments

    def __call__(self, params):
        return self.kind(params, **self.arguments)


def check(name, ours, theirs, tolerance):
    far = max((a - b).abs().max().item() for a, b in zip(ours, theirs))
    print(f"{name}: the formula is within {far:.2e} of the library")
    assert far < tolerance, name


def adafactor(group):
    relative = dict(lr=group["lr"], weight_decay=group["weight_decay"], eps=(1e-30, 1e-3))
    return Make(torch.optim.Adafactor, d=group.get("clip_rms", 1.0), **relative)


def cases():
    wide, tall = (3, 5), (5, 3)
    group = {"rule": "lion", "lr": 0.01, "weight_decay": 0.3}
    yield group, wide, lion(group, wide)
    group = {"rule": "lion", "lr": 0.02, "weight_decay": 0.0, "betas": [0.8, 0.95]}
    yield group, wide, lion(group, wide)
    group = {"rule": "sgd", "lr": 0.02, "weight_decay": 0.0, "momentum": 0.9}
    make = Make(torch.optim.SGD, lr=0.02, momentum=0.9)
    check("sgd", sgd(group, wide), by_torch(make, wide), 1e-12)
    yield group, wide, by_torch(make, wide)
    group = {**group, "nesterov": True}
    make = Make(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True)
    yield group, wide, by_torch(make, wide)
    group = {**group, "weight_decay": 0.2}
    yield group, wide, sgd(group, wide)
    group = {"rule": "sgd", "lr": 0.02, "weight_decay": 0.2, "momentum": 0.0}
    yield group, wide, sgd(group, wide)
    group = {"rule": "adafactor", "lr": 0.05, "weight_decay": 0.1, "relative_step": True}
    for shape in (wide, tall):
        yield group, shape, by_torch(adafactor(group), shape)
    group = {**group, "clip_rms": 1.25}
    yield group, wide, by_torch(adafactor(group), wide)
    base = {"rule": "muon", "lr": 0.02, "weight_decay": 0.1}
    for shape in (wide, tall):
        for more in (
            {},
            {"polar": "newton-schulz", "scale": "spectral"},
            {"polar": "newton-schulz", "nesterov": False, "momentum": 0.8},
            {"row_norm": True},
            {"cautious": True},
        ):
            yield {**base, **more}, shape, muon({**base, **more}, shape)


def check_libraries():
    import bitsandbytes as bnb

    shape = (3, 5)
    group = {"lr": 0.01, "weight_decay": 0.3}
    make = Make(bnb.optim.Lion32bit, torch.float32, betas=(0.9, 0.99), **group)
    check("lion", lion(group, shape), by_torch(make, shape), 1e-5)
    for shape in (shape, (5, 3)):
        for ours, theirs in (("rms", "match_rms_adamw"), ("spectral", "original")):
            group = {"lr": 0.02, "weight_decay": 0.1}
            make = Make(torch.optim.Muon, adjust_lr_fn=theirs, **group)
            group = {**group, "polar": "newton-schulz", "scale": ours}
            check(f"muon {ours}", muon(group, shape), by_torch(make, shape), 0.02)


def main():
    check_libraries()
    out = []
    for group, shape, trajectory in cases():
        kept = [p.flatten().tolist() for step, p in enumerate(trajectory, 1) if step in KEPT]
        out.append({"group": group, "shape": list(shape), "values": kept})
    shapes = {case["shape"][0]: case["shape"] for case in out}.values()
    inputs = [
        {
            "shape": shape,
            "start": start(shape).flatten().tolist(),
            "grads": [gradient(shape, step).flatten().tolist() for step in range(1, STEPS + 1)],
        }
        for shape in shapes
    ]
    with open("testdata/golden/optim.json", "w") as file:
        json.dump({"kept": list(KEPT), "inputs": inputs, "cases": out}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
