"""The evidence of a contract's tests: written by ``kparity contract check``, read by the validator and the probe."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from kparity.contracts import Contract, code, history
from kparity.contracts.nodes import Reference, Result
from kparity.device import fingerprint
from kparity.errors import WrongInput
from kparity.host import files

SCHEMA: Literal["kparity-contract-evidence-v1"] = "kparity-contract-evidence-v1"
PASSED = ("passed", "stale", "unknown")
"""Outcomes of a test that passed when it ran."""
LARGEST = 4 << 20
"""Bytes of an evidence file; what is larger is something else."""


class Of(Struct):
    """Which contract was checked."""

    id: str
    version: str


class Evidence(Struct):
    """What was run, when, on what code and machine, and what came of it. ``code`` has a digest per part of it
    (``kparity.contracts.code``), ``devices`` a line per backend that opens here, ``kinds`` are those of the devices.
    """

    form: Literal["kparity-contract-evidence-v1"] = field(name="schema")
    contract: Of
    time: str
    commit: str
    command: str
    python: str
    platform: str
    devices: dict[str, str]
    devices_sha256: str
    results: list[Result]
    code: dict[str, str] = {}
    kinds: list[str] = []


def of(
    contract: Contract, root: Path, results: Sequence[Result], command: Sequence[str], devices: Mapping[str, str],
    kinds: Iterable[str], ran: Mapping[str, str],
) -> Evidence:  # fmt: skip
    """The evidence of results of now and here; ``ran`` is the code as it was before the tests began."""
    return Evidence(
        SCHEMA, Of(contract.id, contract.version), datetime.now(timezone.utc).isoformat(timespec="seconds"),
        history.commit_of(root), " ".join(command), platform.python_version(), platform.platform(), dict(devices),
        fingerprint.host(), list(results), dict(ran), sorted({*kinds}),
    )  # fmt: skip


def write(path: Path, evidence: Evidence) -> None:
    """Replace the evidence file in one step; raises WrongInput where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongInput(f"the folder of {path}: {error.strerror}; name a file with --evidence") from error
    files.write(path, msgspec.json.format(msgspec.json.encode(evidence), indent=1) + b"\n")


def read(path: Path) -> Evidence | None:
    """The evidence, or None where there is none that can be read: a damaged file proves nothing."""
    try:
        return msgspec.json.decode(files.read(path, "evidence", LARGEST), type=Evidence)
    except (WrongInput, msgspec.MsgspecError, RecursionError):
        return None


@dataclass(frozen=True)
class Shown:
    """What the evidence of a contract is worth now."""

    contract: Contract
    evidence: Evidence | None

    @cached_property
    def stale(self) -> str:
        """Why a pass in it says nothing of what is here: it is of another version or of other code; else empty."""
        if self.evidence is None:
            return ""
        if self.evidence.contract.version != self.contract.version:
            return f"of version {self.evidence.contract.version}"
        then, now = self.evidence.code, code.of(self.contract)
        parts = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        since = f" (commit {self.evidence.commit[:12]})" if self.evidence.commit else ""
        return f"of other code{since}: {', '.join(parts)}" if parts else ""

    def outcome(self, reference: Reference) -> str:
        """What became of one entry, for the test that it names now: ``passed``; ``stale`` for a pass that says nothing
        of what is here, ``unknown`` for one of which an installed package cannot tell; another outcome, or ``none``.
        """
        if self.evidence is None or self.evidence.contract.id != self.contract.id:
            return "none"
        wanted = (reference.kind, reference.id, reference.node)
        found = (each.outcome for each in self.evidence.results if (each.kind, each.id, each.node) == wanted)
        outcome = next(found, "none")
        if outcome == "passed" and self.contract.root() is None:
            return "unknown"
        return "stale" if outcome == "passed" and self.stale else outcome


def shown(contract: Contract) -> Shown:
    """The evidence that lies beside a contract."""
    return Shown(contract, read(contract.evidence))
