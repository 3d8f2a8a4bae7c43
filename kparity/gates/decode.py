"""The gate ``decode``: greedy ids from the device."""

from __future__ import annotations

import numpy as np

from kparity import ops
from kparity.device.adapter import launched
from kparity.engine import Engine
from kparity.gates.candidate import Candidate
from kparity.gates.reference import SEED
from kparity.gates.verdict import Gate, Measure
from kparity.ops.spec import Array

ROUNDING = 2.0**-40
"""What fp64 sums of the same K ≤ 8192 terms in another order differ by: K · 2^-53 (Higham 2002, 3.1) of their size, for
which the largest logit stands.
"""
GREEDY = 4
"""Steps of which nothing but the id leaves the device."""


def _noise_of_logits(candidate: Candidate) -> Array:
    """Largest |difference| of a logit between the reference and its rounded twin [positions]: over all positions,
    and at none below the contract's least share of the root mean square of the logits there.
    """
    logits = candidate.reference.logits
    apart = max(np.abs(one - other).max() for one, other in zip(candidate.reference.rounded, logits, strict=True))
    least = candidate.contract.threshold("decode_noise_least").value
    noise: Array = np.maximum(apart, least * np.sqrt([np.square(row).mean() for row in logits]))
    return noise


def token_verdicts(best: Array, wanted: Array, noise: Array | float) -> Array:
    """SAME, EXACT-TIE, NEAR-TIE or DIVERGED for each id of ``best`` [n], by reference logits [n, vocab].

    A near tie is one whose logit lies within ``2 * noise`` of the largest (``noise`` [n], or one for all): either side
    may have been moved by ``noise``. An id outside the vocabulary has diverged.
    """
    rows = np.arange(len(wanted))
    inside = (best >= 0) & (best < wanted.shape[1])
    top = wanted.max(axis=1)
    gap = top - wanted[rows, np.where(inside, best, 0)]
    gap = np.where(gap <= ROUNDING * np.abs(top), 0, gap)
    return np.where(inside, tie_classes(best == wanted.argmax(axis=1), gap, noise), "DIVERGED")


def tie_classes(same: Array, gap: Array, noise: Array | float) -> Array:
    """The same by whether ids are equal [n], and by how far the reference's logit of each lies below its largest [n];
    a gap that is no number is a divergence.
    """
    ties = np.where(gap == 0, "EXACT-TIE", np.where(gap <= 2 * noise, "NEAR-TIE", "DIVERGED"))
    return np.where(same, "SAME", ties)


def _wrong_argmax(engine: Engine) -> tuple[int, str]:
    """The argmax kernel that serves, on made logits (ties at both ends, infinities, NaN): wrong ids, and the first."""
    op, vocab = ops.get("argmax"), engine.model.hparams.vocab
    kernel = engine.kernels.get("argmax", M=1, N=vocab)
    wrong, first = 0, ""
    for kind in op.kinds(kernel.case):
        inputs = op.inputs(kernel.case, np.random.default_rng(SEED), kind)
        with np.errstate(all="ignore"):
            want = int(op.reference(kernel.case, inputs)[0].flat[0])
        got = int(launched(engine.backend, kernel, inputs, poison=0x7F)[0].flat[0])
        if got != want:
            wrong, first = wrong + 1, first or f"{got} for {want} among logits of the kind {kind!r}"
    return wrong, first


def gate_decode(candidate: Candidate) -> Gate:
    """The ids that the device chooses, re-anchored at every position: after each the text's own token goes in.

    Each id must be the lowest of the largest among the very logits of its step, and the reference's id or nearly tied
    with it; ids that leave the device alone (``step_greedy``) must be those that were read beside the logits.
    """
    engine, reference, steps = candidate.engine, candidate.reference, candidate.steps
    assert steps is not None and candidate.best is not None
    best = np.asarray(candidate.best)
    count, noise = len(best), _noise_of_logits(candidate)
    verdicts = token_verdicts(best, np.asarray(reference.logits), noise)
    own = np.flatnonzero(best != steps.argmax(axis=1))
    engine.reset()
    alone = np.array([engine.step_greedy(token) for token in reference.tokens[:GREEDY]])
    changed = np.flatnonzero(alone != best[:GREEDY])
    made, first = _wrong_argmax(engine)
    diverged = np.flatnonzero(verdicts == "DIVERGED")
    values = {
        "decode_diverged": len(diverged),
        "decode_argmax": len(own) + len(changed) + made,
        "decode_ties": float((verdicts == "NEAR-TIE").mean()),
    }

    def failure(bad: Measure) -> tuple[str, str]:
        if bad.threshold == "decode_diverged":
            at = int(diverged[0])
            where = f"{best[at]} for {np.argmax(reference.logits[at])} at position {at}/{count}"
            tie = f"no near tie of {reference.name} (within {2 * noise[at]:.3g})"
            return "KP-DECODE", f"greedy decode chooses {where}, which is {tie}"
        if bad.threshold == "decode_ties":
            return "KP-DECODE", f"{bad.value:.1%} of {count} ids are near ties of {reference.name} (> {bad.limit:.1%})"
        if len(own):
            at, largest = int(own[0]), np.argmax(steps[own[0]])
            return "KP-ARGMAX", f"the device returns {best[at]} at position {at}, the largest logit is {largest}"
        if len(changed):
            at = int(changed[0])
            both = f"{alone[at]} at position {at} without the logits and {best[at]} beside them"
            return "KP-ARGMAX", f"the device returns {both}"
        return "KP-ARGMAX", f"the argmax kernel returns {first}"

    return candidate.judged("decode", values, failure)
