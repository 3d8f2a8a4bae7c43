"""The noise floor: passes over the same tokens that are right and differ by rounding, none of them the candidate's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from kparity import plain
from kparity.engines.base import Engine, Spec
from kparity.errors import KparityError
from kparity.ladder.limits import Floor
from kparity.ladder.stream import Seat, Tally, compared, tallied

Opener = Callable[[str], Engine]
PLAIN_BYTES = 64 << 20
"""Size of a model up to which the plain fp64 pass is cheap."""
FEWEST = 256
"""Positions of a floor, where the texts have them: the first code may flip as late as the hundredth."""
ACTS = {"int8 token": "token", "int8 block256": "block256", "Q8_K": "block256", "not quantised": "none"}
"""What an engine says of its activations -> how the plain pass does the same."""
OTHER_ACT = {"token": "block256", "block256": "token", "none": "token"}


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
    tally, tokens = Tally(), tokens[:FEWEST]  # of a large vocabulary no more is kept at a time
    batch = reference.fed(tokens)
    reference.reset()
    for row, token in zip(batch, tokens, strict=True):
        tally.add(row[None], reference.step(token)[None])
    return Floor(f"{reference.spec} in a batch against itself token by token", False, {"token by token": tally})


def plain_pass(reference: Seat, model: str, same: bool, tokens: Sequence[int]) -> Floor | None:
    """The plain fp64 pass beside others, as the reference quantises; None for a model that is large or none of ours."""
    act, shaped = ACTS.get(reference.facts.activations, "token"), reference.shaped
    kv = reference.facts.kv if reference.facts.kv in ("f16", "f32") else "f16"
    try:
        if not model or Path(model).stat().st_size > PLAIN_BYTES:
            return None
        file, said = plain.facts(model), reference.facts
        if any(got and got != want for got, want in ((said.vocab, file.vocab), (said.layers, file.layers))):
            return None  # the engine has a model of its own
        both = plain.logits(model, list(tokens), act=act, kv=kv)
        truth = shaped(both.logits)
        controls = {"f32": compared(truth, shaped(both.rounded))}
        if not same:
            other = plain.logits(model, list(tokens), act=OTHER_ACT[act], kv=kv)
            controls[f"activations per {OTHER_ACT[act]}"] = compared(truth, shaped(other.logits))
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
