#!/usr/bin/env python3
"""Exports a model in every format and compares it with other programs: called by verify-export.sh.

Ours are the ids and negative log-likelihoods of `smidgen eval --per-token` and the text of
`smidgen generate --temperature 0`. The likelihood of a token is its logit less the logarithm of the
sum of all exponentials, so that a difference in it is one of logits.
"""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Difference of likelihoods in nats: of f32 weights the largest, of others the mean. llama.cpp rounds
# activations to f16, bf16 or blocks of 8 bits before products with such weights, which is no error of
# the file; where a model is sure of itself, single tokens differ by much more than the mean.
TOLERANCE = {"f32": 1e-3, "f16": 2e-3, "bf16": 2e-2, "q8_0": 5e-2}
TEXTS, MOST_BYTES, GREEDY_TOKENS = 300, 110, 48
PROMPTS = ["", "The ", "smidgen train", "Every figure ", "| option |", "fn main() {"]
PIECES = ["the ", "train", "  ", "\n", "\t", "don't", "I'LL ", "123456", "é", "löwe", "我想", "🦙", "\u00a0",
          "<|endoftext|>", "<s>", "</s>", "!?…", "ﬁ", "==", "x_1", "▁", "\r\n", "A", "."]


def texts(known):
    """Sentences, and pieces thrown together; each far shorter than any context."""
    rng = random.Random(11)
    lines = [line for path in sorted(Path("docs").glob("*.md")) for line in path.read_text().splitlines()]
    found = [line for line in lines if known(line)]
    while len(found) < TEXTS:
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 12)))
        if known(text):
            found.append(text)
    rng.shuffle(found)
    return found[:TEXTS]


class Refused(Exception):
    """Our program did not do what was asked for."""


