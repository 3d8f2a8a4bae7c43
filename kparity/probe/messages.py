"""What the processes of a probe are asked and say: the one that computes the reference, and the candidates'."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kparity.device.adapter import DeviceInfo
from kparity.process.messages import Done, Failed, Message, Name, Stage, Text, Tick


class ReferenceRequest(msgspec.Struct, frozen=True):
    """Compute the reference and write it to the file ``descriptor``."""

    descriptor: int
    model: str | None
    positions: int
    act: str
    kv: str


class CandidateRequest(msgspec.Struct, frozen=True):
    """Measure a backend at a depth."""

    backend: str
    index: int
    model: str | None
    depth: str
    act: str
    kv: str
    folder: str
    """Shared by the candidates of one probe: locks of devices lie here."""
    debug: bool


class Judge(msgspec.Struct, frozen=True):
    """The device may be measured, and the reference is there: in the file ``descriptor``, which cannot be written."""

    descriptor: int


class Opened(Message, frozen=True, tag="device"):
    """The device is open."""

    info: DeviceInfo


class Measured(Message, frozen=True, tag="gate"):
    """What a gate measured; null is a number that is not finite. ``code`` and ``reason`` are the candidate's own."""

    gate: Name
    values: Annotated[dict[Name, float | None], msgspec.Meta(max_length=32)]
    code: Name = ""
    reason: Text = ""
    elapsed_ms: float = 0.0


class Proof(Message, frozen=True, tag="proof"):
    """What the backend counted, and a step on the device's clock."""

    dispatches: Annotated[dict[Name, Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=10_000)]
    device_step_ms: float


Said = Stage | Tick | Opened | Measured | Proof | Failed | Done
"""What a candidate says."""
Told = Stage | Tick | Failed | Done
"""What the process of the reference says: its result is the file."""
