"""The same text has the same ids on both sides, or why not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kparity.engines.base import Facts
from kparity.errors import BadModel
from kparity.model.gguf_file import keys_of
from kparity.model.gguf_header import StringArray
from kparity.model.hparams import Keys
from kparity.model.tokenizer import RULES

SPECIAL = re.compile(r"<\|[^|>]*\|>|</?s>|<(?:bos|eos|pad|unk)>")
SIDES = ("reference", "candidate")


def first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    """The first place at which two lists of ids differ, or one ends; -1 where they are equal."""
    if list(left) == list(right):
        return -1
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def doubled(ids: Sequence[int], facts: Facts) -> bool:
    """Whether a list of ids begins with BOS twice."""
    return len(ids) > 1 and ids[0] == ids[1] == facts.bos >= 0


def around(
    left: Sequence[int], right: Sequence[int], facts: Sequence[Facts], sides: Sequence[str]
) -> tuple[str, str] | None:  # fmt: skip
    """What one side puts before or behind the ids of the other, in one sentence, and what to try; or None."""
    for ids, each, side in zip((left, right), facts, sides, strict=True):
        if doubled(ids, each):
            return f"double BOS: the {side} begins with {each.bos} twice", "let template or tokenizer add it, not both"
    ordered = ((left, right, sides[1], sides[0], facts[0]), (right, left, sides[0], sides[1], facts[1]))
    for longer, shorter, lacking, more, own in ordered:
        if list(longer[1:]) == list(shorter) and own.bos in (-1, longer[0]):
            return f"BOS: the {lacking} lacks {longer[0]} at the beginning", "see add_bos_token of its tokenizer"
        if list(longer[:-1]) == list(shorter) and own.eos in (-1, longer[-1]):
            return f"EOS: the {lacking} lacks {longer[-1]} at the end", "see add_eos_token of its tokenizer"
        if len(longer) > len(shorter) and _inside(longer, shorter[1:]):
            return f"template: the {more} puts more around the text", "use --prompt-template raw"
    return None


def cause(text: str, left: Sequence[int], right: Sequence[int], facts: Sequence[Facts]) -> tuple[str, str]:
    """What makes the ids of reference and candidate differ, in one sentence, and what to try."""
    if found := around(left, right, facts, SIDES):
        return found
    if len(left) == len(right):
        moved = {b - a for a, b in zip(left, right, strict=True)} - {0}
        if len(moved) == 1 and sum(a != b for a, b in zip(left, right, strict=True)) > 1:
            return (
                f"offset: ids are shifted by {moved.pop():+d}",
                "compare where special tokens lie in both vocabularies",
            )
        if left[0] != right[0] and list(left[1:]) == list(right[1:]):
            return f"BOS: {left[0]} on one side and {right[0]} on the other", "see tokenizer.ggml.bos_token_id"
    files = _keys(facts[0].model), _keys(facts[1].model)
    if side := _blind(text, left, right, files[0] or files[1]):
        return f"special tokens: the {side} reads them as text", "let both parse special tokens, or neither"
    if rules := _cut(facts, files):
        return rules, "write the name into the file: gguf-new-metadata --pre-tokenizer NAME FILE NEW"
    return ("another tokenizer: pre-tokenizer (tokenizer.ggml.pre), merges or vocabulary differ",
            "take both from the same file: kparity model inspect FILE")  # fmt: skip


def _inside(longer: Sequence[int], shorter: Sequence[int]) -> bool:
    size = len(shorter)
    return size > 1 and any(list(longer[at : at + size]) == list(shorter) for at in range(len(longer) - size + 1))


def _keys(path: str) -> Mapping[str, Any]:
    """Of an engine's file; none where it is no GGUF file."""
    try:
        return keys_of(path)
    except (BadModel, OSError):
        return {}


def _blind(text: str, left: Sequence[int], right: Sequence[int], keys: Mapping[str, Any]) -> str:
    """The side that cuts the special tokens of a text as if they were text: the one that lacks their ids or, without a
    vocabulary, that has more.
    """
    found = set(SPECIAL.findall(text))
    if not found or len(left) == len(right):
        return ""
    words = keys.get("tokenizer.ggml.tokens")
    special = {id for id, word in enumerate(words if isinstance(words, StringArray) else ()) if word in found}
    seen = [sum(id in special for id in ids) if special else -len(ids) for ids in (left, right)]
    return SIDES[seen[1] < seen[0]] if seen[0] != seen[1] else ""


def _cut(facts: Sequence[Facts], files: Sequence[Mapping[str, Any]]) -> str:
    """What the files say of the rules that cut text before it is merged, where that explains other ids."""
    told = [
        (f"{Path(each.model).name} ({side})", Keys(keys).maybe_text("tokenizer.ggml.pre"))
        for side, each, keys in zip(SIDES, facts, files, strict=True)
        if keys.get("tokenizer.ggml.model") == "gpt2"
    ]
    for file, name in told:
        if not name:
            return f"pre-tokenizer: {file} has no tokenizer.ggml.pre, so that engines guess how text is cut"
    if len({name for _, name in told}) > 1:
        return "pre-tokenizer: " + " and ".join(f"{name!r} in {file}" for file, name in told)
    for file, name in told:
        if name not in RULES:
            return f"pre-tokenizer: {name!r} in {file} is not known here; an engine that does not know it guesses"
    return ""
