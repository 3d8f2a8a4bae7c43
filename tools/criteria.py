"""What other projects' criteria see of kparity's known-wrong kernels: the tables of docs/comparison.md.

    python -m tools.criteria           # print them; some minutes
    python -m tools.criteria --docs    # and write them into the page

Each criterion gets the outputs of a wrong kernel on the numpy backend, beside those of the right one: a reference as
near as there is, on kparity's cases and kinds of input, of which its own project need not have any. It raises a
false alarm where it refuses the cpu backend, which is right, and sees a wrong kernel that it refuses in another run.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kparity import ops
from kparity.check.core import check_case
from kparity.device.adapter import Backend, launched
from kparity.device.registry import open_backend
from kparity.mutate import library
from kparity.mutate.patch import apply_numpy
from kparity.ops.spec import Array, Case, Op
from tools import between

PAGE = Path(__file__).resolve().parent.parent / "docs/comparison.md"
Criterion = Callable[[Array, Array], bool]
"""Whether it refuses a candidate (the first), held against a reference."""
TINY = float(np.finfo(np.float32).tiny)


def pointwise(limit: float) -> Criterion:
    """benchdnn, point to point: |difference| ÷ |reference|, of references up to 1e-5 the difference itself; NaNs and
    infinities that agree pass.
    """

    def refused(got: Array, want: Array) -> bool:
        a, b = got.astype(np.float32), want.astype(np.float32)
        with np.errstate(all="ignore"):
            difference = np.abs(b - a)
            relative = difference / np.where(np.abs(b) > TINY, np.abs(b), 1)
            right = np.where(np.abs(b) > 1e-5, relative, difference) <= limit
        alike = (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & (a == b))
        return not (right | alike).all()

    return refused


def norm(limit: float) -> Criterion:
    """benchdnn's mode of norms: ‖difference‖₂ ÷ ‖reference‖₂."""

    def refused(got: Array, want: Array) -> bool:
        a, b = got.astype(np.float64), want.astype(np.float64)
        size = np.linalg.norm(b)
        with np.errstate(all="ignore"):
            return not np.linalg.norm(a - b) / (size if size else 1) <= limit

    return refused


def nmse(limit: float) -> Criterion:
    """test-backend-ops: Σ(a − b)² ÷ Σa² above a limit, which 0/0 is not; and NaNs and infinities that do not agree."""

    def refused(got: Array, want: Array) -> bool:
        a, b = got.astype(np.float64), want.astype(np.float64)
        if np.isnan(a).any() or np.isnan(b).any():
            return True
        infinite = np.isinf(a) | np.isinf(b)
        if (infinite & (a != b)).any():
            return True
        a, b = np.where(infinite, 0, a), np.where(infinite, 0, b)
        with np.errstate(all="ignore"):
            return bool(np.square(a - b).sum() / np.square(b).sum() > limit)

    return refused


def elementwise(absolute: float = 1e-5, relative: float = 1e-5) -> Criterion:
    """Polygraphy's ``simple`` with its defaults: an element is wrong beyond both tolerances."""

    def refused(got: Array, want: Array) -> bool:
        a, b = got.astype(np.float64), want.astype(np.float64)
        with np.errstate(all="ignore"):
            difference = np.abs(a - b)
            share = difference / np.abs(np.where(b == 0, np.finfo(np.float64).eps, b))
            return bool((~(difference <= absolute) & ~(share <= relative)).any())

    return refused


def accuracy(got: Array, want: Array) -> bool:
    """msProbe's "Accuracy Reached or Not": cosine < 0.99 with an error > 0.001, cosine < 0.9, or an error > 1."""
    a, b = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    with np.errstate(all="ignore"):
        cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        error = float(np.abs(a - b).max())
    return (cosine < 0.99 and error > 0.001) or cosine < 0.9 or error > 1


def diffy(raw: int, noise: int, total: int, relative: float = 20.0, absolute: float = 0.03) -> bool:
    """Diffy's filter of a field: that primary and candidate differ more often than primary and secondary do, by more
    than ``relative`` percent of both counts together and ``absolute`` percent of all requests.
    """
    apart = abs(raw - noise)
    return raw > noise and apart / (raw + noise) * 100 > relative and apart / total * 100 > absolute


