"""What the serving process repeats of a probe on its own device, and what it is held against: the reference's logits
at some entries of the vocabulary, which the parent drew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kparity.contracts import Contract
from kparity.errors import WrongInput
from kparity.gates.candidate import Distance
from kparity.gates.depth import feed, fill
from kparity.gates.filled import Filled
from kparity.gates.reference import SEED, Deep, Reference
from kparity.gates.verdict import Measure
from kparity.ops.spec import Array
from kparity.plain import Span

if TYPE_CHECKING:
    from kparity.engine import Engine

POSITIONS, ENTRIES, STEPS, LATE = 64, 512, 8, 2
"""Positions, entries of the vocabulary, recorded steps, and late spans (the latest) that are repeated."""


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a reference: tokens, late spans and their cache, drawn entries, and logits f32 [tokens and spans, entries]."""

    tokens: list[int]
    spans: list[Span]
    context: int
    exponents: list[tuple[int, int]]
    entries: list[int]
    logits: bytes
    noise: float
    """Median of 1 - cosine between the reference and its twin at these entries."""

    @classmethod
    def of(cls, reference: Reference) -> Kept:
        """What is kept of a reference."""
        deep, count = reference.deep, min(POSITIONS, len(reference.tokens))
        vocab = reference.logits.shape[1]
        entries = np.sort(np.random.default_rng(SEED).choice(vocab, min(ENTRIES, vocab), replace=False))
        rows = [reference.logits[:count], *([deep.logits[:LATE]] if deep else [])]
        twins = [reference.rounded[:count], *([deep.rounded[:LATE]] if deep else [])]
        wanted, rounded = (np.concatenate(each)[:, entries].astype(np.float32) for each in (rows, twins))
        return cls(
            reference.tokens[:count], deep.spans[:LATE] if deep else [], deep.filled.count if deep else 0,
            deep.filled.exponents if deep else [], [int(each) for each in entries], wanted.tobytes(),
            1 - Distance.between(rounded.astype(np.float64), wanted.astype(np.float64)).median,
        )  # fmt: skip

    @property
    def wanted(self) -> Array:
        """The logits as an array."""
        return np.frombuffer(self.logits, np.float32).reshape(-1, len(self.entries)).astype(np.float64)


def repeated(engine: Engine, kept: Kept) -> tuple[list[Array], list[int], list[str]]:
    """Logits at the entries, the rows of ``wanted`` that they should be, and where each was computed: every position in
    chunks, a prompt, recorded steps behind it, and late spans.
    """
    tokens, found, rows, names = kept.tokens, list[Array](), list[int](), list[str]()

    def add(logits: Array, row: int, name: str) -> None:
        found.append(logits[kept.entries])
        rows.append(row)
        names.append(name)

    engine.reset()
    length, begin = len(tokens) // 2 + 1, 0
    if len(tokens) > 1:
        try:
            every = engine.score(tokens)
        except WrongInput:  # a device that has no head for several rows at once
            engine.reset()
            every = np.stack([engine.step(token) for token in tokens])
        for at, logits in enumerate(every):
            add(logits, at, f"at position {at}")
        engine.reset()
        add(engine.prefill(tokens[:length]), length - 1, f"after a prefill of {length}")
        begin = length
    for at in range(begin, min(length + STEPS, len(tokens))):
        add(engine.step(tokens[at]), at, f"of a step at position {at}")
    if kept.spans:
        deep = Deep(kept.spans, Filled(SEED, kept.context, [*kept.exponents]), kept.wanted, kept.wanted)
        fill(engine, deep)
        for at, span in enumerate(kept.spans):
            add(feed(engine, span), len(tokens) + at, f"at position {span.end - 1}")
    engine.reset()
    return found, rows, names


def differs(engine: Engine, kept: Kept, contract: Contract) -> str:
    """Why the device does not give what the probe saw; empty where it does."""
    found, rows, names = repeated(engine, kept)
    got = np.stack(found).astype(np.float64)
    if not np.isfinite(got).all():
        at = int(np.flatnonzero(~np.isfinite(got).all(axis=1))[0])
        return f"repeated in the serving process: logits {names[at]} are not finite"
    far = Distance.between(got, kept.wanted[rows])
    least = contract.threshold("noise_least").value
    values = {"positions_cosine": far.cosine, "positions_norm": far.norm}
    if len(kept.tokens) > 1:
        values |= {"positions_noise": (1 - far.median) / max(kept.noise, least), "positions_factor": far.factor}
    measures = [Measure.of(contract, name, value) for name, value in values.items()]
    bad = next((measure for measure in measures if not measure.holds), None)
    if bad is None:
        return ""
    place = names[far.high] if bad.threshold.endswith("norm") else names[far.low]
    return f"repeated in the serving process: {bad.threshold} = {bad.text()} does not hold, first {place}"
