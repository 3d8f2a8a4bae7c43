"""How long a file with the vocabulary of BitNet b1.58 2B-4T takes to load: random weights, and a vocabulary as large.

    python -m tools.load_time [--layers 30] [--folder DIR]

It has the 24 keys of the published file: 128,256 tokens of kind gpt2 with their scores and 280,147 merges, a chat
template, no ``tokenizer.ggml.pre`` and no ``hidden_activation``. Prints seconds of a processor for keys and tensors,
and for the vocabulary and the first tokens; exit code 1 where both together take 3 or more. Weights are read where they
are used, and are not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from time import process_time

from kparity.model import load_model, writer
from kparity.model.gguf_header import ARRAY, BOOL, STRING
from kparity.model.writer import F32, I32, U32, Key, Spec, byte_alphabet

SPECIAL, MERGES = 256, 280_147
MOST = 3.0
"""Seconds."""
LETTERS = ("aehi", "nors", "tdlu", "cmfw")
"""Every word of up to eight of four letters is a token, and all its cuts are merges."""


def words() -> Iterator[str]:
    """Tokens of two characters and more, short ones first."""
    for length in range(2, 9):
        for letters in LETTERS:
            yield from map("".join, product(letters, repeat=length))


def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Tokens in the order of their ids, and merges in that of their rank: as many of these as the size's share."""
    made = list(islice(words(), size - SPECIAL - 256))
    cuts = (f"{word[:at]} {word[at:]}" for word in made for at in range(1, len(word)))
    merges = list(islice(cuts, MERGES * size // Spec.vocab))
    return [*byte_alphabet(), *made, *(f"<|reserved_{at}|>" for at in range(SPECIAL))], merges


def keys(spec: Spec) -> list[Key]:
    """All keys of the file."""
    tokens, merges = vocabulary(spec.vocab)
    first = spec.vocab - SPECIAL
    return [
        ("general.architecture", STRING, spec.arch), ("general.name", STRING, "random 2B-4T"),
        *writer.graph_keys(spec),
        ("general.file_type", U32, 40), ("general.quantization_version", U32, 2),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.scores", ARRAY, (F32, [0.0] * len(tokens))),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [1] * first + [3] * SPECIAL)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, merges)),
        ("tokenizer.ggml.bos_token_id", U32, first), ("tokenizer.ggml.eos_token_id", U32, first + 1),
        ("tokenizer.ggml.padding_token_id", U32, first + 1),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.chat_template", STRING, "{% for message in messages %}{{ message.content }}{% endfor %}"),
    ]  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """Seconds of a processor for keys and tensors, and for the vocabulary and the first tokens, of a file."""

    keys_s: float
    vocabulary_s: float
    told: str
    """What was loaded."""


def loaded(spec: Spec, folder: Path) -> Loaded:
    """Write a file, load it, take it away."""
    path = writer.write_file(folder / "model.gguf", keys(spec), list(writer.tensors(spec)))
    begun = process_time()
    model = load_model(path)
    opened = process_time()
    count = len(model.tokenizer.encode("then said she to him"))
    done = process_time()
    told = f"{path.stat().st_size:,} bytes, {len(model.file.tensors)} tensors, {count} tokens"
    model.close()
    path.unlink()
    return Loaded(opened - begun, done - opened, told)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure how long a file of the shape of BitNet b1.58 2B-4T loads.")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="Where the file is written for a while.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = loaded(Spec(type="i2_s", layers=options.layers), Path(folder))
    print(
        f"{found.told}\nkeys and tensors {found.keys_s:.2f} s, vocabulary and first tokens {found.vocabulary_s:.2f} s"
    )
    return int(found.keys_s + found.vocabulary_s >= MOST)


if __name__ == "__main__":
    sys.exit(main())