CRITERIA: dict[str, Criterion] = {
    "benchdnn, point to point, 0": pointwise(0.0),
    "benchdnn, point to point, 5e-7": pointwise(5e-7),
    "benchdnn, norm, 5e-7": norm(5e-7),
    "test-backend-ops, NMSE 1e-7": nmse(1e-7),
    "test-backend-ops, NMSE 5e-4": nmse(5e-4),
    "Polygraphy, 1e-5 and 1e-5": elementwise(),
    "msProbe, cosine and largest error": accuracy,
}
"""With the limits that their projects have for products (0, 5e-4), norms (5e-7) and most ops (1e-7)."""
KPARITY = "kparity check"


@dataclass(frozen=True)
class Run:
    """A case with one kind of input, and what right kernels make of it."""

    case: Case
    inputs: list[Array]
    right: list[Array]
    alarms: frozenset[str]
    """Criteria that refuse the cpu backend."""


@dataclass(frozen=True)
class Found:
    """Of an op."""

    runs: int
    alarms: Counter[str]
    """Criterion → right runs that it refuses."""
    seen: dict[str, set[str]]
    """Mutant → criteria that see it."""


def outputs(backend: Backend, op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    """Of one launch."""
    with np.errstate(all="ignore"):
        return launched(backend, backend.build(op, case), inputs)


def refusing(got: list[Array], want: list[Array], names: Iterable[str]) -> frozenset[str]:
    """Those of the named criteria that refuse one of a launch's outputs."""
    return frozenset(name for name in names if any(map(CRITERIA[name], got, want)))


def runs(op: Op) -> Iterator[Run]:
    """The short list of cases with each kind of input."""
    with closing(open_backend("numpy")) as numpy, closing(open_backend("cpu")) as cpu:
        for case in op.cases():
            for kind in op.kinds(case):
                inputs = op.inputs(case, np.random.default_rng([case.seed(), len(kind)]), kind)
                right = outputs(numpy, op, case, inputs)
                yield Run(case, inputs, right, refusing(outputs(cpu, op, case, inputs), right, CRITERIA))


def checked(backend: Backend, op: Op) -> int:
    """Runs that ``kparity check --quick`` refuses, the first of each case."""
    records = (each for case in op.cases() for each in check_case(backend, op, case, stop_at_first=True))
    return sum(each.outcome == "FAIL" for each in records)


def seeing(wrong: Backend, op: Op, every: list[Run]) -> set[str]:
    """The criteria that see a wrong kernel."""
    found = set[str]()
    for run in every:
        if asked := CRITERIA.keys() - found - run.alarms:
            found |= refusing(outputs(wrong, op, run.case, run.inputs), run.right, asked)
    return found | ({KPARITY} if checked(wrong, op) else set())


def of_op(name: str) -> Found:
    """All wrong kernels of an op that numpy has."""
    op, seen = ops.get(name), dict[str, set[str]]()
    every = list(runs(op))
    for mutant, each in library.of_op(name).items():
        if "numpy" in each.patches:
            with closing(open_backend("numpy")) as wrong:
                apply_numpy(wrong, each.sources(name, "numpy"))
                seen[mutant] = seeing(wrong, op, every)
    alarms = Counter(criterion for run in every for criterion in run.alarms)
    with closing(open_backend("cpu")) as cpu:
        alarms[KPARITY] = checked(cpu, op)
    return Found(len(every), alarms, seen)


def tables(names: Iterable[str]) -> str:
    """Both tables, as Markdown."""
    found = {name: of_op(name) for name in names}
    seen = {f"{name}/{mutant}": each for name, of in found.items() for mutant, each in of.seen.items()}
    total, every = sum(each.runs for each in found.values()), (*CRITERIA, KPARITY)
    lines = [f"| criterion | wrong kernels seen, of {len(seen)} | right runs refused, of {total} |", "|---|---:|---:|"]
    for name in every:
        refused = sum(each.alarms[name] for each in found.values())
        lines.append(f"| {name} | {sum(name in each for each in seen.values())} | {refused} |")
    lines += ["", "| wrong kernel | not seen by |", "|---|---|"]
    for mutant, each in seen.items():
        if missed := [name for name in every if name not in each]:
            lines.append(f"| {mutant} | {'; '.join(missed)} |")
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", help="all without any")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/comparison.md")
    options = parser.parse_args()
    text = tables(options.ops or ops.NAMES)
    print(text)
    if options.docs:
        PAGE.write_text(between(PAGE.read_text("utf-8"), "criteria", text))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
