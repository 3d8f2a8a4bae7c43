"""The same text has the same ids on both sides, or why not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kparity.engines.base import Facts

SPECIAL = re.compile(r"<\|[^|>]*\|>|</?s>|<(?:bos|eos|pad|unk)>")


def first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    """The first place at which two lists of ids differ, or one ends; -1 where they are equal."""
    if list(left) == list(right):
        return -1
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def around(
    left: Sequence[int], right: Sequence[int], facts: Sequence[Facts], sides: Sequence[str]
) -> tuple[str, str] | None:  # fmt: skip
    """What one side puts before or behind the ids of the other, in one sentence, and what to try; or None."""
    for ids, each, side in zip((left, right), facts, sides, strict=True):
        if len(ids) > 1 and ids[0] == ids[1] == each.bos >= 0:
            return f"double BOS: the {side} begins with {each.bos} twice", "let template or tokenizer add it, not both"
    ordered = ((left, right, sides[1], sides[0]), (right, left, sides[0], sides[1]))
    for longer, shorter, lacking, more in ordered:
        if list(longer[1:]) == list(shorter):
            return f"BOS: the {lacking} lacks {longer[0]} at the beginning", "see add_bos_token of its tokenizer"
        if list(longer[:-1]) == list(shorter):
            return f"EOS: the {lacking} lacks {longer[-1]} at the end", "see add_eos_token of its tokenizer"
        if len(longer) > len(shorter) and _inside(longer, shorter[1:]):
            return f"template: the {more} puts more around the text", "use --prompt-template raw"
    return None


def cause(text: str, left: Sequence[int], right: Sequence[int], facts: Sequence[Facts]) -> tuple[str, str]:
    """What makes the ids of reference and candidate differ, in one sentence, and what to try."""
    sides = ("reference", "candidate")
    if found := around(left, right, facts, sides):
        return found
    offsets = {b - a for a, b in zip(left, right, strict=False)}
    if len(left) == len(right):
        moved = offsets - {0}
        if len(moved) == 1 and sum(a != b for a, b in zip(left, right, strict=True)) > 1:
            return (
                f"offset: ids are shifted by {moved.pop():+d}",
                "compare where special tokens lie in both vocabularies",
            )
        if left[0] != right[0] and list(left[1:]) == list(right[1:]):
            return f"BOS: {left[0]} on one side and {right[0]} on the other", "see tokenizer.ggml.bos_token_id"
    if SPECIAL.search(text) and len(left) != len(right):
        side = sides[len(right) > len(left)]
        return f"special tokens: the {side} reads them as text", "let both parse special tokens, or neither"
    return ("another tokenizer: pre-tokenizer (tokenizer.ggml.pre), merges or vocabulary differ",
            "take both from the same file: kparity model inspect FILE")  # fmt: skip


def _inside(longer: Sequence[int], shorter: Sequence[int]) -> bool:
    size = len(shorter)
    return size > 1 and any(list(longer[at : at + size]) == list(shorter) for at in range(len(longer) - size + 1))
