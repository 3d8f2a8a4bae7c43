"""The evidence of a contract's tests: written by ``kparity contract check``, read by the validator and the probe."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from kparity.contracts import Contract, history
from kparity.contracts.nodes import Reference, Result
from kparity.device import fingerprint
from kparity.errors import WrongInput
from kparity.host import files

SCHEMA: Literal["kparity-contract-evidence-v1"] = "kparity-contract-evidence-v1"


class Of(Struct):
    """Which contract was checked."""

    id: str
    version: str


class Evidence(Struct):
    """What was run, when, on what, and what came of it. ``devices`` has a line per backend that opens here."""

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


def of(
    contract: Contract, root: Path, results: Sequence[Result], command: Sequence[str], devices: Mapping[str, str]
) -> Evidence:
    """The evidence of results of now and here."""
    return Evidence(
        SCHEMA, Of(contract.id, contract.version), datetime.now(timezone.utc).isoformat(timespec="seconds"),
        history.commit_of(root), " ".join(command), platform.python_version(), platform.platform(), dict(devices),
        fingerprint.host(), list(results),
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
        return msgspec.json.decode(path.read_bytes(), type=Evidence)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def outcome_of(evidence: Evidence | None, contract_id: str, reference: Reference) -> str:
    """``passed``, another outcome, or ``none``: what the evidence says of one entry, for the test that it names now."""
    if evidence is None or evidence.contract.id != contract_id:
        return "none"
    wanted = (reference.kind, reference.id, reference.node)
    return next((each.outcome for each in evidence.results if (each.kind, each.id, each.node) == wanted), "none")
