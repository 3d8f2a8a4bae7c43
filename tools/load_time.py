"""How long a file with the vocabulary of BitNet b1.58 2B-4T takes to load: random weights, and a vocabulary as large.

    python -m tools.load_time [--layers 30] [--folder DIR]

Like the published file it has 128,256 tokens of kind gpt2 with 280,147 merges, a chat template, no
``tokenizer.ggml.pre`` and no ``hidden_activation``. Prints seconds of a processor for keys and tensors, and for the
vocabulary and the first tokens; exit code 1 where both together take 3 or more. Weights are read where they are used,
and are not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from time import process_time

from kparity.model import load_model, writer
from kparity.model.gguf_header import ARRAY, BOOL, STRING
from kparity.model.writer import I32, U32, Key, Spec, byte_alphabet

TOKENS, SPECIAL, MERGES = 128_000, 256, 280_147
MOST = 3.0
"""Seconds."""
LETTERS = ("aehi", "nors", "tdlu", "cmfw")
"""Every word of up to eight of four letters is a token, and all its cuts are merges."""


def words() -> Iterator[str]:
    """Tokens of two characters and more, short ones first."""
    for length in range(2, 9):
        for letters in LETTERS:
            yield from map("".join, product(letters, repeat=length))


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens in the order of their ids, and merges in that of their rank."""
    made = list(islice(words(), TOKENS - 256))
    cuts = (f"{word[:at]} {word[at:]}" for word in made for at in range(1, len(word)))
    return [*byte_alphabet(), *made, *(f"<|reserved_{at}|>" for at in range(SPECIAL))], list(islice(cuts, MERGES))


def keys(spec: Spec) -> list[Key]:
    """All keys of the file."""
    tokens, merges = vocabulary()
    return [
        ("general.architecture", STRING, spec.arch), ("general.name", STRING, "random 2B-4T"),
        *writer.graph_keys(spec),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [1] * TOKENS + [3] * SPECIAL)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, merges)),
        ("tokenizer.ggml.bos_token_id", U32, TOKENS), ("tokenizer.ggml.eos_token_id", U32, TOKENS + 1),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.chat_template", STRING, "{% for message in messages %}{{ message.content }}{% endfor %}"),
    ]  # fmt: skip


def main() -> int:
    """Write the file, load it, take it away."""
    parser = argparse.ArgumentParser(description="Measure how long a file of the shape of BitNet b1.58 2B-4T loads.")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="Where the file is written for a while.")
    options = parser.parse_args()
    spec = Spec(type="i2_s", layers=options.layers)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = writer.write_file(Path(folder) / "model.gguf", keys(spec), list(writer.tensors(spec)))
        begun = process_time()
        model = load_model(path)
        loaded = process_time()
        count = len(model.tokenizer.encode("then said she to him"))
        done = process_time()
        print(f"{path.stat().st_size:,} bytes, {len(model.file.tensors)} tensors, {count} tokens")
        print(f"keys and tensors {loaded - begun:.2f} s, vocabulary and first tokens {done - loaded:.2f} s")
        model.close()
    return int(done - begun >= MOST)


if __name__ == "__main__":
    sys.exit(main())
