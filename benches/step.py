#!/usr/bin/env python3
"""Training step, smidgen beside PyTorch: both in turn on the same machine, one table of ratios at the end.

    cargo build --release
    python3 benches/step.py --torch-python PYTHON --torch-script torch_step.py --rounds 5

PYTHON is an interpreter that has torch; torch_step.py is the peer (one JSON line per mode). A round runs every
mode of both once, so that a change of the machine's clock or load meets all of them. The medians count.
The peer of a ratio is the fastest PyTorch mode that keeps f32 master weights (eager, compile, bf16, bf16c);
modes with bf16 parameters are shown beside them. `import` is a process that only imports torch: its memory is
what PyTorch costs before there is a model, so every memory ratio is shown with and without it.
Model sizes are passed on to both: --width 768 --layers 4 --heads 12 --ffn 2048 --vocab 8192 --context 512 --batch 4.
"""
import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = dict(vocab=4096, width=384, layers=6, heads=6, ffn=1024, context=256, batch=8, steps=12, threads=2)
MASTERS = ["eager", "compile", "bf16", "bf16c"]
OURS = {
    "bf16": ["--mode", "bf16"],
    "bf16 clip": ["--mode", "bf16", "--clip", "global"],
    "f32": ["--mode", "f32"],
}


def sizes(args):
    """The sizes as flags, which both programs spell alike."""
    return [part for name in SIZES for part in (f"--{name}", str(getattr(args, name)))]


