"""Why a comparison of logits could not have failed: its verdict is MISTRUSTED, whatever was measured.

Zeros agree with zeros, and where the layers of a model change nothing every error in them is right. So the reference is
looked at, which no candidate can touch, and passes that are wrong on purpose go through the limits of the gate
``positions``: one that they let through would be let through in a candidate, too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kparity import plain
from kparity.contracts import Contract
from kparity.gates.candidate import Distance, noise_floor
from kparity.gates.reference import Reference
from kparity.ops.spec import Array


def controlled(compute: Callable[..., Reference], contract: Contract) -> Reference:
    """What ``compute`` gives, which is ``reference.compute`` but for the length of the wrong passes: a few positions
    tell most of them from the right one, and where they do not, all that are walked may.
    """
    few = compute(controlled=plain.CONTROLLED)
    return compute(controlled=len(few.tokens)) if few.controls and unseen(few, contract) else few


def doubts(reference: Reference, contract: Contract) -> list[str]:
    """What no gate that compares logits with this reference could have seen, a sentence each."""
    filled, spread = [], []
    for row in reference.logits:
        size = float(np.sqrt(np.square(row).mean()))
        filled.append(np.count_nonzero(row) / row.size)
        spread.append(float(row.std()) / size if size else 0.0)
    found = []
    for name, shares, what in (
        ("trusted_filled", filled, "of its logits are not zero"),
        ("trusted_spread", spread, "of their root mean square is what its logits differ by"),
    ):
        limit, least = contract.threshold(name), min(shares)
        if not limit.holds(least):
            found.append(f"{least:.2%} {what} at position {shares.index(least)} (< {limit.value:.2%})")
    return [*found, *(f"a pass {what} is taken for right" for what in unseen(reference, contract))]


def unseen(reference: Reference, contract: Contract) -> list[str]:
    """What is wrong in the passes that the gate ``positions`` would let through."""
    return [what for what, wrong in reference.controls.items() if not _seen(wrong, reference, contract)]


def _seen(wrong: Array, reference: Reference, contract: Contract) -> bool:
    """Whether the gate ``positions`` would reject the logits of a pass that is wrong."""
    far = Distance.between(wrong, reference.logits[: len(wrong)])
    noise = (1 - far.median) / noise_floor(reference, contract)
    measured = {"cosine": far.cosine, "noise": noise, "factor": far.factor, "norm": far.norm}
    return not all(contract.threshold(f"positions_{name}").holds(value) for name, value in measured.items())
