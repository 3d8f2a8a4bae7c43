"""A probe for continuous integration: JUnit XML, CTRF and SARIF, and annotations with a table for GitHub."""

from __future__ import annotations

from collections.abc import Sequence

from kparity.gates.table import of_depth
from kparity.gates.verdict import Gate, Row
from kparity.host import ci

COLUMNS = ("backend", "device", "kind", "verdict", "reason", "ms")


def suites(rows: Sequence[Row]) -> ci.Suites:
    """What CI reads: a suite per backend, a test per gate. A failed gate has each number beside its limit; a gate
    that was not reached, or a backend that is not there, is skipped with the reason.
    """
    return {f"kparity probe {row.backend}": [*_tests(row)] for row in rows}


def seconds(rows: Sequence[Row]) -> float:
    """How long it took."""
    return max((row.elapsed_ms for row in rows), default=0.0) / 1e3


def as_junit(rows: Sequence[Row]) -> str:
    """JUnit XML."""
    return ci.junit("kparity probe", seconds(rows), suites(rows))


def as_ctrf(rows: Sequence[Row]) -> str:
    """CTRF."""
    return ci.ctrf("kparity probe", seconds(rows), suites(rows))


def as_sarif(rows: Sequence[Row]) -> str:
    """SARIF."""
    return ci.sarif("kparity probe", suites(rows))


def _tests(row: Row) -> list[ci.Test]:
    classname, why = f"{row.backend}.probe", f"{row.code}: {row.reason}"
    if row.status == "unavailable":
        return [ci.Test(classname, "open", row.elapsed_ms / 1e3, skipped=why)]
    tests = [_test(classname, gate, row) for gate in row.gates]
    told = {gate.name for gate in row.gates}
    left = [gate.name for gate in of_depth(row.depth) if gate.name not in told]
    if row.status == "rejected" and not any(test.failure for test in tests):  # it crashed, hung, or said no message
        tests.append(ci.Test(classname, left.pop(0) if left else "process", 0.0, failure=why, type=row.code))
    return tests + [ci.Test(classname, name, 0.0, skipped=f"not reached: {why}") for name in left]


def _test(classname: str, gate: Gate, row: Row) -> ci.Test:
    numbers = "\n".join(f"{each.threshold}: {each.text()}{'' if each.holds else '  FAIL'}" for each in gate.measures)
    failed, left_out = gate.verdict in ("FAIL", "MISTRUSTED"), gate.verdict == "INCONCLUSIVE"
    return ci.Test(
        classname, gate.name, gate.elapsed_ms / 1e3,
        failure=f"{gate.code}: {gate.reason}" if failed else "", type=gate.code,
        details="\n".join(filter(None, (f"{row.backend} on {row.label or 'no device'}", gate.reason, numbers))),
        skipped=(gate.note or gate.reason or "not run at this depth") if left_out else "",
    )  # fmt: skip


def to_github(rows: Sequence[Row], serving: str) -> None:
    """An error for what ran and failed, a warning for what is not there or not allowed, a notice for what serves."""
    said: list[tuple[ci.Level, str, str]] = [
        ("error" if row.alarming else "warning", f"kparity probe: {row.backend} {row.status}",
         f"{row.code}: {row.reason}")
        for row in rows if not row.accepted
    ]  # fmt: skip
    said += [
        ("warning", f"kparity probe: {row.backend} is INCONCLUSIVE", "it was probed with BOS alone") if row.shallow
        else ("notice", f"kparity probe: {row.backend} serves", row.label)
        for row in rows if row.backend == serving
    ]  # fmt: skip
    if not serving:
        said.append(("error", "kparity probe", "no backend may serve"))
    devices = [row.device or {"device": "—", "kind": "—"} for row in rows]
    table = [
        (row.backend, device["device"], device["kind"], f"{row.status}{', serves' if row.backend == serving else ''}",
         f"{row.code}: {row.reason}" if row.code else "", f"{row.elapsed_ms:.0f}")
        for row, device in zip(rows, devices, strict=True)
    ]  # fmt: skip
    ci.github("kparity probe", said, COLUMNS, table)