def last_object(command, log, label):
    """Runs a command and gives the JSON object on its last line, or None when it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        tail = "\n".join(done.stderr.strip().splitlines()[-3:])
        print(f"  {label}: failed ({done.returncode}): {tail}", file=sys.stderr)
        return None
    result = json.loads(lines[-1])
    # Programs by name: the log is kept, and folders belong to one machine.
    shown = [pathlib.PurePath(part).name if "/" in str(part) else str(part) for part in command]
    log.write(json.dumps(dict(run=label, command=shown, result=result)) + "\n")
    log.flush()
    return result


def one_round(args, log):
    """Every mode once; yields (label, result)."""
    ours = {name: flags for name, flags in OURS.items() if name in args.ours}
    for name, flags in ours.items():
        command = [args.smidgen, "bench", "step", *flags, *sizes(args), "--json", "--no-limits"]
        yield f"smidgen {name}", last_object(command, log, f"smidgen {name}")
        if args.decode and "clip" not in name:
            flags = [flag for flag in sizes(args)]
            at = flags.index("--steps")
            command = [args.smidgen, "bench", "decode", *OURS[name], *flags[:at], *flags[at + 2:]]
            yield f"smidgen {name} decode", last_object([*command, "--json", "--no-limits"], log, f"smidgen {name} decode")
    for mode in args.modes if args.torch_python else []:
        command = [args.torch_python, args.torch_script, "--mode", mode, *sizes(args)]
        yield f"torch {mode}", last_object(command, log, f"torch {mode}")


def median_of(results, label, key):
    """The middle value of one figure over the rounds, or None."""
    values = [result[key] for result in results.get(label, []) if result and key in result]
    return statistics.median(values) if values else None


def row(cells):
    return "| " + " | ".join(cells) + " |"


def figures(results, label):
    """One line of the first table."""
    rate, ms, rss = (median_of(results, label, key) for key in ("tokens_per_s", "step_ms", "peak_rss_mib"))
    show = lambda value: "-" if value is None else f"{value:.0f}"
    count = sum(result is not None for result in results[label])
    return row([label, show(rate), show(ms), show(rss), str(count)])


def speed_table(results):
    labels = [label for label in results if not label.endswith("decode")]
    return [row(["engine", "tokens/s", "step ms", "peak MiB", "runs"]), row(["---"] + ["---:"] * 4),
            *(figures(results, label) for label in labels)]


def fastest(results, modes):
    """The fastest PyTorch mode among `modes` that ran, or None."""
    rates = {mode: median_of(results, f"torch {mode}", "tokens_per_s") for mode in modes}
    rates = {mode: rate for mode, rate in rates.items() if rate is not None}
    return max(rates, key=rates.get) if rates else None


def ratio(ours, theirs, digits=2):
    return "-" if not ours or not theirs or theirs <= 0 else f"{ours / theirs:.{digits}f}x"


def ratio_table(results):
    """Ours against the best peer: all four f32-master modes for bf16, the f32 ones for f32."""
    lines = [row(["smidgen", "against", "speed", "peak memory", "net of import"]), row(["---", "---"] + ["---:"] * 3)]
    base = median_of(results, "torch import", "peak_rss_mib")
    for name in OURS:
        label = f"smidgen {name}"
        peer = fastest(results, MASTERS if "bf16" in name else ["eager", "compile"])
        if label not in results or peer is None:
            continue
        rate, rss = (median_of(results, label, key) for key in ("tokens_per_s", "peak_rss_mib"))
        peer_rate, peer_rss = (median_of(results, f"torch {peer}", key) for key in ("tokens_per_s", "peak_rss_mib"))
        net = ratio(rss, peer_rss - base) if base and peer_rss else "-"
        lines.append(row([name, f"torch {peer}", ratio(rate, peer_rate), ratio(rss, peer_rss), net]))
    return lines


def decode_table(results):
    """Prefill and single-token decoding, and their ratio to the fastest decoding mode of PyTorch, bf16p."""
    keys = ("prefill_tokens_per_s", "decode_tokens_per_s")
    lines = [row(["engine", "prefill tokens/s", "decode tokens/s", "prefill / bf16p", "decode / bf16p"])]
    lines.append(row(["---"] + ["---:"] * 4))
    peer = [median_of(results, "torch bf16p", key) for key in keys]
    for label in results:
        values = [median_of(results, label, key) for key in keys]
        if None not in values:
            ratios = [ratio(ours, theirs) if theirs else "-" for ours, theirs in zip(values, peer)]
            lines.append(row([label, *(f"{value:.0f}" for value in values), *ratios]))
    return lines if len(lines) > 2 else []


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", default="eager,compile,bf16,bf16c,bf16p,bf16pc,import", help="of PyTorch")
    parser.add_argument("--ours", default=",".join(OURS), help="modes of smidgen")
    parser.add_argument("--torch-python", help="an interpreter that has torch; without it only smidgen runs")
    parser.add_argument("--torch-script", help="the peer, torch_step.py")
    parser.add_argument("--smidgen", default=ROOT / "target" / "release" / "smidgen", type=pathlib.Path)
    parser.add_argument("--decode", action="store_true", help="measure prefill and decoding as well")
    parser.add_argument("--log", type=pathlib.Path, default=pathlib.Path("step.jsonl"), help="raw results")
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.modes = [mode for mode in args.modes.split(",") if mode]
    args.ours = [mode for mode in args.ours.split(",") if mode]
    for mode in args.ours:
        if mode not in OURS:
            parser.error(f"unknown mode `{mode}` of --ours, expected one of: {', '.join(OURS)}")
    if bool(args.torch_python) != bool(args.torch_script):
        parser.error("--torch-python and --torch-script go together")
    if not args.smidgen.is_file():
        parser.error(f"{args.smidgen} is not there; run `cargo build --release` first")
    return args


def main():
    args = parse()
    results = {}
    with args.log.open("w") as log:
        limits = last_object([args.smidgen, "bench", "limits", "--json", "--threads", str(args.threads)], log, "limits")
        for number in range(1, args.rounds + 1):
            print(f"round {number} of {args.rounds}", file=sys.stderr)
            for label, result in one_round(args, log):
                results.setdefault(label, []).append(result)
    print(f"{datetime.date.today()}, {' '.join(sizes(args))}, medians of {args.rounds} interleaved rounds\n")
    print("\n".join(speed_table(results)) + "\n")
    print("\n".join(ratio_table(results)))
    if decode := decode_table(results):
        print("\n" + "\n".join(decode))
    if limits:
        giga = lambda rate: f"{rate['all'] / 1e9:.0f}" if rate else "none"
        print(f"\nlimits on {limits['threads']} threads: f32 {giga(limits['f32_ops_per_s'])} GFLOP/s, bf16 "
              f"{giga(limits['bf16_ops_per_s'])}, int8 {giga(limits['int8_ops_per_s'])}, "
              f"copy {giga(limits['copy_bytes_per_s'])} GB/s")


if __name__ == "__main__":
    main()
