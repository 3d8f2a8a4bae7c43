"""What a check leaves behind: every measured number beside the threshold that judged it, and the denominators."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

PASS, FAIL, UNSUPPORTED, SKIPPED = "PASS", "FAIL", "UNSUPPORTED", "SKIPPED"
OUTCOMES = (PASS, FAIL, UNSUPPORTED, SKIPPED)

Number = Annotated[float, Meta(extra_json_schema={"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]})]
"""In JSON the name of one that is not finite (``plain``)."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Counted = Literal["launch_excess", "input_changes", "guard_changes", "repeat_differences"]
Limited = Literal["exact_differences", "utilisation"]
"""Thresholds of the contract that decide an output."""


@dataclass(frozen=True)
class OutputRecord:
    """One output of one case against fp64 truth. A ratio or a share that does not apply to the output is None."""

    name: str
    dtype: str
    count: int
    """Elements."""
    rung: str
    """``exact`` (bit equality) or ``bound`` (a limit per element)."""
    wrong: Count
    """Elements outside their limit."""
    worst_index: tuple[int, ...]
    """Where error ÷ limit is largest."""
    got: Number
    want: Number
    error: Number
    """|got − want| at the worst index."""
    limit: Number
    """The limit there."""
    utilisation: Number
    """The largest error ÷ limit."""
    derivation: str
    """How the limit follows from n, u and |A||x|."""
    threshold: Limited
    """Of the contract, that decides ``wrong``."""
    rmse: Number
    """Root of the mean square of the error, over elements whose truth is finite."""
    peer_rmse: Number | None
    """The same of the f32 reference, or the floor below which a rounding of the output lies, whichever is larger."""
    peer_ratio: Number | None
    """rmse ÷ peer_rmse."""
    ulp_share: Number | None
    """f16 outputs: share of elements more than 1 ULP from truth."""
    mean_error: Number
    """Signed: truncation shows here, rounding to nearest does not."""
    nmse: Number
    cosine: Number
    max_ulp: Number
    max_abs: Number
    max_rel: Number
    nan_count: Count
    inf_count: Count


@dataclass(frozen=True)
class Record:
    """One kind of input of one case on one backend, or one case that was not run."""

    op: str
    case: str
    """The case's id."""
    params: Mapping[str, Any]
    kind: str
    """Kind of input; empty where the case was not run at all."""
    backend: str
    device: str
    """The device's label."""
    device_kind: str
    """``gpu``, ``cpu`` or ``software``; empty where no device was opened."""
    kernel: str
    """The kernel's id; empty where none was built."""
    seed: int
    inputs_sha256: str
    outcome: str
    reason: str = ""
    """One sentence; empty for PASS."""
    failed: tuple[str, ...] = ()
    """Ids of the thresholds that were not met; empty where a failure has no number (a crash, a compiler's refusal)."""
    counts: Mapping[Counted, Count] = field(default_factory=dict)
    """As measured; each a threshold of the contract."""
    outputs: tuple[OutputRecord, ...] = ()
    runs: int = 1
    """Kinds of input that the record stands for: 1, or as many as were not run for the same reason."""
    elapsed_ms: float = 0.0
    """Both runs with their transfers; not a benchmark."""
    words: tuple[str, ...] = ()
    """What the command that makes it again has beside op, backend, case, kind and seed: ``--sanitize``, ``--cuda``."""
    bytes: int = 0
    """What one launch moves at least (the op's ``Work``)."""
    flops: int = 0

    @property
    def label(self) -> str:
        """Case and kind, as ``-k`` sees them."""
        return f"{self.case} {self.kind}".rstrip()

    @property
    def flaw(self) -> str:
        """Why it cannot stand: it proves less than it says; else empty."""
        if self.outcome != PASS:
            return "" if self.reason else f"{self.label}: {self.outcome} without a reason"
        measured = self.kind and self.device and self.kernel and self.inputs_sha256 and self.outputs
        whole = measured and not self.failed and len(self.counts) == len(get_args(Counted)) and self.runs == 1
        return "" if whole else f"{self.label}: PASS without everything that was measured"

    @property
    def rerun(self) -> str:
        """The command that makes this record again."""
        kind = ["--kind", self.kind] if self.kind else []
        what = ["-o", self.op, "-b", self.backend, "-k", self.case, *kind, "--seed", str(self.seed)]
        return shlex.join(["kparity", "check", *what, *self.words])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite becomes its name (``nan``, ``inf``, ``-inf``)."""
        values: dict[str, Any] = plain(msgspec.to_builtins(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """The inverse of ``as_dict``; raises ValueError for what is no record."""
        return msgspec.convert(values, cls, strict=False)  # which reads the names of numbers


def plain(value: Any) -> Any:
    """Plain values in which a number that is not finite is its name."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass
class Tally:
    """Counts of one op on one backend, or of a whole backend."""

    backend: str
    op: str = ""
    cases: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    """Outcome → kinds of input of cases. The four add up to all that was planned."""
    utilisation: float = 0.0
    """The largest; infinite where an error has no limit, NaN where nothing was measured."""
    peer_ratio: float = 0.0
    elapsed_ms: float = 0.0
    measured: int = 0
    """Outputs that were compared."""

    @property
    def total(self) -> int:
        """Runs that were planned."""
        return sum(self.runs.values())

    def add(self, record: Record) -> None:
        """Count one record."""
        self.cases.add(record.case)
        if record.kind:
            self.kinds.add(record.kind)
        self.runs[record.outcome] += record.runs
        self.elapsed_ms += record.elapsed_ms
        self.measured += len(record.outputs)
        for output in record.outputs:
            used = math.inf if math.isnan(output.utilisation) else output.utilisation
            self.utilisation = max(self.utilisation, used)
            self.peer_ratio = max(self.peer_ratio, output.peer_ratio or 0.0)


class Summary:
    """Tallies per backend and op and per backend, in the order in which the records came."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.by_op: dict[tuple[str, str], Tally] = {}
        self.by_backend: dict[str, Tally] = {}
        for each in records:
            self.by_op.setdefault((each.backend, each.op), Tally(each.backend, each.op)).add(each)
            self.by_backend.setdefault(each.backend, Tally(each.backend)).add(each)

    def count(self, outcome: str) -> int:
        """Runs with an outcome, over all backends."""
        return sum(tally.runs[outcome] for tally in self.by_backend.values())

    def exit_code(self, wanted: Sequence[str]) -> int:
        """1 where anything failed; else 3 where a run was skipped or one of the wanted backends passed nothing; else 0.

        UNSUPPORTED alone is no failure, but a backend that supports nothing of what was asked has shown nothing.
        """
        if self.count(FAIL):
            return 1
        passed = all(name in self.by_backend and self.by_backend[name].runs[PASS] for name in wanted)
        return 0 if wanted and passed and not self.count(SKIPPED) else 3
