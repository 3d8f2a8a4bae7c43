"""The parent's judgement of what a candidate measured: the limits, the list of gates and the verdict are its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kparity.contracts import Contract
from kparity.gates.table import BLIND, GATES, GateSpec, of_depth
from kparity.gates.verdict import Gate, Measure


def judged(
    spec: GateSpec, contract: Contract, values: Mapping[str, float | None], code: str, reason: str, elapsed_ms: float
) -> Gate:
    """A gate from its measures; a measure that is missing or not finite does not hold.

    ``code`` and ``reason`` are the candidate's: a reason makes a failure readable and is no way around one. A candidate
    that says it failed has failed.
    """
    numbers = {name: math.nan if (value := values.get(name)) is None else value for name in spec.thresholds}
    measures = [Measure.of(contract, name, value) for name, value in numbers.items()]
    bad = next((measure for measure in measures if not measure.holds), None)
    if bad is None and not code:
        return Gate(spec.name, "PASS", measures, elapsed_ms=elapsed_ms)
    why = reason or (f"{bad.threshold} = {bad.text()}" if bad else "the candidate rejected itself")
    return Gate(spec.name, "FAIL", measures, code if code in spec.codes else spec.codes[0], why, elapsed_ms=elapsed_ms)


def trusted(gate: Gate, spec: GateSpec, doubts: Sequence[str]) -> Gate:
    """The gate, or MISTRUSTED in its place where it passed and could not have failed (``vacuous.doubts``)."""
    if gate.verdict != "PASS" or not doubts or not spec.compares:
        return gate
    why = f"it could not have failed: {'; '.join(doubts)}"
    return Gate(gate.name, "MISTRUSTED", gate.measures, "KP-VACUOUS", why, elapsed_ms=gate.elapsed_ms)


def lacking(gates: Sequence[Gate], depth: str) -> list[str]:
    """The gates of a depth that did not pass: an acceptance lacks none."""
    passed = {gate.name for gate in gates if gate.verdict == "PASS"}
    return [spec.name for spec in of_depth(depth) if spec.name not in passed]


def left_open(depth: str) -> list[Gate]:
    """The gates that a probe of BOS alone does not run, and what that leaves open."""
    ran = of_depth(depth)
    return [Gate(spec.name, "INCONCLUSIVE", note=f"not run: {BLIND}") for spec in GATES if spec not in ran]


def rejudged(gates: Sequence[Gate], depth: str, contract: Contract) -> list[Gate] | None:
    """Remembered gates, judged again from their measures; None where any of the depth is missing, or is another one."""
    ran = [gate for gate in gates if gate.verdict != "INCONCLUSIVE"]
    specs = of_depth(depth)
    if [gate.name for gate in ran] != [spec.name for spec in specs][: len(ran)]:
        return None
    kept = []
    for gate, spec in zip(ran, specs, strict=False):
        if not spec.thresholds:  # judged from the device itself, which is part of what an entry is found by
            kept.append(gate)
            continue
        values: dict[str, float | None] = {measure.threshold: measure.value for measure in gate.measures}
        if set(values) != set(spec.thresholds):
            return None
        again = judged(spec, contract, values, gate.code, gate.reason, gate.elapsed_ms)
        if again.verdict != gate.verdict:
            return None
        kept.append(again)
    return [*kept, *(left_open(depth) if depth == "bos" else [])]
