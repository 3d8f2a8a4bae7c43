"""How byte-level BPE vocabularies cut text before they merge: the rules that llama.cpp has for ``tokenizer.ggml.pre``.

Source of names and rules: llama.cpp, llama-vocab.cpp (``llm_tokenizer_bpe``). Rules of one name are applied one after
the other, each within the pieces that those before it left; what a rule does not match stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from kparity.errors import BadModel
from kparity.model.hparams import LLAMA3_PRE

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"

_DEFAULT = (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_FALCON = (r"[\p{P}$+<=>^~|`]+", _GPT2, r"[0-9][0-9][0-9]")
_DIGITS_GPT2 = (r"\p{N}", _GPT2)

_FAMILIES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("default",), _DEFAULT),
    (
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "mellum", "gigachat"),
        (_GPT2,),
    ),
    ((*LLAMA3_PRE, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), (_LLAMA3,)),
    (("qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "megrez", "hunyuan", "grok-2"), (_QWEN2,)),
    (("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"), _DIGITS_GPT2),
    (("falcon",), _FALCON),
)
RULES: Mapping[str, tuple[str, ...]] = {name: rules for names, rules in _FAMILIES for name in names}

IGNORE_MERGES = frozenset(LLAMA3_PRE)
"""Names under which a piece that is a token of its own is taken whole, whatever the merges would make of it."""


def rules(name: str) -> tuple[str, ...]:
    """Regular expressions of a pre-tokenizer; an unknown name is refused, because a guess would change the tokens."""
    if name not in RULES:
        known = ", ".join(sorted(RULES))
        raise BadModel(
            f"pre-tokenizer {name!r} is not known, and any other one would cut text differently (known: {known})"
        )
    return RULES[name]
