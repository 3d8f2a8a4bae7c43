"""The logits of a receipt, computed again on other hardware: what that proves, and what stays the writer's word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kparity import contracts
from kparity.contracts import Contract
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.errors import WrongInput
from kparity.gates import challenge, reference
from kparity.gates.candidate import noise_floor
from kparity.gates.challenge import Sampled
from kparity.model import Model, load_model
from kparity.numerics import compare
from kparity.probe.messages import DEFAULT_POSITIONS
from kparity.receipts.record import Predicate, Run
from kparity.receipts.rules.challenge import alike, seed_of

SELF_REPORTED = "speed, device, driver and time"
"""What a receipt says that no computation shows."""


@dataclass(frozen=True)
class Recomputed:
    """A run's logits beside those of here: cosine over all drawn entries, and the median over the positions of
    1 - cosine as a multiple of the reference's own noise; ``same_bits`` counts the positions of the same SHA-256.
    """

    backend: str
    positions: int
    same_bits: int
    cosine: float
    noise: float
    passed: bool


def tokens_of(predicate: Predicate, model: Model) -> list[int]:
    """The tokens that were fed, up to the last whose logits the receipt tells."""
    length = 1 + max((each.position for run in predicate.runs for each in run.logits), default=-1)
    if not length:
        raise WrongInput("the receipt tells no logits: no backend of it was judged; name another receipt")
    if predicate.kind == "probe":
        asked = predicate.request.options.get("positions")
        count = asked if isinstance(asked, int) else DEFAULT_POSITIONS  # the text that is encoded depends on it
        return reference.probe_tokens(model, min(count, model.hparams.context), predicate.nonce)[:length]
    drawn = challenge.drawn(predicate.nonce, "tokens", seed_of(predicate), length - 1, model.hparams.vocab)
    return [reference.first_token(model), *drawn]


def recomputed(predicate: Predicate, path: Path, backend: str, index: int = 0) -> Iterator[Recomputed]:
    """Every run that tells logits, held against a backend of here. Raises WrongInput where the file is not the model
    that was measured, and what opening the backend raises.
    """
    options = {name: str(predicate.request.options.get(name, default)) for name, default in _DEFAULTS.items()}
    with closing(load_model(path)) as model:
        if predicate.model is None or predicate.model.sha256 != model.sha256:
            raise WrongInput(f"{path} is not the model of the receipt; name the file with the SHA-256 that it tells")
        tokens = tokens_of(predicate, model)
        with closing(Engine(model, open_backend(backend, index), **options)) as engine:  # type: ignore[arg-type]
            own = {run.backend: _logits(engine, tokens, predicate, run) for run in predicate.runs if run.logits}
        truth = reference.compute(model, tokens[:DEFAULT_POSITIONS], act=options["act"], kv=options["kv"])
        floor = noise_floor(truth, contracts.load(contracts.PROBE))
    limits = contracts.load(contracts.RECEIPT)
    for run in predicate.runs:
        if run.logits:
            yield _judged(run, own[run.backend], floor, limits)


_DEFAULTS = {"act": "token", "kv": "f16"}


def _logits(engine: Engine, tokens: Sequence[int], predicate: Predicate, run: Run) -> list[Sampled]:
    """The same positions and entries as those of a run, by an engine of here."""
    engine.reset()
    found, at = [], 0
    for each in run.logits:
        if tokens[each.position] != each.token:
            raise WrongInput(f"the receipt fed token {each.token} at position {each.position}, here it is "
                             f"{tokens[each.position]}: its work is not that of its nonce and model")  # fmt: skip
        row = engine.prefill(tokens[at : each.position + 1])
        found.append(challenge.sampled(row, each.position, each.token, predicate.nonce, seed_of(predicate)))
        at = each.position + 1
    return found


def _judged(run: Run, own: Sequence[Sampled], floor: float, limits: Contract) -> Recomputed:
    told, here = ([np.array(each.values) for each in side] for side in (run.logits, own))
    cosine, each = alike(run.logits, own), [compare.cosine(a, b) for a, b in zip(told, here, strict=True)]
    noise = float(1 - np.median(each)) / floor
    holds = limits.threshold("recompute_cosine").holds(cosine) and limits.threshold("recompute_noise").holds(noise)
    same = sum(a.sha256 == b.sha256 for a, b in zip(run.logits, own, strict=True))
    return Recomputed(run.backend, len(own), same, cosine, noise, holds)
