"""What was saved, as the page and the figure ask for it; targets and published figures; straight lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Row = Mapping[str, Any]
UNITS = {"share": (100.0, "{:.0f} %"), "×": (1.0, "{:.2f} ×"), "µs": (1.0, "{:.2f} µs"), "ms": (1.0, "{:.0f} ms"),
         "s": (1.0, "{:.2f} s"), "GB/s": (1.0, "{:.2f} GB/s")}  # fmt: skip
MET, MISSED, UNKNOWN = "met", "**missed**", "not measured"


@cache
def facts() -> dict[str, Any]:
    """bench/performance.yaml: ``targets`` and ``published``."""
    import yaml

    text = (Path(__file__).parent / "performance.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@dataclass(frozen=True)
class Claim:
    """A target beside what was measured: one value, or several that must all hold, each with what it is of."""

    target: str
    values: Mapping[str, float | None]
    about: str = ""

    @property
    def verdict(self) -> str:
        """Met, missed (one is enough), or not measured."""
        limit = facts()["targets"][self.target]
        known = [value for value in self.values.values() if value is not None]
        at_least = limit["rule"] == "at least"
        if any(value < limit["value"] if at_least else value > limit["value"] for value in known):
            return MISSED
        return MET if known and len(known) == len(self.values) else UNKNOWN

    def line(self) -> tuple[str, str, str, str]:
        """What, asked, measured, verdict."""
        limit = facts()["targets"][self.target]
        sign = "≥" if limit["rule"] == "at least" else "≤"
        told = (f"{name} {shown(value, limit['unit'])}".strip() for name, value in self.values.items())
        what = f"{limit['what']}{', ' if self.about else ''}{self.about}"
        return what, f"{sign} {shown(limit['value'], limit['unit'])}", ", ".join(told), self.verdict


def shown(value: float | None, unit: str) -> str:
    """A number with its unit, or a dash."""
    if value is None:
        return "—"
    factor, form = UNITS[unit]
    return form.format(value * factor)


class Results:
    """The saved runs. What is not there is None."""

    def __init__(self, document: Row) -> None:
        self.runs: Mapping[str, Row] = document["runs"]

    def result(self, name: str) -> Any:
        """What came out of a run; empty where nothing did."""
        return self.runs.get(name, {}).get("result", {})

    def engine(self, name: str, backend: str = "cpu") -> Row | None:
        """A backend's part of a run."""
        return next((run for run in self.result(name).get("runs", []) if run["backend"] == backend), None)

    def row(self, name: str, point: str, backend: str = "cpu") -> Row | None:
        """A measurement of a backend that counts: right output, no error."""
        run = self.engine(name, backend)
        if run is None or run["parity"] != "PASS" or run["errors"]:
            return None
        return next((row for row in run["measurements"] if row["name"] == point and not row["errors"]), None)

    def points(self, name: str) -> list[str]:
        """The names of what a run measured of the cpu backend."""
        return [row["name"] for row in (self.engine(name) or {}).get("measurements", [])]

    def baseline(self, name: str, f16: bool = False) -> Row | None:
        """llama.cpp in a run, on the same file or on the F16 file."""
        found = self.result(name).get("baselines", [])
        return next((each for each in found if ("-f16-" in each["name"]) == f16 and not each["errors"]), None)

    def theirs(self, name: str, point: str, f16: bool = False) -> Row | None:
        """A measurement of llama.cpp."""
        rows = (self.baseline(name, f16) or {}).get("measurements", [])
        return next((row for row in rows if row["name"] == point), None)

    def ratio(self, name: str, point: str, f16: bool = False) -> Row | None:
        """How many times faster the cpu backend is than llama.cpp: ratio, low, high."""
        if self.row(name, point) is None:
            return None
        rows = (self.baseline(name, f16) or {}).get("ratios", [])
        return next((row for row in rows if row["name"] == point and row["backend"] == "cpu"), None)

    def op(self, name: str, op: str, state: str, **params: int | str) -> Row | None:
        """A row of single ops, by some of the parameters of its case."""
        for row in self.result(name).get("ops", []):
            found = dict(re.findall(r"(\w+)=([\w.]+)", row.get("case") or ""))
            same = all(found.get(key) == str(value) for key, value in params.items())
            if row["op"] == op and row.get("state") == state and same and "us" in row and not row["errors"]:
                return dict(row)
        return None


def divided(a: float | None, b: float | None) -> float | None:
    """a / b where both are there."""
    return a / b if a is not None and b else None


def value(row: Row | None, name: str) -> float | None:
    """A number of a row that may be missing."""
    return None if row is None or row.get(name) is None else float(row[name])


@dataclass(frozen=True)
class Curve:
    """Milliseconds of a token against something that grows."""

    name: str
    unit: str
    x: Sequence[float]
    ms: Sequence[float]

    @property
    def line(self) -> tuple[float, float]:
        """Least squares over the relative errors: ms = a + b·x."""
        x, ms = np.array(self.x, float), np.array(self.ms, float)
        slope, start = np.polyfit(x, ms, 1, w=1 / ms)
        return float(start), float(slope)

    @property
    def deviation(self) -> float:
        """The largest distance of a point from the line, as a share of the line."""
        start, slope = self.line
        line = start + slope * np.array(self.x, float)
        return float(np.abs(np.array(self.ms) / line - 1).max())


def curves(results: Results) -> list[Curve]:
    """Time per token against layers, vocabulary and depth; those with three points or more."""
    layers = [(n, f"{n}:512" if n < 24 else "24:512, 2 threads", "tg@0") for n in (6, 12, 18, 24)]
    vocabulary = [(512, "6:512", "tg@0"), (32000, "6:32000, 2 threads", "tg@0"), (64000, "6:64000", "tg@0"),
                  (128256, "6:128256", "tg@0")]  # fmt: skip
    depth = [(int(point.removeprefix("tg@")), "depth", point) for point in results.points("depth")]
    named = (("layers", "layers, vocabulary 512", layers), ("vocabulary", "words, 6 layers", vocabulary),
             ("depth", "tokens in the cache, 6 layers, vocabulary 32000", depth))  # fmt: skip
    found = []
    for name, unit, wanted in named:
        measured = [(x, results.row(run, point)) for x, run, point in wanted]
        points = [(x, row["ms_per_token"]["p50"]) for x, row in measured if row is not None]
        if len(points) >= 3:
            found.append(Curve(name, unit, *zip(*points, strict=True)))
    return found


def threads(results: Results) -> list[tuple[int, float]]:
    """Threads and tokens/s of the 6-layer model."""
    rows = [(n, results.row(f"6:32000, {n} thread{'s' * (n > 1)}", "tg@0")) for n in (1, 2)]
    return [(n, row["tokens_per_s"]) for n, row in rows if row is not None]
