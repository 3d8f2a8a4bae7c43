"""Text to token ids and back, from a GGUF file's own vocabulary or from a ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kparity.errors import BadModel, WrongInput
from kparity.host import files
from kparity.model.hparams import LLAMA3_PRE, Keys, special_tokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Token types (llama.h, ``enum llama_token_type``)."""

LONGEST, MOST, MERGES = 1024, 1 << 22, 1 << 20
"""Characters of a token, characters of all tokens or all merges, and pairs of tokens that make a token: what is made of
them would otherwise take minutes.
"""

_SPACE = "▁"  # stands for a space in SentencePiece vocabularies

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"

_DEFAULT = (r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_FALCON = (r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9][0-9][0-9]")
_DIGITS_GPT2 = (r"\p{N}", GPT2)

_OF_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "mellum", "gigachat")

_FAMILIES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("default",), _DEFAULT),
    (_OF_GPT2, (GPT2,)),
    ((*LLAMA3_PRE, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), (_LLAMA3,)),
    (("qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "megrez", "hunyuan", "grok-2"), (_QWEN2,)),
    (("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"), _DIGITS_GPT2),
    (("falcon",), _FALCON),
)
RULES: Mapping[str, tuple[str, ...]] = {name: rules for names, rules in _FAMILIES for name in names}
"""How byte-level BPE vocabularies cut text before they merge, by ``tokenizer.ggml.pre`` (names and rules: llama.cpp,
llama-vocab.cpp, ``llm_tokenizer_bpe``). Rules of one name are applied one after the other, each within the pieces that
those before it left; what a rule does not match stays as it is.
"""

IGNORE_MERGES = frozenset(LLAMA3_PRE)
"""Names under which a piece that is a token of its own is taken whole, whatever the merges would make of it."""


class Tokenizer:
    """A vocabulary with its rules, in ``backend`` of the library ``tokenizers``. ``bos`` is put in front of a prompt
    where ``add_bos`` says so.
    """

    def __init__(self, backend: Any, bos: int | None, eos: int | None, add_bos: bool) -> None:
        self.backend, self.bos, self.eos, self.add_bos = backend, bos, eos, add_bos

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any], vocab: int) -> Tokenizer:
        """The tokenizer that a GGUF file describes, for an embedding of ``vocab`` rows: kind ``gpt2`` (byte-level BPE)
        or ``llama`` (SentencePiece).
        """
        return cls(_build(_Vocabulary(keys, vocab)), *special_tokens(Keys(keys), vocab))

    @classmethod
    def from_file(cls, path: str | Path, bos: int | None, eos: int | None, add_bos: bool = True) -> Tokenizer:
        """The tokenizer of a ``tokenizer.json``; ``encode`` puts BOS in front, not the file's post-processor."""
        from tokenizers import Tokenizer as Backend

        text = files.read_text(path, "a tokenizer.json")
        try:
            backend = Backend.from_str(text)
        except BaseException as error:  # the library raises plain Exception, and where it panics a BaseException
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise WrongInput(f"{path} cannot be read as a tokenizer.json: {error}") from None
        return cls(backend, bos, eos, add_bos and bos is not None)

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, special ones included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids; ``bos`` false leaves out the BOS that the model expects. Special tokens in the text count."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise WrongInput("the text has surrogates, which UTF-8 cannot express") from None
        ids = list(self.backend.encode(text, add_special_tokens=False).ids)
        return [self.bos, *ids] if bos and self.add_bos and self.bos is not None else ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        limit = self.vocab_size
        for token in ids:
            if not 0 <= token < limit:
                raise WrongInput(f"token {token} is outside the vocabulary of {limit}; name the model's own tokenizer")
        text: str = self.backend.decode([int(token) for token in ids], skip_special_tokens=skip_special)
        return text

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """A decoder for tokens that come one by one, after ``prompt``."""
        return TextStream(self, prompt)


class TextStream:
    """Text of tokens that come one by one: ``feed`` gives what is final, ``finish`` the rest.

    A character can span tokens and a token's text can depend on the one before it, so a short window is decoded twice,
    with and without the new tokens, and the difference is given once it does not end inside a character.
    """

    _LONGEST = 16  # tokens that are kept back at most; a character has four bytes, so more is garbage anyway

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt[-self._LONGEST :])
        self._settled = len(self._window)

    def feed(self, token: int) -> str:
        """Text that the token completes; may be empty."""
        self._window.append(token)
        return self._advance(final=len(self._window) - self._settled >= self._LONGEST)

    def finish(self) -> str:
        """Text that was kept back, incomplete characters as U+FFFD."""
        return self._advance(final=True)

    def _advance(self, final: bool) -> str:
        before = self._tokenizer.decode(self._window[: self._settled])
        after = self._tokenizer.decode(self._window)
        if not final and after.endswith("\ufffd"):
            return ""
        self._window = self._window[self._settled :] or self._window
        self._settled = len(self._window)
        return after[len(before) :]


