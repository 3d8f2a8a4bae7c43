"""What one check of one case leaves behind: every measured number beside the threshold that judged it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import msgspec
from msgspec import Meta

PASS, FAIL, UNSUPPORTED, SKIPPED = "PASS", "FAIL", "UNSUPPORTED", "SKIPPED"
OUTCOMES = (PASS, FAIL, UNSUPPORTED, SKIPPED)


Number = Annotated[float, Meta(extra_json_schema={"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]})]
"""In JSON the name of one that is not finite (``NAMES``)."""
Count = Annotated[int, Meta(ge=0)]


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
    threshold: str
    """Id of the threshold in the contract that decides ``wrong``: ``exact_differences`` or ``utilisation``."""
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
    counts: Mapping[str, int] = field(default_factory=dict)
    """``launch_excess``, ``input_changes``, ``guard_changes``, ``repeat_differences``, as measured."""
    outputs: tuple[OutputRecord, ...] = ()
    runs: int = 1
    """Kinds of input that the record stands for: 1, or as many as were not run for the same reason."""
    elapsed_ms: float = 0.0
    """Both runs with their transfers; not a benchmark."""
    bytes: int = 0
    """What one launch moves at least (the op's ``Work``)."""
    flops: int = 0

    @property
    def utilisation(self) -> float:
        """The largest over the outputs; NaN where nothing was measured."""
        return max((output.utilisation for output in self.outputs), default=math.nan)

    @property
    def label(self) -> str:
        """Case and kind, as ``-k`` sees them."""
        return f"{self.case} {self.kind}".rstrip()

    @property
    def rerun(self) -> str:
        """The command that makes this record again."""
        kind = ["--kind", self.kind] if self.kind else []
        return shlex.join(
            ["kparity", "check", "-o", self.op, "-b", self.backend, "-k", self.case, *kind, "--seed", str(self.seed)]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite becomes its name (``nan``, ``inf``, ``-inf``)."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        found["outputs"] = [
            {each.name: _plain(getattr(output, each.name)) for each in fields(output)} for output in self.outputs
        ]
        return {name: _plain(value) for name, value in found.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """The inverse of ``as_dict``; raises ValueError for what is no record."""
        try:
            outputs = [{name: _number(name, value) for name, value in each.items()} for each in values["outputs"]]
            return msgspec.convert({**values, "outputs": outputs}, cls)
        except (AttributeError, KeyError, TypeError) as problem:
            raise ValueError(f"no record: {problem!r}") from problem


NAMES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in NAMES.items() if repr(value) == repr(number))
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _number(name: str, value: Any) -> Any:
    if name in ("name", "dtype", "rung", "derivation", "threshold"):
        return value
    return NAMES.get(value, value) if isinstance(value, str) else value
