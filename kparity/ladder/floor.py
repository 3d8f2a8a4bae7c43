"""The noise floor: passes over the same tokens that are right and differ by rounding, none of them the candidate's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from kparity import plain
from kparity.engines.base import Engine, Spec
from kparity.errors import KparityError
from kparity.ladder.limits import Floor
from kparity.ladder.stream import Seat, Tally, rows_of, tallied

Opener = Callable[[str], Engine]
PLAIN_BYTES = 64 << 20
"""Size of a model up to which the plain fp64 pass is cheap."""
BATCH_BYTES = 128 << 20
"""Logits of one batch of a floor: 256 positions of a vocabulary of 131,072."""
FEWEST = 256
"""Positions of a floor, where the texts have them: the first code may flip as late as the hundredth."""
ACTS = {
    "int8 token": "token", "int8 block256": "block256", "int8 block32": "block32", "not quantised": "none",
    "Q8_K": "block256", "Q8_0": "block32",
}  # fmt: skip
"""What an engine says of its activations -> how the plain pass does the same."""
OTHER_ACT = {"token": "block256", "block256": "token", "block32": "token", "none": "token"}


def of_third(reference: Seat, third: Seat, tokens: Sequence[int]) -> Floor:
    """The reference against the third engine."""
    controls = {third.spec: tallied(reference, third, tokens)}
    return Floor(f"{reference.spec} against {third.spec}", True, controls)


def measured(reference: Seat, model: str, same: bool, tokens: Sequence[int], opener: Opener) -> Floor:
    """The best floor that can be had without a third engine: the plain fp64 pass beside its f32 twin, and where the
    numerics differ with other quantisation of activations; else the reference in another form, or in other batches.
    """
    found = plain_pass(reference, model, same, tokens) or _other_forms(reference, same, tokens, opener)
    if found is not None:
        return found
    batch, steps = f"{reference.spec} in a batch", "token by token"
    return Floor(f"{batch} against itself {steps}", False, {steps: _against_steps(reference, tokens[:FEWEST])})


def _against_steps(reference: Seat, tokens: Sequence[int]) -> Tally:
    """An engine against itself token by token, by batches as large as memory admits: small ones may run the kernels of
    single tokens. It has one cache, so that one way comes after the other, and the first waits in a file.
    """
    tally, rows = Tally(), rows_of(reference.facts, BATCH_BYTES)
    with tempfile.TemporaryFile() as kept:
        reference.reset()
        for at in range(0, len(tokens), rows):
            batch = reference.timed("a batch", reference.engine.score, tokens[at : at + rows])
            np.asarray(batch, np.float32).tofile(kept)
            del batch  # before the next one is there
        kept.seek(0)
        reference.reset()
        for token in tokens:
            row = reference.shaped(np.fromfile(kept, np.float32, reference.facts.vocab))
            tally.add(row[None], reference.step(token)[None])
    return tally


def plain_pass(reference: Seat, model: str, same: bool, tokens: Sequence[int]) -> Floor | None:
    """The plain fp64 pass beside others, as the reference quantises; None for a model that is large or none of ours."""
    act, shaped = ACTS.get(reference.facts.activations, "token"), reference.shaped
    acts = [act] if same else [act, OTHER_ACT[act]]
    controls = {"f32": Tally(), **{f"activations per {each}": Tally() for each in acts[1:]}}
    kv = reference.facts.kv if reference.facts.kv in ("f16", "f32") else "f16"
    try:
        if not model or Path(model).stat().st_size > PLAIN_BYTES:
            return None
        file, said = plain.facts(model), reference.facts
        if any(got and got != want for got, want in ((said.vocab, file.vocab), (said.layers, file.layers))):
            return None  # the engine has a model of its own
        rows = rows_of(said)
        passes = [plain.streamed(model, tokens, act=each, kv=kv, rows=rows) for each in acts]
        for both, *others in zip(*passes, strict=True):
            truth = shaped(both.logits)
            for tally, other in zip(controls.values(), (both.rounded, *(each.logits for each in others)), strict=True):
                tally.add(truth, shaped(other))
    except (KparityError, OSError):
        return None
    return Floor(f"plain fp64 against {' and '.join(controls)}", not same, controls)


def _other_forms(reference: Seat, same: bool, tokens: Sequence[int], opener: Opener) -> Floor | None:
    """kparity's own engine beside itself with another type of the cache, which flips codes as rounding does; None for
    other engines.
    """
    spec = Spec.parse(reference.spec)
    if spec.kind != "kparity":
        return None
    act = ACTS.get(reference.facts.activations, "token")
    forms = [{"kv": "f32" if reference.facts.kv == "f16" else "f16"}, *([] if same else [{"act": OTHER_ACT[act]}])]
    controls: dict[str, Tally] = {}
    for form in forms:
        options = "&".join(f"{name}={value}" for name, value in {**spec.options, **form}.items())
        text = f"{spec.kind}:{spec.place}?{options}"
        other = Seat("control", text, partial(opener, text))
        other.centred = reference.centred
        try:
            controls[text] = tallied(reference, other, tokens)
        finally:
            reference.seconds += other.seconds  # both are engines' time
            other.engine.close()
    return Floor(f"{reference.spec} against {' and '.join(controls)}", not same, controls)
