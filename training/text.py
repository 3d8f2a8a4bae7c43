"""The text: the King James Bible as chapters, its held-out part, the byte-level BPE tokenizer, and training windows.

The text is in the public domain. It is taken from a file with one verse per line in the shape
`Ge1:1 In the beginning …`, which is what the `bible` program of Debian's `bible-kjv` package prints with
`bible -f gen1:1-rev22:21`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1

# Story, poetry, proverb, prophecy, gospel and letter; none has a near-verbatim twin elsewhere, as Psalm 14 has in 53.
HELD_OUT = (
    *("Ge24", "Ruth2", "1Sm17", "Job38", "Psa104", "Prv16"),
    *("Eccl9", "Isa55", "Jonah1", "John9", "Acts27", "Rom12"),
)

_VERSE = re.compile(r"^(\d?[A-Za-z]+\d+):(\d+) (.+)$")


@dataclass(frozen=True)
class Corpus:
    """Chapters for training and held-out chapters; each is a string with one verse per line."""

    train: list[str]
    held_out: list[str]


def read_corpus(path: Path | None) -> Corpus:
    """The chapters of a file of verses, or of what `bible` prints, without references; held-out ones apart."""
    if path is not None:
        text = path.read_text(encoding="ascii")
    elif shutil.which("bible") is None:
        raise SystemExit("no text: give --text FILE, or install the program that prints it: apt-get install bible-kjv")
    else:
        text = subprocess.check_output(["bible", "-f", "gen1:1-rev22:21"], stdin=subprocess.DEVNULL, encoding="ascii")
    chapters: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = _VERSE.match(line)
        if match is None:
            raise SystemExit(f"not a verse: {line[:60]!r}")
        chapters.setdefault(match[1], []).append(match[3].strip() + "\n")
    missing = [name for name in HELD_OUT if name not in chapters]
    if missing:
        raise SystemExit(f"held-out chapters not in the text: {missing}")
    train = ["".join(verses) for name, verses in chapters.items() if name not in HELD_OUT]
    return Corpus(train, ["".join(chapters[name]) for name in HELD_OUT])


def train_tokenizer(chapters: list[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of `size` tokens, `<s>` = 0 and `</s>` = 1 first; `encode` puts `<s>` in front.

    The split pattern is that of GPT-2, which llama.cpp knows as the pre-tokenizer `gpt-2`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chapters, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    return tokenizer


@dataclass(frozen=True)
class TokenStream:
    """All chapters as one array of ids, `</s>` after each; `starts` are the positions where a verse begins."""

    ids: np.ndarray  # [n] int64
    starts: np.ndarray  # [verses] int64

    @classmethod
    def build(cls, tokenizer: Tokenizer, chapters: list[str]) -> TokenStream:
        """Verses are tokenised one at a time: a verse never shares a token with the next."""
        pieces: list[list[int]] = []
        for chapter in chapters:
            pieces += [
                verse.ids
                for verse in tokenizer.encode_batch(chapter.splitlines(keepends=True), add_special_tokens=False)
            ]
            pieces[-1] = [*pieces[-1], EOS_ID]
        lengths = np.array([len(piece) for piece in pieces])
        return cls(np.concatenate(pieces), np.cumsum(lengths) - lengths)

    def batch(self, rng: np.random.Generator, count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`count` windows that begin at a verse: inputs [count, length] with `<s>` in front, and their next tokens."""
        usable = self.starts[self.starts <= len(self.ids) - length]
        begin = rng.choice(usable, count)
        target = self.ids[begin[:, None] + np.arange(length)]
        source = np.concatenate([np.full((count, 1), BOS_ID), target[:, :-1]], axis=1)
        return torch.from_numpy(source), torch.from_numpy(target)
