#!/usr/bin/env python3
"""Writes testdata/golden/sentencepiece.json: ids of the `sentencepiece` package for a few texts.

Run from the repository root, with `pip install sentencepiece` and the folder of test data beside
the repository:  python3 scripts/golden_sentencepiece.py
The models are `../shared/data/tokenizers/mistral` and `../shared/data/models/babyllama_tok105`.
"""

import json
import random
from pathlib import Path

import sentencepiece

DATA = Path("../shared/data")
MODELS = {
    "babyllama": "models/babyllama_tok105/tok105.model",
    "mistral-v1": "tokenizers/mistral/tokenizer.model.v1",
    "mistral-v3": "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3",
}
PIECES = ["a", "b", " ", "  ", "the ", "ing", "\n", "\t", "▁", "é", "🦙", "[REFERENCE_DOC_1]", "<s>",
          "<0x41>", "0", "\u00a0", "don't", "…", "ﬁ", "\u0301"]


def texts():
    vectors = DATA / "tokenizers/llamacpp_vocab/ggml-vocab-llama-spm.gguf.inp"
    known = vectors.read_text("utf-8").split("\n__ggml_vocab_test__\n")
    rng = random.Random(7)
    made = ["".join(rng.choices(PIECES, k=rng.randint(1, 16))) for _ in range(150)]
    story = (DATA / "corpus/tinystories_sample.txt").read_text("utf-8")[:2000]
    return known + made + [story]


def main():
    golden = {"texts": texts()}
    for name, path in MODELS.items():
        processor = sentencepiece.SentencePieceProcessor(model_file=str(DATA / path))
        golden[name] = [processor.encode(text) for text in golden["texts"]]
    out = Path("testdata/golden/sentencepiece.json")
    out.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
