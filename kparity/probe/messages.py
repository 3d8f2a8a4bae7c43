"""What the processes of a probe are asked and say: the one that computes the reference, and the candidates'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from kparity.contracts.known import Issue
from kparity.device.adapter import DeviceInfo
from kparity.gates.challenge import POSITIONS, Sampled
from kparity.process.messages import Done, Duration, Failed, Message, Name, Stage, Text, Tick

DEFAULT_POSITIONS = 72
"""Beyond the 64 keys of one attention tile, so that its boundary is probed too."""


@dataclass(frozen=True)
class Request:
    """What to probe, and how deep."""

    model: str | None = None
    depth: str = "full"
    positions: int = DEFAULT_POSITIONS
    timeout: float = 0.0
    """Seconds that a probe may take in all, without what it waits for others; 0: as long as it says something."""
    require_gpu: bool = False
    act: str = "token"
    kv: str = "f16"
    index: int = 0
    issues: tuple[Issue, ...] = ()
    """Known issues that refuse on this host."""
    trust_claims: bool = False
    """Whether ``require_gpu`` takes a backend's word where no driver counts what its process does."""
    nonce: str = ""
    """Somebody's word from which the tokens are drawn; empty: the model's own text."""
    context: int = 0
    """Positions that are to be served; 0: the model's, at most 4096."""
    repeat: int = 1
    """Rounds in which everything is run again, bit for bit, at least."""
    soak: float = 0.0
    """Seconds of the gate ``soak``, at that depth."""


class Work(msgspec.Struct, frozen=True):
    """What one process of a probe does: measure a backend or, where none is named, compute the reference."""

    request: Request
    folder: str
    """Shared by the processes of one probe: locks of devices lie here."""
    descriptor: int
    """The file of the reference, which a candidate cannot write."""
    debug: bool
    backend: str = ""


class Judge(msgspec.Struct, frozen=True):
    """The device may be measured: the reference is in its file."""


class Seen(msgspec.Struct, frozen=True):
    """The parent has looked at the process while its device was open: it may be closed."""


class Opened(Message, frozen=True, tag="device"):
    """The device is open."""

    info: DeviceInfo


class Loaded(Message, frozen=True, tag="loaded"):
    """Path -> state of every module and library that the process has loaded so far: they date a verdict."""

    files: Annotated[dict[Text, Name], msgspec.Meta(max_length=20_000)]


class Measured(Message, frozen=True, tag="gate"):
    """What a gate measured; null is a number that is not finite. ``code`` and ``reason`` are the candidate's own."""

    gate: Name
    values: Annotated[dict[Name, float | None], msgspec.Meta(max_length=32)]
    code: Name = ""
    reason: Text = ""
    elapsed_ms: Duration = 0.0


class Proof(Message, frozen=True, tag="proof"):
    """What the backend counted, a step on the device's clock, and logits at drawn positions."""

    dispatches: Annotated[dict[Name, Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=10_000)]
    device_step_ms: Duration
    logits: Annotated[list[Sampled], msgspec.Meta(max_length=POSITIONS)]


Said = Stage | Tick | Opened | Loaded | Measured | Proof | Failed | Done
"""What a candidate says; the process of the reference has its file, and neither a device nor measures."""
