"""The JSON of a probe (``kparity/schemas/probe.schema.json``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kparity import __version__, contracts
from kparity.gates.verdict import Row
from kparity.model import load_model
from kparity.probe.runner import Request

SCHEMA = "kparity-probe-v1"


def document(
    rows: Sequence[Row], serving: str, request: Request, order: Sequence[str], exit_code: int
) -> dict[str, Any]:
    """Everything that a probe found, with thresholds, model and contract beside it. Numbers that are not finite
    become null.
    """
    contract = contracts.load(contracts.PROBE)
    model = load_model(request.model)
    found = {
        "schema": SCHEMA,
        "kparity": __version__,
        "contract": {"id": contract.id, "version": contract.version},
        "model": {"name": model.name, "sha256": model.sha256, "bytes": model.n_bytes, "arch": model.hparams.arch},
        "request": {
            "backends": list(order),
            "depth": request.depth,
            "positions": request.positions,
            "require_gpu": request.require_gpu,
            "act": request.act,
            "kv": request.kv,
            "index": request.index,
        },
        "serving": serving or None,
        "exit_code": exit_code,
        "rows": [row.as_dict() for row in rows],
    }
    model.close()
    cleaned: dict[str, Any] = _finite(found)
    return cleaned


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
