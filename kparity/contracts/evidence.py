"""The evidence of a contract's tests: written by ``kparity contract check``, read by the validator and the probe."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kparity.contracts import history
from kparity.contracts.files import ContractFile
from kparity.contracts.nodes import Outcome, Reference
from kparity.device import fingerprint
from kparity.errors import WrongInput

SCHEMA = "kparity-contract-evidence-v1"


def document(
    contract: ContractFile,
    root: Path,
    found: Sequence[tuple[Reference, Outcome]],
    command: Sequence[str],
    devices: Mapping[str, str],
) -> dict[str, Any]:
    """What was run, when, on what, and what came of it. ``devices`` has a line per backend that opens here."""
    return {
        "schema": SCHEMA,
        "contract": {"id": contract.id, "version": contract.version},
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": history.commit_of(root),
        "command": " ".join(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": dict(devices),
        "devices_sha256": fingerprint.host(),
        "results": [
            {"kind": reference.kind, "id": reference.id, "node": reference.node, **_rounded(outcome)}
            for reference, outcome in found
        ],
    }


def _rounded(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "seconds": round(outcome.seconds, 3)}


def write(path: Path, evidence: Mapping[str, Any]) -> None:
    """Replace the evidence file in one step; raises WrongInput where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(evidence, file, indent=1, ensure_ascii=False)
            file.write("\n")
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise WrongInput(
            f"the evidence {path} cannot be written: {error.strerror}; name a file with --evidence"
        ) from error


def read(path: Path) -> dict[str, Any] | None:
    """The evidence, or None where there is none that can be read: a damaged file proves nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            return None
        for entry in found["results"]:
            str.join("", (entry["kind"], entry["id"], entry["node"], entry["outcome"]))
        str.join("", (found["contract"]["id"], found["contract"]["version"], found["devices_sha256"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    evidence: dict[str, Any] = found
    return evidence


def outcome_of(evidence: Mapping[str, Any] | None, contract_id: str, kind: str, entry_id: str, node: str) -> str:
    """``passed``, another outcome, or ``none``: what the evidence says of one entry, for the test that it names now."""
    if evidence is None or evidence["contract"]["id"] != contract_id:
        return "none"
    for entry in evidence["results"]:
        if (entry["kind"], entry["id"], entry["node"]) == (kind, entry_id, node):
            return str(entry["outcome"])
    return "none"
