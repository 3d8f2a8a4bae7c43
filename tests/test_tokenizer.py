"""Tokenizers of both kinds: known ids by hand, round trips, streaming, and the same ids as llama.cpp."""

from __future__ import annotations

import importlib
import json
import urllib.request
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers

from kparity.errors import WrongInput
from kparity.model import load_model
from kparity.model.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Tokenizer, _merges_by_score
from kparity.model.writer import byte_alphabet, tokenizer_keys

from .cli import run
from .gguf_files import ARRAY, BOOL, F32, I32, STRING, TINY, U32, altered, write

Keys = dict[str, Any]

TEXTS = (
    "",
    " ",
    "a",
    "In the beginning God created the heaven and the earth.",
    "  two  spaces, and three   here",
    "tabs\tand\n\nblank lines\n",
    " \n leading and trailing \n ",
    "don't we'll I'M thou'rt 1234 5a6 12345678",
    "a.b,c;;!?(--)[]{}<>`x` $5 ~^|=+",
    "ünïcödé – “quotes” 漢字 🙂 e\u0301 \u00a0x\u2003y",
    "x" * 40,
    "<s>in the</s> the <x> <user>the",
    "\r\n\r\nand\r",
)


def byte_level(pre: str | None) -> Keys:
    """A byte-level BPE vocabulary with merges learnt from the held-out text, cut as GPT-2 does."""
    pieces, merges = learnt_byte_level()
    tokens = ["<s>", "</s>", "<user>", *pieces]
    types = [CONTROL, CONTROL, USER_DEFINED, *[NORMAL] * len(pieces)]
    stored: Keys = {
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, merges)),
        "tokenizer.ggml.bos_token_id": (U32, 0),
        "tokenizer.ggml.eos_token_id": (U32, 1),
        "tokenizer.ggml.add_bos_token": (BOOL, True),
    }
    return stored if pre is None else stored | {"tokenizer.ggml.pre": (STRING, pre)}


@cache
def learnt_byte_level() -> tuple[list[str], list[str]]:
    """Pieces in the order of their ids, and merges in that of their rank."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=byte_alphabet(), show_progress=False)
    backend.train_from_iterator(held_out().splitlines(keepends=True), trainer)
    return pieces_of(backend), [" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def pieces_of(backend: Backend) -> list[str]:
    vocabulary = backend.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def sentence_piece(space_prefix: bool = True) -> Keys:
    """A SentencePiece vocabulary: byte tokens, pieces learnt from the held-out text with falling scores, characters."""
    merged, characters = learnt_pieces()
    tokens = ["<unk>", "<s>", "</s>", "<user>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *characters]
    types = [UNKNOWN, CONTROL, CONTROL, USER_DEFINED, *[BYTE] * 256, *[NORMAL] * (len(merged) + len(characters))]
    scores = [0.0] * 260 + [-float(rank) for rank in range(len(merged) + len(characters))]
    return {
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
        "tokenizer.ggml.scores": (ARRAY, (F32, scores)),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.ggml.unknown_token_id": (U32, 0),
        "tokenizer.ggml.add_space_prefix": (BOOL, space_prefix),
    }


@cache
def learnt_pieces() -> tuple[list[str], list[str]]:
    """Merged pieces in the order in which they were learnt, and single characters."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, max_token_length=8)
    backend.train_from_iterator([f" {word}" for word in held_out().split()], trainer)
    pieces = pieces_of(backend)
    return [piece for piece in pieces if len(piece) > 1], [piece for piece in pieces if len(piece) == 1]


def held_out() -> str:
    """Text that comes with the package."""
    return (files("kparity") / "data" / "heldout.txt").read_text(encoding="utf-8")


def model_with(path: Path, vocabulary: Keys) -> Path:
    """A tiny model with this vocabulary; it can be loaded by llama.cpp too."""
    spec = replace(TINY, arch="bitnet", vocab=len(vocabulary["tokenizer.ggml.tokens"][1][1]))
    usual: Keys = dict.fromkeys(name for name, _, _ in tokenizer_keys(spec.vocab))
    return altered(path, spec, {**usual, **vocabulary})


# --- by hand ---


