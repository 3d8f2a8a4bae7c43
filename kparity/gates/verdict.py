"""What a probe says: measures against thresholds, gates made of measures, a row per backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from kparity.contracts import Contract
from kparity.gates.challenge import Sampled

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "MISTRUSTED"]
"""INCONCLUSIVE: it did not run. MISTRUSTED: it could not have failed."""
Status = Literal["accepted", "rejected", "mistrusted", "unavailable"]
GpuProof = Literal["", "verified", "not verified", "refuted"]


@dataclass(frozen=True)
class Measure:
    """One number beside the limit of the contract that judges it."""

    threshold: str
    value: Annotated[float, Meta(extra_json_schema={"anyOf": [{"type": "number"}, {"type": "null"}]})]
    """Null in JSON where it is not finite."""
    limit: float
    sign: str
    holds: bool

    @classmethod
    def of(cls, contract: Contract, threshold: str, value: float) -> Measure:
        """Judge ``value`` by a threshold of the contract; a value that is not finite fails."""
        limit = contract.threshold(threshold)
        return cls(threshold, float(value), limit.value, limit.sign, limit.holds(float(value)))

    def text(self) -> str:
        """For example ``0.722249 ≥ 0.99``; what fails says so by itself."""
        shown = f"{self.value:.6g}" if self.value != 0 else "0"
        return f"{shown} {self.sign} {self.limit:g}"


@dataclass
class Gate:
    """The verdict of one gate: its measures, and for a failure a stable code and a reason."""

    name: str
    verdict: Verdict
    measures: list[Measure] = field(default_factory=list)
    code: str = ""
    reason: str = ""
    note: str = ""
    elapsed_ms: float = 0.0


@dataclass
class Row:
    """What became of one backend."""

    backend: str
    status: Status
    code: str = ""
    reason: str = ""
    device: dict[str, Any] | None = None
    label: str = ""
    reference: str = ""
    gates: list[Gate] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)
    dispatches: dict[str, int] = field(default_factory=dict)
    device_step_ms: float | None = None
    logits: list[Sampled] = field(default_factory=list)
    """At positions that were drawn: by them the output can be computed again elsewhere."""
    depth: str = "full"
    positions: int = 0
    proved: int | None = None
    """The last position up to which it was proved; None for what is not accepted."""
    gpu_proof: GpuProof = ""
    """What the driver's counters say to its claim of a GPU; empty where it makes none."""
    evidence: list[str] = field(default_factory=list)
    """What that rests on."""
    elapsed_ms: float = 0.0
    cached: bool = False

    @property
    def accepted(self) -> bool:
        """Whether this backend may serve."""
        return self.status == "accepted"

    @property
    def alarming(self) -> bool:
        """Whether somebody must look: a wrong answer, or gates that could not have failed."""
        return self.ran_and_failed or self.status == "mistrusted"

    @property
    def shallow(self) -> bool:
        """Whether it was accepted by too few gates to prove anything."""
        return self.accepted and any(gate.verdict == "INCONCLUSIVE" for gate in self.gates)

    @property
    def flaw(self) -> str:
        """Why it cannot stand: an acceptance that proves nothing, or a rejection without a reason; else empty."""
        if self.accepted and (self.code or len(self.gates) < 2 or not self.dispatches or self.device is None):
            return f"{self.backend} is accepted without gates, dispatches or a device"
        if not self.accepted and not (self.code and self.reason):
            return f"{self.backend} is {self.status} without code and reason"
        return ""

    @property
    def ran_and_failed(self) -> bool:
        """Whether the backend opened and then gave a wrong answer, none at all, or none in time."""
        return self.status == "rejected" and self.code not in ("KP-NOT-GPU", "KP-NOT-VERIFIED")
