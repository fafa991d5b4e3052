#!/usr/bin/env python3
"""Optimizer updates, smidgen beside PyTorch and bitsandbytes: all in turn on one machine, ratios at the end.

    cargo build --release
    python3 benches/optim.py --python PYTHON --rounds 3

PYTHON is an interpreter that has torch and bitsandbytes. Each measurement is a process of its own: three f32 matrices
of 4096 x 4096, f32 gradients, two threads, one update that is not counted and then some that are; its median counts,
and of the rounds the median of those. Peers run as they come, and again with the allocator setting that helps them most
(freed memory kept, huge pages), since ours has it built in. Muon is measured on one matrix, because it takes seconds.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What is measured: name, our flags, the peer, and the least ratio that is asked for.
PAIRS = [
    ("AdamW f32", ["--rule", "adamw"], "adamw", 0.95),
    ("AdamW int8-dynamic", ["--rule", "adamw", "--state", "int8-dynamic"], "adamw8bit", 12),
    ("Lion int8-dynamic", ["--rule", "lion", "--state", "int8-dynamic"], "lion8bit", 25),
    ("Lion int8", ["--rule", "lion", "--state", "int8/256"], "lion8bit", 25),
    ("Muon", ["--rule", "muon", "--set", "polar=\"newton-schulz\""], "muon", 1.2),
    ("Muon int8", ["--rule", "muon", "--set", "polar=\"newton-schulz\"", "--state", "int8/2048"], "muon", 1.2),
]
HUGE_PAGES = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "67108864",
}


def peer(name, side, count, repeats, threads):
    """One peer in this process; prints an object."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(side, side) * 0.02) for _ in range(count)]
    for param in params:
        param.grad = torch.randn(side, side) * 1e-3
    if name == "adamw":
        optimizer = torch.optim.AdamW(params, lr=1e-3, fused=True)
    elif name == "muon":
        optimizer = torch.optim.Muon(params, lr=1e-3)
    else:
        import bitsandbytes

        made = {"adamw8bit": bitsandbytes.optim.AdamW8bit, "lion8bit": bitsandbytes.optim.Lion8bit}
        optimizer = made[name](params, lr=1e-3)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        optimizer.step()
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"median_ms": statistics.median(times[1:]), "torch": torch.__version__}))


def last_object(command, env, log, label):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        sys.exit(f"{label}: failed ({done.returncode}): {done.stderr.strip()[-400:]}")
    result = json.loads(lines[-1])
    # Programs by name: the log is kept, and folders belong to one machine.
    shown = [pathlib.PurePath(part).name if "/" in part and os.path.exists(part) else part for part in command]
    log.write(json.dumps(dict(run=label, command=shown, result=result)) + "\n")
    log.flush()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch and bitsandbytes")
    parser.add_argument("--smidgen", default=str(ROOT / "target" / "release" / "smidgen"))
    parser.add_argument("--log", type=pathlib.Path, default=pathlib.Path("optim.jsonl"), help="raw results")
    parser.add_argument("--only", default="", help="updates whose name begins with this")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args.peer, args.side, args.count, args.repeats, args.threads)
    pairs = [pair for pair in PAIRS if pair[0].startswith(args.only)]
    if not pairs:
        parser.error(f"--only {args.only!r}: expected the beginning of one of {', '.join(pair[0] for pair in PAIRS)}")
    times = {}
    with args.log.open("w") as log:
        limits = [args.smidgen, "bench", "limits", "--json", "--threads", str(args.threads)]
        copy = last_object(limits, {}, log, "limits")["copy_bytes_per_s"]["all"]
        for number in range(args.rounds):
            for name, flags, other, _ in pairs:
                slow = other == "muon"
                sizes = ["--count", "1" if slow else "3", "--repeats", "2" if slow else str(args.repeats)]
                threads = ["--threads", str(args.threads)]
                shape = ["--shape", f"{args.side}x{args.side}", "--json"]
                ours = [args.smidgen, "bench", "optim-step", *flags, *sizes, *threads, *shape]
                times.setdefault(name, []).append(last_object(ours, {}, log, name))
                if (other, number) in times:
                    continue
                theirs = [args.python, __file__, "--peer", other, "--side", str(args.side), *sizes, *threads]
                times[(other, number)] = True
                for label, env in [(other, {}), (f"{other} huge pages", HUGE_PAGES)]:
                    times.setdefault(label, []).append(last_object(theirs, env, log, label)["median_ms"])
    heading = ["update", "ms", "GB/s", "of copy", "state bytes a value", "peer", "ms as it comes", "ms with huge pages"]
    heading += ["ratio", "with huge pages", "asked for"]
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    for name, _, other, asked in pairs:
        ours = statistics.median(run["median_ms"] for run in times[name])
        rate = statistics.median(run["traffic_bytes_per_s"] for run in times[name])
        plain, huge = (statistics.median(times[label]) for label in [other, f"{other} huge pages"])
        state = times[name][0]["state_bytes_per_value"]
        print(
            f"| {name} | {ours:.1f} | {rate / 1e9:.1f} | {100 * rate / copy:.0f} % | {state:.3f} "
            f"| {other} | {plain:.0f} | {huge:.0f} | {plain / ours:.2f}x | {huge / ours:.2f}x | {asked}x |"
        )
    print(f"\ncopy on {args.threads} threads: {copy / 1e9:.0f} GB/s, {args.rounds} interleaved rounds")


if __name__ == "__main__":
    main()