def test_byte_level_by_hand(tmp_path: Path) -> None:
    """Ids of the tiny model: 0 BOS, 1 EOS, 2 + byte, then th, in, Ġth, Ġthe, an, and, Ġand."""
    tokenizer = load_model(write(tmp_path / "m.gguf", TINY)).tokenizer
    assert tokenizer.encode("the and") == [0, 258, 2 + ord("e"), 264]
    assert tokenizer.encode(" the", bos=False) == [261]
    assert tokenizer.encode("\x00é") == [0, 2, 2 + 0xC3, 2 + 0xA9]
    assert tokenizer.encode("a<|eos|>b", bos=False) == [2 + ord("a"), 1, 2 + ord("b")]
    assert tokenizer.decode([0, 261, 1]) == " the"
    assert tokenizer.decode([0, 261, 1], skip_special=False) == "<|bos|> the<|eos|>"
    assert tokenizer.vocab_size == 300
    assert tokenizer.backend.id_to_token(261) == "Ġthe"


def test_sentence_piece_by_hand(tmp_path: Path) -> None:
    """Best score first: "ab" (−1) before "bc" (−2), so "abc" is ab + c; unknown characters are bytes."""
    pieces = {"▁": -9.0, "a": -9.0, "b": -9.0, "c": -9.0, "ab": -1.0, "bc": -2.0, "▁ab": -3.0}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    stored = sentence_piece() | {
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [2, 3, 3, *[6] * 256, *[1] * 7])),
        "tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * 259 + list(pieces.values()))),
    }
    tokenizer = load_model(model_with(tmp_path, stored)).tokenizer
    spelled = [tokenizer.backend.id_to_token(token) for token in tokenizer.encode("abc bca é")]
    assert spelled == ["<s>", "▁ab", "c", "▁", "bc", "a", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("abc bca é")) == "abc bca é"


def test_tokenizer_json(tmp_path: Path) -> None:
    """The same ids from a tokenizer.json as from the file's own vocabulary."""
    own, path = load_model().tokenizer, tmp_path / "tokenizer.json"
    own.backend.save(str(path))
    other = Tokenizer.from_file(path, bos=own.bos, eos=own.eos)
    assert [other.encode(text) for text in TEXTS] == [own.encode(text) for text in TEXTS]
    path.write_text("{}")
    with pytest.raises(WrongInput, match=r"cannot be read as a tokenizer\.json"):
        Tokenizer.from_file(path, bos=None, eos=None)
    path.write_bytes(b"\xff")
    with pytest.raises(WrongInput, match="no UTF-8"):
        Tokenizer.from_file(path, bos=None, eos=None)


def test_wrong_ids_and_wrong_text() -> None:
    tokenizer = load_model().tokenizer
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(WrongInput, match="outside the vocabulary"):
            tokenizer.decode([token])
    with pytest.raises(WrongInput, match="surrogates"):
        tokenizer.encode("\ud800")