class _Vocabulary:
    """The tokenizer keys of a file, checked against each other."""

    def __init__(self, keys: Mapping[str, Any], vocab: int) -> None:
        typed = Keys(keys)
        self.kind: str = typed.text("tokenizer.ggml.model")
        if self.kind not in ("gpt2", "llama"):
            raise BadModel(f"tokenizer {self.kind!r} is not supported, gpt2 and llama are")
        self.pre: str = typed.text("tokenizer.ggml.pre", "default")
        self.tokens = _strings(keys, "tokenizer.ggml.tokens")
        if not self.tokens or len(self.tokens) > vocab:
            raise BadModel(f"{len(self.tokens)} tokens for an embedding of {vocab} rows")
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if self.ids[token] != index)
            raise BadModel(f"token {twice!r} is in the vocabulary twice")
        self.types = self._numbers(keys, "tokenizer.ggml.token_type", NORMAL)
        self.scores = self._numbers(keys, "tokenizer.ggml.scores", 0.0)
        self.merges = _strings(keys, "tokenizer.ggml.merges") if self.kind == "gpt2" else []
        self.space_prefix: bool = typed.flag("tokenizer.ggml.add_space_prefix", self.kind == "llama")
        self.unknown = typed.integer("tokenizer.ggml.unknown_token_id", 0, len(self.tokens) - 1, None)

    def _numbers(self, keys: Mapping[str, Any], name: str, default: float) -> list[Any]:
        values = keys.get(name)
        if values is None:
            return [default] * len(self.tokens)
        if not isinstance(values, np.ndarray) or len(values) != len(self.tokens):
            raise BadModel(f"key {name} is not an array of {len(self.tokens)} numbers, one per token")
        if not np.isfinite(values).all():
            raise BadModel(f"key {name} has values that are not finite")
        numbers: list[Any] = values.tolist()
        return numbers


def _strings(keys: Mapping[str, Any], name: str) -> list[str]:
    from kparity.model.gguf_header import StringArray

    if name not in keys:
        raise BadModel(f"key {name} is missing")
    if not isinstance(keys[name], StringArray):
        raise BadModel(f"key {name} is not an array of strings")
    found = list(keys[name])
    kind = name.rpartition(".")[2].removesuffix("s")
    sizes = list(map(len, found))
    if max(sizes, default=0) > LONGEST * (1 + (kind == "merge")):
        at = next(at for at, size in enumerate(sizes) if size > LONGEST * (1 + (kind == "merge")))
        raise BadModel(f"{kind} {at} has {sizes[at]} characters, more than {LONGEST}")
    if sum(sizes) > MOST:
        raise BadModel(f"key {name} has more than {MOST} characters")
    return found


def _build(vocabulary: _Vocabulary) -> Any:
    """A tokenizer of the ``tokenizers`` library; whatever it does not take is a BadModel."""
    from tokenizers import AddedToken

    try:
        backend = _byte_level(vocabulary) if vocabulary.kind == "gpt2" else _sentence_piece(vocabulary)
    except BadModel:
        raise
    except Exception as error:  # the library raises plain Exception
        raise BadModel(f"the vocabulary cannot be used: {error}") from None
    for wanted, add in ((CONTROL, backend.add_special_tokens), (USER_DEFINED, backend.add_tokens)):
        tokens = [t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == wanted and t]
        add([AddedToken(token, normalized=False, special=wanted == CONTROL) for token in tokens])
    return backend


def _byte_level(vocabulary: _Vocabulary) -> Any:
    """Byte-level BPE: bytes as printable characters, merges in the order of their rank."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    if vocabulary.pre not in RULES:  # a guess would change the tokens
        known = ", ".join(sorted(RULES))
        raise BadModel(
            f"pre-tokenizer {vocabulary.pre!r} is not known, and any other one would cut text differently "
            f"(known: {known})"
        )
    merges = []
    for merge in vocabulary.merges:
        left, _, right = merge.partition(" ")
        if left not in vocabulary.ids or right not in vocabulary.ids or left + right not in vocabulary.ids:
            raise BadModel(f"merge {merge!r} has parts or a result that are not in the vocabulary")
        merges.append((left, right))
    whole = vocabulary.pre in IGNORE_MERGES
    backend = Backend(models.BPE(vocab=vocabulary.ids, merges=merges, ignore_merges=whole))
    cuts = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in RULES[vocabulary.pre]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=vocabulary.space_prefix, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(vocabulary: _Vocabulary) -> Any:
    """SentencePiece BPE: the best-scored token that two neighbours make comes first; unknown characters as bytes."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    unknown = None if vocabulary.unknown is None else vocabulary.tokens[vocabulary.unknown]
    merges = _merges_by_score(vocabulary)
    backend = Backend(models.BPE(vocabulary.ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = [normalizers.Prepend(_SPACE)] if vocabulary.space_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.space_prefix else []
    spaces = decoders.Replace(_SPACE, " ")
    backend.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _merges_by_score(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """Every pair of tokens whose concatenation is a token, best score of the result first, then lowest ids."""
    ids, ranked = vocabulary.ids, []
    for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True):
        if kind in (NORMAL, USER_DEFINED, UNUSED):
            pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            ranked += [(-score, ids[a], ids[b], (a, b)) for a, b in pairs if a in ids and b in ids]
            if len(ranked) > MERGES:
                raise BadModel(f"more than {MERGES} pairs of tokens make a token")
    return [pair for *_, pair in sorted(ranked)]
