#!/usr/bin/env python3
"""Writes testdata/golden/one_cycle.json: rates and first betas of PyTorch's OneCycleLR.

Run from the repository root, with torch installed:  python3 scripts/golden_one_cycle.py
"""

import json

import torch

CASES = [(10, False), (100, False), (1000, False), (10, True), (100, True), (1000, True)]


def values(total, three_phase):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, three_phase=three_phase
    )
    rows = []
    for step in range(total):
        group = optimizer.param_groups[0]
        if step % max(1, total // 25) == 0 or step == total - 1:
            rows.append([step, group["lr"], group["betas"][0]])
        optimizer.step()
        schedule.step() if step + 1 < total else None
    return {"total": total, "three_phase": three_phase, "rows": rows}


def main():
    cases = [values(*case) for case in CASES]
    with open("testdata/golden/one_cycle.json", "w") as file:
        json.dump({"made_with": f"torch {torch.__version__.split('+')[0]}", "cases": cases}, file)
        file.write("\n")


main()