# --- round trips ---


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    vocabulary = byte_level("gpt-2") if request.param == "gpt2" else sentence_piece()
    return load_model(model_with(tmp_path_factory.mktemp(request.param), vocabulary)).tokenizer


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join(stream.feed(token) for token in ids) + stream.finish()


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40))
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos
    assert tokenizer.decode(ids) == streamed(tokenizer, ids) == text


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(4, 400), max_size=40))
def test_any_ids_stream_to_their_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Also where bytes are no UTF-8: what is streamed is what decoding gives, except how U+FFFD are grouped.

    Byte tokens of SentencePiece are left out: a run of them decodes to nothing but U+FFFD if any of it is no UTF-8, and
    a stream cannot know that when it gives the first ones.
    """
    ids = [token for token in ids if not tokenizer.backend.id_to_token(token).startswith("<0x")]
    assert streamed(tokenizer, ids).replace("\ufffd", "") == tokenizer.decode(ids).replace("\ufffd", "")


def test_streaming_keeps_characters_whole(tokenizer: Tokenizer) -> None:
    *ids, last = tokenizer.encode("漢字 🙂")
    stream, cut = tokenizer.stream(), tokenizer.stream()
    assert "\ufffd" not in "".join(stream.feed(token) for token in [*ids, last])
    assert "\ufffd" not in "".join(cut.feed(token) for token in ids) and "\ufffd" in cut.finish()


# --- against llama.cpp ---


def test_pairs_of_one_score_come_in_the_order_of_their_ids() -> None:
    tokens = ["b", "a", "ab", "ba", "aba", "aa"]
    made: Any = SimpleNamespace(
        tokens=tokens, ids={token: at for at, token in enumerate(tokens)}, types=[NORMAL] * 5 + [UNKNOWN],
        scores=[-1.0] * 4 + [5.0, -1.0],
    )  # fmt: skip
    assert _merges_by_score(made) == [("a", "ba"), ("ab", "a"), ("b", "a"), ("a", "b")]


REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST,
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST,
}
"""As the tokenizer.json of Meta-Llama-3-8B and of Qwen2 have it."""
NASTY = (
    "I'LL they'Ve 'S 's' d'd 'tis ''re", "1 12 123 1234 12345 ½ ²³ ٣٤٥٦ ①②③④ Ⅷ", "a1b22c333d4444",
    "\t\tx = ['a']\r\n\r\n\r\n  y", "  \n  \n\n a\n", "\u00a0\u00a0x\u2028y\u3000z", "((((a))))...!?!?\n\n",
    "snake_case camelCase kebab-case _x_ __", "🙂🙂👩\u200d👧 🇩🇪", "привет мир 漢字かな한국어 ไทย हिन्दी",
    "e\u0301 n\u0303o \u0301", "a\u200db\ufeffc\x00d\x7f", "x" * 300, "'" * 9 + "s", "\r", "\n\r\n\r", " " * 17,
    "ſ 'ß İi ǅ", "$5.00 +3% <=> ~^|`", "end of text ",
)  # fmt: skip


def published(form: str) -> Backend:
    """A tokenizer of the published form over the same pieces and merges."""
    pieces, merges = learnt_byte_level()
    split = {"type": "Split", "pattern": {"Regex": CUTS[form]}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "vocab": {piece: at + 3 for at, piece in enumerate(pieces)}, "merges": merges,
             "ignore_merges": form == "llama3"}  # fmt: skip
    return Backend.from_str(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "model": model,
    }))  # fmt: skip


@pytest.mark.parametrize(
    ("pre", "form"),
    [("llama-bpe", "llama3"), ("llama3", "llama3"), ("falcon3", "llama3"), ("falcon_e", "llama3"), ("qwen2", "qwen2")],
)
def test_text_is_cut_as_the_published_tokenizer_does(pre: str, form: str, tmp_path: Path) -> None:
    """Their normaliser to NFC is left out: llama.cpp has none, and neither have we."""
    ours, theirs = load_model(model_with(tmp_path, byte_level(pre))).tokenizer, published(form)
    for text in (*TEXTS, *NASTY):
        if "<" not in text:  # special tokens
            assert ours.encode(text, bos=False) == theirs.encode(text).ids, text
    other = published("qwen2" if form == "llama3" else "llama3")
    cut = [each.pre_tokenizer.pre_tokenize_str("12345") for each in (ours.backend, other)]
    assert cut[0] != cut[1], "the families differ, and a name of the wrong one would show"


@pytest.mark.parametrize("pre", [None, "llama-bpe"])
def test_a_missing_rule_is_told(pre: str | None, tmp_path: Path) -> None:
    told = run("model", "inspect", str(model_with(tmp_path, byte_level(pre)))).stdout
    assert ("default, tokenizer.ggml.pre is missing" in told) is (pre is None)


def test_gpt_2_cuts_as_the_library_does(tmp_path: Path) -> None:
    """Whose byte level has that rule built in."""
    ours = load_model(model_with(tmp_path, byte_level("gpt-2"))).tokenizer.backend.pre_tokenizer
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for text in (*TEXTS, *NASTY):
        assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text), text


@pytest.mark.parametrize(
    "kind", ["embedded", None, "default", "gpt-2", "llama-bpe", "qwen2", "starcoder", "falcon", "llama", "llama-bare"]
)
def test_same_ids_as_llama_cpp(tmp_path: Path, kind: str | None, llamacpp: ModuleType) -> None:
    lines = [*TEXTS, *held_out().splitlines(keepends=True)]
    if kind == "embedded":
        path = load_model().path
    else:
        sentences = kind in ("llama", "llama-bare")
        path = model_with(tmp_path, sentence_piece(kind == "llama") if sentences else byte_level(kind))
        lines = lines[:60]
    tokenizer = load_model(path).tokenizer
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.warmup, params.n_ctx = str(path), 0, False, 64
    params.n_parallel = params.cpuparams.n_threads = 1
    params.n_gpu_layers = 0
    server = xllamacpp.Server(params)
    address = f"{server.listening_address}/tokenize"

    def theirs(text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            ids: list[int] = json.load(reply)["tokens"]
        return ids

    assert not [text for text in lines if tokenizer.encode(text) != theirs(text)]
