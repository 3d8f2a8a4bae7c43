"""The reference that a candidate is compared with: logits for one fixed token sequence, and exact integer truth."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources

import msgspec
import numpy as np

from kparity import plain
from kparity.errors import KparityError
from kparity.gates import challenge, filled
from kparity.gates.filled import Filled
from kparity.model import Model
from kparity.ops.spec import Array
from kparity.plain import Facts, Span

SEED = 20240229
"""Seed of every random input of a probe."""
Header = tuple[str, list[int], int, Facts, list[Span], int, list[tuple[int, int]], dict[str, int]]


@dataclass(frozen=True)
class Deep:
    """Late positions: ``logits`` and ``rounded`` [spans, vocab] after the last token of each of the spans, which stand
    behind what the cache was filled with.
    """

    spans: list[Span]
    filled: Filled
    logits: Array
    rounded: Array


@dataclass(frozen=True)
class Reference:
    """``logits`` [positions, vocab] fp64 for ``tokens``, by the forward pass called ``name``.

    ``rounded`` are the logits of the same pass with every float in f32: what separates the two is the noise of this
    very model on these very tokens. It is never taken from a candidate. ``controls`` are f32 logits [few, vocab] of
    passes over the first tokens that are wrong on purpose: a gate that takes them for right could not have failed.
    """

    name: str
    tokens: list[int]
    logits: Array
    rounded: Array
    facts: Facts
    """What the graph must be built with, by the file's second reader."""
    deep: Deep | None = None
    controls: Mapping[str, Array] = field(default_factory=dict)

    @property
    def proved(self) -> int:
        """The last position up to which whoever agrees with it is proved."""
        return self.deep.filled.count - 1 if self.deep else len(self.tokens) - 1

    @property
    def bos(self) -> Array:
        """Logits after the first token."""
        first: Array = self.logits[0]
        return first

    def write(self, descriptor: int) -> None:
        """Fill a file with it: a line of JSON, then the logits, fp64, and those of its rounded twin, walked positions
        before late ones, and those of the controls.
        """
        deep, rows = self.deep, {what: len(logits) for what, logits in self.controls.items()}
        late = (deep.spans, deep.filled.count, deep.filled.exponents) if deep else ([], 0, [])
        header = msgspec.json.encode((self.name, self.tokens, self.logits.shape[1], self.facts, *late, rows))
        arrays = [self.logits, self.rounded, *((deep.logits, deep.rounded) if deep else ()), *self.controls.values()]
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(header + b" " * (-(len(header) + 1) % 8) + b"\n")  # numbers lie on their boundaries
            for array in arrays:
                file.write(np.ascontiguousarray(array, np.float64).data)

    @classmethod
    def read(cls, descriptor: int) -> Reference:
        """Of a file that ``write`` has filled, without a copy of it: arrays [positions, vocab] fp64, read-only."""
        view = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        line = view.readline()
        name, tokens, vocab, facts, spans, count, exponents, controlled = msgspec.json.decode(line, type=Header)
        rows = np.frombuffer(view, np.uint8, offset=len(line)).view(np.float64).reshape(-1, vocab)
        walked, late = len(tokens), len(spans)
        ends = np.cumsum([walked, walked, late, late, *controlled.values()])[:-1]
        logits, rounded, deep, twin, *controls = np.split(rows, ends)
        return cls(
            name, tokens, logits, rounded, facts,
            Deep(spans, Filled(SEED, count, exponents), deep, twin) if late else None,
            dict(zip(controlled, controls, strict=True)),
        )  # fmt: skip


def first_token(model: Model) -> int:
    """The token that begins a sequence: BOS, or id 0 for a model without one."""
    return 0 if model.hparams.bos is None else model.hparams.bos


def probe_tokens(model: Model, count: int, nonce: str = "") -> list[int]:
    """BOS and then text that the model's own tokenizer encodes; seeded random ids where there is too little of it.

    Text keeps activations where the model was trained; a model whose tokenizer cannot encode it still gets ``count``
    ids. A nonce draws every token but BOS.
    """
    vocab = model.hparams.vocab
    if nonce:
        return [first_token(model), *challenge.drawn(nonce, "tokens", SEED, count - 1, vocab)][:count]
    try:
        text = resources.files("kparity").joinpath("data/heldout.txt").read_text(encoding="utf-8")[: count * 12]
        ids = [token for token in model.tokenizer.encode(text, bos=False) if 0 <= token < vocab]
    except (KparityError, FileNotFoundError):
        ids = []
    if len(set(ids)) < count // 4:  # an encoder that knows none of the text gives one id over and over
        ids = []
    filler = np.random.default_rng(SEED).integers(0, vocab, count)
    return [first_token(model), *ids, *(int(token) for token in filler)][:count]


def compute(
    model: Model, tokens: list[int], *, act: str, kv: str, context: int = 0,
    tick: Callable[[str], None] = lambda note: None, controlled: int = plain.CONTROLLED,
) -> Reference:  # fmt: skip
    """The plain forward pass over the model's file: it shares no graph, table or reader with any candidate. With a
    ``context`` the late positions of a cache of that length are among it. Passes that are wrong on purpose go over the
    first ``controlled`` tokens, where there are as many.
    """
    spans, cache = filled.spans(tokens, context, SEED) if context else [], Filled(SEED, context)
    past = cache.like if spans else None
    passes = plain.logits(model.file, tokens, act=act, kv=kv, tick=tick, spans=spans, past=past,
                          controlled=controlled if len(tokens) >= controlled else 0)  # fmt: skip
    walked, rounded = len(tokens), passes.rounded.astype(np.float64)
    deep = Deep(spans, cache, passes.logits[walked:], rounded[walked:]) if spans else None
    return Reference(
        passes.name, tokens, passes.logits[:walked], rounded[:walked], plain.facts(model.file), deep, passes.controls
    )  # fmt: skip
