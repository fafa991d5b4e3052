#!/usr/bin/env python3
"""A cache over the link beside a hint in words: how long a receiver waits for the first token of its answer.

    cargo build --release
    smidgen link demo --preset small --out runs/link
    python3 benches/link_hint.py runs/link --rounds 40

Two processes over loopback TCP, one thread each, the models and the fuser of a demonstration. Each round asks the
sharer for one cache (int4, every token) and for twenty tokens of text. Both begin when the sharer has read the
question. The cache's time is everything from then until the sharer knows that the receiver has its first token, on the
sharer's clock; the hint's is its writing alone: that it travels and that the receiver reads it is left out, in its favour. Every message of the cache is made by a process
that has just begun, every hint by a session that is warm.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
HINT_TOKENS = 20
# The sharer's stages behind its reading; `reply` ends when the receiver has answered, so its stages lie within.
COUNTED = {"score", "allocate", "encode", "first_byte", "last_byte", "reply"}
PROMPT = "The home of Velan Linu is which? Arden, Belor, Corva, Dunel. Answer with just one option:"


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("demo", type=pathlib.Path, help="folder of `smidgen link demo`")
    args.add_argument("--smidgen", default=ROOT / "target/release/smidgen")
    args.add_argument("--rounds", type=int, default=40)
    args.add_argument("--prompt", default=PROMPT)
    args = args.parse_args()
    demo, program = args.demo, args.smidgen
    receiver = subprocess.Popen(
        [program, "link", "recv", demo / "receiver", "--ckpt", "last", "--fuser", demo / "fuser-sharer", "--json",
         "--count", str(args.rounds), "--max-tokens", "1", "--threads", "1"], stdout=subprocess.PIPE, text=True)
    address = json.loads(receiver.stdout.readline())["listening"]
    cache, hint, size, stages = [], [], 0, {}
    for _ in range(args.rounds):
        sent = run(program, "link", "send", demo / "sharer", "--ckpt", "last", "--to", address, "--prompt", args.prompt,
                   "--format", "int4", "--threads", "1", "--json")
        size = sent["container_bytes"]
        spent = [(side, stage["name"], stage["nanos"] / 1e6)
                 for side, all in (("sharer", sent["stages"]), ("receiver", sent["receiver"]["stages"])) for stage in all]
        for side, name, ms in spent:
            stages.setdefault(f"{side} {name}", []).append(ms)
        cache.append(sum(ms for side, name, ms in spent if side == "sharer" and name in COUNTED))
        wrote = run(program, "generate", demo / "sharer", "--ckpt", "last", "--prompt", args.prompt, "--temperature", "1",
                    "--max-tokens", HINT_TOKENS, "--threads", "1", "--json")
        hint.append(1e3 * HINT_TOKENS / wrote["tokens_per_s"])
    receiver.wait()
    for name, ms in stages.items():
        print(f"{name:24} {statistics.median(ms):8.3f} ms")
    for name, ms in (("cache to first token", cache), (f"writing {HINT_TOKENS} tokens", hint)):
        print(f"{name:24} {statistics.median(ms):8.3f} ms, {min(ms):.3f} to {max(ms):.3f}")
    ratio = statistics.median(hint) / statistics.median(cache)
    print(f"{size} bytes of container, {args.rounds} rounds: the cache is there {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
