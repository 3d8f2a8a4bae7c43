"""What two receipts say differently: what they are of first, speed last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SECTIONS = ("harness", "host", "libraries", "request", "model", "contract", "seeds", "serving", "fallback", "runs")
OWN = (
    "id", "begun", "ended", "sha256", "schema_version", "samples_s", "device_s", "clocks", "measurements", "device_ns",
)  # fmt: skip
"""Names of fields that differ between any two receipts, or are shown as speed."""
ABSENT = "—"
_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """A field that differs; ``—`` stands for one that is not there."""

    where: str
    a: str
    b: str


@dataclass(frozen=True)
class Speeds:
    """A measurement that either has: tokens per second, None where one lacks it, and b ÷ a."""

    backend: str
    name: str
    a: float | None
    b: float | None
    ratio: float | None


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[Difference]:
    """Fields of two predicates that differ, in the order of the document, speeds and samples left out.

    Runs are matched by backend, kernels by id, gates and measurements by name.
    """
    return [each for section in SECTIONS for each in _compared(a.get(section), b.get(section), section)]


def _compared(a: Any, b: Any, where: str) -> Iterator[Difference]:
    """Differences of two values; what only one side has is one line, however much it holds."""
    left, right = _named(a), _named(b)
    if left is None or right is None:
        if a != b:
            yield Difference(where, _short(a), _short(b))
        return
    for key in dict.fromkeys([*left, *right]):
        if key not in OWN:
            yield from _compared(left.get(key, _MISSING), right.get(key, _MISSING), f"{where}.{key}")


def _named(value: Any) -> dict[str, Any] | None:
    """The parts of a value by key, list entries by their own name; None for what has no parts."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {next((str(each[key]) for key in ("backend", "id", "name") if key in each), str(at)): each
                for at, each in enumerate(value)}  # fmt: skip
    return value if isinstance(value, dict) else None


def _short(value: Any) -> str:
    """A value in one cell; of a document only that it is there."""
    if value is _MISSING or isinstance(value, dict):
        return ABSENT if value is _MISSING else "present"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def speeds(a: dict[str, Any], b: dict[str, Any]) -> list[Speeds]:
    """Tokens per second of every measurement that either has, backends before baselines."""
    left, right = (
        {
            (owner.get("backend") or owner["name"], each["name"]): 1 / each["unit_s"]
            for kind in ("runs", "baselines")
            for owner in predicate[kind]
            for each in owner["measurements"]
        }
        for predicate in (a, b)
    )
    pairs = {key: (left.get(key), right.get(key)) for key in [*left, *right]}
    return [Speeds(*key, x, y, y / x if x and y else None) for key, (x, y) in pairs.items()]
