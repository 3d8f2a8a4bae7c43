"""Whether the logits that a receipt tells are at the places that its nonce draws, and alike on all its backends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kparity.contracts import Contract
from kparity.gates import challenge
from kparity.gates.challenge import Sampled
from kparity.gates.reference import SEED
from kparity.gates.table import WHOLE
from kparity.numerics import compare
from kparity.probe.messages import DEFAULT_POSITIONS
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import BLOCK, Predicate, Run
from kparity.receipts.rules.device import enumerated


def seed_of(predicate: Predicate) -> int:
    """What tokens, positions and entries are drawn with, beside the nonce."""
    return SEED if predicate.kind == "probe" else predicate.seeds.get("tokens", 0)


def _positions(predicate: Predicate, run: Run, context: int) -> list[int]:
    if predicate.kind == "bench":
        return sorted({row.units - 1 if row.phase == "prefill" else row.depth + BLOCK - 1
                       for row in run.measurements})  # fmt: skip
    asked = predicate.request.options
    count = asked.get("positions", DEFAULT_POSITIONS) if asked.get("depth", "full") in WHOLE else 1
    length = min(count, context) if isinstance(count, int) and count > 0 else context
    return challenge.positions(predicate.nonce, seed_of(predicate), length)


def logits(predicate: Predicate, contract: Contract) -> Findings:
    """Every run that was not rejected tells logits at the drawn positions and entries, behind the drawn tokens; and
    two backends that passed tell the same ones.
    """
    model = predicate.model
    if model is None:
        return
    if predicate.kind == "probe" and predicate.seeds != {"tokens": SEED}:
        yield Finding("RCPT-LOGITS", "/predicate/seeds", f"a probe draws with {SEED} and nothing else")
    first: tuple[str, list[Sampled]] | None = None
    for at, run in enumerated(predicate):
        if run.parity.verdict == "FAIL":
            continue
        wanted, told = _positions(predicate, run, model.context), [each.position for each in run.logits]
        if told != wanted:
            why = f"logits at the positions {told}, those that were drawn or timed are {wanted}"
            yield Finding("RCPT-LOGITS", f"{at}/logits", why)
            continue
        for index, each in enumerate(run.logits):
            yield from _drawn(each, predicate, model.vocab, f"{at}/logits/{index}")
        digests = [each.sha256 for each in run.logits]
        if len({*digests}) < len(digests):
            yield Finding("RCPT-LOGITS", f"{at}/logits", "the same logits, by their digest, at two positions")
        if run.parity.verdict != "PASS" or not told:
            continue
        for a, b in zip(first[1] if first else (), run.logits, strict=False):
            if a.sha256 == b.sha256 and (a.values, a.argmax) != (b.values, b.argmax):
                why = f"at position {b.position} the digest of {first[0] if first else ''}'s logits, and other values"
                yield Finding("RCPT-LOGITS", f"{at}/logits", why)
        cosine = alike(first[1], run.logits) if first and [each.position for each in first[1]] == told else 1.0
        if first and not contract.threshold("recompute_cosine").holds(cosine):
            why = f"not those of {first[0]}: cosine {cosine:.6f} over the entries, and both passed"
            yield Finding("RCPT-LOGITS", f"{at}/logits", why)
        first = first or (run.backend, run.logits)


def alike(one: Sequence[Sampled], other: Sequence[Sampled]) -> float:
    """Cosine of all values that two tell; NaN where they are of different lengths."""
    a, b = (np.array([value for each in side for value in each.values]) for side in (one, other))
    with np.errstate(all="ignore"):  # what is beyond any logit is no cosine
        return compare.cosine(a, b) if len(a) == len(b) else math.nan


def _drawn(each: Sampled, predicate: Predicate, vocab: int, at: str) -> Findings:
    nonce, seed = predicate.nonce, seed_of(predicate)
    if each.entries != challenge.entries(nonce, seed, each.position, vocab) or len(each.values) != len(each.entries):
        yield Finding("RCPT-LOGITS", f"{at}/entries", "not the entries that nonce and position draw, a value for each")
        return
    with np.errstate(over="ignore"):
        values = np.array(each.values, np.float32)
    alike = len({*zip(each.entries, each.values, strict=True)}) > len({*each.entries})
    if not np.array_equal(values, each.values) or not values.std() > 0 or alike:
        why = "no logits: each is an f32, they are not all the same, and an entry that was drawn twice has one value"
        yield Finding("RCPT-LOGITS", f"{at}/values", why)
    largest = max(each.values)
    at_best = [value for entry, value in zip(each.entries, each.values, strict=True) if entry == each.argmax]
    if each.argmax >= vocab or any(value < largest for value in at_best):
        yield Finding("RCPT-LOGITS", f"{at}/argmax", f"{each.argmax} is not where the largest logit can be")
    # A probe without a nonce feeds text, which only the model's own tokenizer tells.
    if each.position and (predicate.kind == "bench" or nonce):
        token = challenge.drawn(nonce, "tokens", seed, each.position, vocab)[-1]
        if token != each.token:
            why = f"token {each.token} at position {each.position}, nonce and seed draw {token}"
            yield Finding("RCPT-LOGITS", f"{at}/token", why)
