"""Verdicts that were measured before, for exactly the same backend, device, driver, kernels, model and contract."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kparity import contracts, fingerprint
from kparity.model import load_model
from kparity.probe.runner import Request
from kparity.probe.verdict import Row, concluded
from kparity.registry import targets
from kparity.spec import Array

FLEETING = ("KP-PROBE-HANG", "KP-PROBE-OOM")
"""Codes that say more about the moment than about the backend: never remembered."""


def folder() -> Path:
    """Where verdicts are kept: ``$XDG_CACHE_HOME/kparity`` or ``~/.cache/kparity``."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "kparity" / "verdicts"


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Keys:
    """The parts of a key that every backend of one call shares, taken once."""

    def __init__(self, request: Request) -> None:
        model = load_model(request.model)
        contract = contracts.load(contracts.PROBE)
        self.request = request
        self.shared = {
            "host": fingerprint.host(),
            "kernels": fingerprint.kernels(),
            "model": model.sha256,
            "contract": [contract.id, contract.version, _digest(contract.document)],
            "request": [request.depth, request.positions, request.require_gpu, request.act, request.kv, request.index],
            "issues": [issue.as_dict() for issue in request.issues],
        }
        model.close()

    def of(self, backend: str) -> dict[str, Any]:
        """Everything that a backend's verdict depends on."""
        target = targets().get(backend, "")
        return {**self.shared, "backend": backend, "adapter": fingerprint.adapter(target) if target else ""}

    def path(self, backend: str) -> Path:
        """The entry of a backend; another name for any other key."""
        return folder() / f"{backend}-{_digest(self.of(backend))[:32]}.json"


def get(keys: Keys, backend: str) -> tuple[Row, Array | None] | None:
    """A remembered row with the reference's BOS logits, or None; a damaged entry is a miss."""
    path = keys.path(backend)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["key"] != keys.of(backend):
            return None
        row = Row.from_dict(document["row"])
        if row.accepted and not concluded(row.gates):  # an acceptance that shows no gate is worth nothing
            return None
        bos = np.asarray(document["bos"], np.float32)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    row.cached = True
    return row, bos


def put(keys: Keys, row: Row, bos: Array | None) -> None:
    """Remember a row, atomically; a cache that cannot be written is no error."""
    if row.code in FLEETING:
        return
    path = keys.path(row.backend)
    document = {"key": keys.of(row.backend), "row": row.as_dict(), "bos": [] if bos is None else bos.tolist()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(document, file)
        Path(file.name).replace(path)
    except OSError:
        return
