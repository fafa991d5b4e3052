#!/usr/bin/env bash
# Loads what `smidgen export` wrote in transformers and in llama.cpp, and compares ids, likelihoods
# and greedy text with ours.
#
#   scripts/verify-export.sh [RUN|MODEL..]
#
# Without a model, three small ones are trained on docs/: plain, with biases, with normalised heads.
# Needs python3 with venv, and for llama-cpp-python a C++ compiler; the packages go to
# target/verify-venv, or are those of $SMIDGEN_VERIFY_PYTHON. What is missing is skipped by name.
# SMIDGEN names the program; without it one is built.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/verify-venv
python="${SMIDGEN_VERIFY_PYTHON:-$venv/bin/python}"
has() { "$python" -c "import $1" 2>/dev/null; }

if [ -z "${SMIDGEN_VERIFY_PYTHON:-}" ]; then
    [ -x "$python" ] || python3 -m venv "$venv"
    # accelerate: without llama.cpp, the GGUF reader of transformers asks for it.
    for package in transformers torch gguf accelerate llama-cpp-python; do
        case $package in llama-cpp-python) module=llama_cpp ;; *) module=$package ;; esac
        has "$module" || "$python" -m pip install --quiet "$package" \
            || echo "skipped: $package cannot be installed"
    done
fi
if ! has torch || ! has transformers; then
    echo "skipped: the Python packages torch and transformers are not there"
    exit 0
fi

smidgen="${SMIDGEN:-}"
if [ -z "$smidgen" ]; then
    cargo build --quiet --release
    smidgen="${CARGO_TARGET_DIR:-target}/release/smidgen"
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if [ $# -eq 0 ]; then
    train() {
        name="$1"
        shift
        "$smidgen" train docs --out "$work/$name" --json --set model.preset=tiny --set seed=7 \
            --set data.vocab=1024 --set train.steps=150 --set train.batch=8 --set train.context=128 \
            "$@" >/dev/null 2>"$work/$name.log" || { cat "$work/$name.log"; exit 1; }
    }
    train llama
    train qwen2 --set model.qkv_bias=true
    train qwen3 --set model.qk_norm=true
    set -- "$work/llama" "$work/qwen2" "$work/qwen3"
fi

"$python" - <<'PYTHON'
import platform
from importlib.metadata import PackageNotFoundError, version

def named(package):
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"

packages = ["torch", "transformers", "tokenizers", "gguf", "llama-cpp-python"]
print(f"Python {platform.python_version()}, " + ", ".join(map(named, packages)))
PYTHON
failed=0
for model in "$@"; do
    "$python" scripts/verify_export.py "$smidgen" "$model" "$work" || failed=1
done
exit $failed