class Verify:
    def __init__(self, smidgen, model, work):
        self.smidgen, self.model, self.work = smidgen, model, Path(work)
        self.name, self.failed = Path(model).name, False
        self.texts = texts(lambda text: 0 < len(text.encode()) <= MOST_BYTES)
        folder = self.work / "texts"
        folder.mkdir(exist_ok=True)
        self.files = [folder / f"{index:03}.txt" for index in range(len(self.texts))]
        for path, text in zip(self.files, self.texts):
            path.write_bytes(text.encode())

    def say(self, good, text):
        self.failed |= not good
        print(f"{'ok    ' if good else 'FAILED'} {self.name}: {text}", flush=True)

    def run(self, *arguments):
        done = subprocess.run([self.smidgen, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            raise Refused(f"smidgen {arguments[0]}: {done.stderr.strip()}")
        return json.loads(done.stdout.splitlines()[-1])

    def scored(self, path):
        """Ids and likelihoods of all texts, one behind the other."""
        out = self.work / "tokens.jsonl"
        out.unlink(missing_ok=True)
        files = [part for file in self.files for part in ("--file", file)]
        self.run("eval", path, "--task", "ppl", "--compute", "f32", "--json", "--per-token", out, *files)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return [row["id"] for row in rows], [row["nll"] for row in rows]

    def greedy(self, path):
        text = lambda prompt: self.run(
            "generate", path, "--prompt", prompt, "--temperature", 0, "--max-tokens", GREEDY_TOKENS, "--json"
        )["text"]
        return [text(prompt) for prompt in PROMPTS]

    def compare(self, program, ours, theirs, kind):
        (ids, nll), (their_ids, their_nll) = ours, theirs
        if ids != their_ids:
            self.say(False, f"{program}: {len(their_ids)} ids of {TEXTS} texts, ours are {len(ids)} others")
            return
        self.say(True, f"{program}: {len(ids)} ids of {TEXTS} texts are equal")
        apart = [abs(a - b) for a, b in zip(nll, their_nll)]
        most, mean, allowed = max(apart), sum(apart) / len(apart), TOLERANCE[kind]
        limit = f"at most {allowed:g}" if kind == "f32" else f"a mean of {allowed:g}"
        self.say((most if kind == "f32" else mean) <= allowed,
                 f"{program}: likelihoods differ by {mean:.2g} on average, {most:.2g} at most ({limit} is allowed); "
                 f"means {sum(nll) / len(nll):.5f} and {sum(their_nll) / len(nll):.5f}")

    def compare_text(self, program, ours, theirs, exact):
        # A blank that a tokenizer puts before a text is no part of it.
        theirs = [text if prompt else text.removeprefix(" ") for prompt, text in zip(PROMPTS, theirs)]
        ours = [text if prompt else text.removeprefix(" ") for prompt, text in zip(PROMPTS, ours)]
        equal = sum(a == b for a, b in zip(ours, theirs))
        good = equal == len(ours) if exact else True
        note = "" if exact else " (near ties may fall either way)"
        self.say(good, f"{program}: greedy text of {equal} of {len(ours)} prompts is equal{note}")


def with_transformers(verify, folder, gguf, ours, text):
    """`gguf` names a GGUF file, for the reader that dequantises it; the tokenizer is the folder's."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name} if gguf else \
        {"pretrained_model_name_or_path": folder}
    model = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **place).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    prefix = tokenizer.bos_token_id
    other = AutoTokenizer.from_pretrained(folder)
    # Text that spells a special token is text.
    ids_of = lambda t, text_: t(text_, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    differ = sum(ids_of(other, text_) != ids_of(tokenizer, text_) for text_ in verify.texts)
    if differ:
        print(f"note   {verify.name}: AutoTokenizer takes {type(other).__name__}, not the class that is named, "
              f"and has other ids for {differ} texts")
    ids, nll = [], []
    for text_ in verify.texts:
        encoded = ids_of(tokenizer, text_)
        with torch.no_grad():
            logits = model(torch.tensor([[prefix, *encoded]])).logits[0, :-1].double()
        picked = -torch.log_softmax(logits, -1)[range(len(encoded)), encoded]
        ids += encoded
        nll += picked.tolist()
    program = f"transformers {type(model).__name__}{f' from {gguf.name}' if gguf else ''}"
    verify.compare(program, ours, (ids, nll), "f32")
    written = []
    for prompt in PROMPTS:
        start = [prefix, *ids_of(tokenizer, prompt)]
        out = model.generate(torch.tensor([start]), attention_mask=torch.ones(1, len(start)), do_sample=False,
                             max_new_tokens=GREEDY_TOKENS, temperature=None, top_p=None, top_k=None)[0].tolist()
        out = out[len(start):]
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        out = out[:-1] if out and out[-1] in ends else out
        whole = tokenizer.decode(start[1:] + out, skip_special_tokens=True)
        written.append(whole[len(tokenizer.decode(start[1:], skip_special_tokens=True)):])
    verify.compare_text(program, text, written, True)


def with_llama(verify, path, context, kind, ours, text):
    import llama_cpp
    import numpy

    model = llama_cpp.Llama(str(path), n_ctx=min(context, 1024), logits_all=True, verbose=False, type_k=0, type_v=0,
                            flash_attn=False)
    ids, nll = [], []
    for text_ in verify.texts:
        with_prefix = model.tokenize(text_.encode(), add_bos=True, special=False)
        model.reset()
        model.eval(with_prefix)
        logits = numpy.array(model.scores[: len(with_prefix) - 1], dtype=numpy.float64)
        top = logits.max(1)
        sums = numpy.log(numpy.exp(logits - top[:, None]).sum(1)) + top
        encoded = with_prefix[1:]
        ids += encoded
        nll += [float(sums[i] - logits[i, id_]) for i, id_ in enumerate(encoded)]
    program = f"llama.cpp {kind}"
    verify.compare(program, ours, (ids, nll), kind)
    written = []
    for prompt in PROMPTS:
        start = model.tokenize(prompt.encode(), add_bos=True, special=False)
        out = []
        model.reset()
        model.eval(start)
        while len(out) < GREEDY_TOKENS:
            best = int(numpy.argmax(model.scores[model.n_tokens - 1]))
            if best == model.token_eos() or best == model.token_bos():
                break
            out.append(best)
            model.eval([best])
        whole = model.detokenize(start[1:] + out)
        written.append(whole[len(model.detokenize(start[1:])):].decode("utf-8", "replace"))
    verify.compare_text(program, text, written, kind == "f32")


def has(module):
    try:
        __import__(module)
        return True
    except Exception as error:  # A library that is there and does not load is not there.
        print(f"skipped: no Python package {module} ({type(error).__name__})")
        return False


def main():
    smidgen, model, work = sys.argv[1:4]
    verify = Verify(smidgen, model, work)
    out = Path(work) / f"{verify.name}-export"
    out.mkdir()
    folder = out / "folder"
    kind = verify.run("export", model, "--to", "safetensors", "--out", folder, "--json")["kind"]
    ours, text = verify.scored(model), verify.greedy(folder)
    print(f"       {verify.name}: {kind}, {len(ours[0])} tokens, mean {sum(ours[1]) / len(ours[1]):.5f} nats", flush=True)
    verify.say(math.isfinite(sum(ours[1])), "ours: likelihoods are numbers")
    again = verify.scored(folder)
    verify.say(again == ours, "smidgen reads its own folder: ids and likelihoods are the same digits")
    with_transformers(verify, folder, None, ours, text)
    context = json.loads((folder / "config.json").read_text())["max_position_embeddings"]

    llama = has("llama_cpp")
    gguf = not llama and has("gguf") and has("accelerate")
    for kind in TOLERANCE:
        path = out / f"{kind}.gguf"
        try:
            verify.run("export", model, "--to", "gguf", "--type", kind, "--out", path, "--json")
        except Refused as refused:
            # A tokenizer that GGUF has no word for is refused by name, and that is right.
            verify.say("be written as GGUF" in str(refused), refused)
            break
        own, own_text = verify.scored(path), verify.greedy(path)
        if llama:
            with_llama(verify, path, context, kind, own, own_text)
        elif gguf:  # Dequantised there, so that every format is held to the tolerance of f32.
            with_transformers(verify, folder, path, own, own_text)
        if kind == "f32":
            verify.say(own == ours, "smidgen reads its own f32 GGUF: ids and likelihoods are the same digits")
    sys.exit(verify.failed)


if __name__ == "__main__":
    main()
