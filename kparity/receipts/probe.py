"""The receipt of a probe: what was judged right on which device, without any speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kparity import contracts
from kparity.device.adapter import DeviceInfo
from kparity.gates.verdict import Gate, Row
from kparity.model import Model, load_model
from kparity.probe.runner import Request
from kparity.receipts.kernel_ids import sha256_of
from kparity.receipts.replays import REPLAYS
from kparity.receipts.statement import build


def statement(
    rows: Sequence[Row],
    request: Request,
    order: Sequence[str],
    serving: str,
    command: Sequence[str],
    begun: str,
    revision: dict[str, Any],
) -> dict[str, Any]:
    """A receipt of kind ``probe``: a run for every backend that opened, and what became of the others.

    ``order`` are the requested backends, ``serving`` the one that serves (empty: none), ``command`` the command line,
    ``begun`` the time (``statement.now``), ``revision`` the commit of the harness.
    """
    contract = contracts.load(contracts.PROBE)
    model = load_model(request.model)
    predicate: dict[str, Any] = {
        "kind": "probe",
        "begun": begun,
        "harness": revision,
        "request": {"command": list(command), "backends": list(order), "options": _options(request)},
        "model": of_model(model),
        "contract": {"id": contract.id, "version": contract.version},
        "serving": serving or None,
        "fallback": [
            {"backend": row.backend, "status": row.status, "code": row.code or None, "reason": row.reason or None}
            for row in rows
        ],
        "runs": [_run(row) for row in rows if row.device is not None],
    }
    model.close()
    return build(predicate)


def of_model(model: Model, seed: int | None = None) -> dict[str, Any]:
    """A model as receipts hold it, sizes in elements; ``seed`` is that of random weights."""
    h = model.hparams
    return {
        "name": model.path.name, "sha256": model.sha256, "bytes": model.n_bytes, "layers": h.n_layer, "width": h.width,
        "ffn": h.ffn, "heads": h.n_head, "kv_heads": h.n_kv, "head_dim": h.head_dim, "vocab": h.vocab,
        "context": h.context, "type": ", ".join(model.ternary_types) or None, "seed": seed,
    }  # fmt: skip


def parity_of(row: Row) -> dict[str, Any]:
    """The verdict of a row with every measured number beside its limit; a number that is not finite is null."""
    return {
        "verdict": "PASS" if row.accepted else "FAIL",
        "gates": [entry for gate in row.gates for entry in _measures(gate)],
        "reason": f"{row.code}: {row.reason}" if row.code else None,
    }


def _measures(gate: Gate) -> list[dict[str, Any]]:
    return [
        {
            "gate": gate.name, "name": each.threshold, "value": each.value if math.isfinite(each.value) else None,
            "limit": each.limit, "passed": each.holds,
        }
        for each in gate.measures
    ]  # fmt: skip


def _options(request: Request) -> dict[str, Any]:
    return {
        "depth": request.depth, "positions": request.positions, "require_gpu": request.require_gpu,
        "act": request.act, "kv": request.kv, "index": request.index,
    }  # fmt: skip


def _run(row: Row) -> dict[str, Any]:
    device = dict(row.device or {})
    # A step on the wall's clock, as CPU backends have it, proves nothing of a device.
    clocked = device.get("kind") != "cpu" and bool(row.device_step_ms)
    return {
        "backend": row.backend,
        "device": DeviceInfo(**device).as_dict(),
        "proof": {"device_clock": clocked, "dispatches_counted": bool(row.dispatches)},
        "parity": parity_of(row),
        "timed_output": None, "determinism": None,
        "engine": {"reference": row.reference, "cached": row.cached},
        "kernels": [
            {
                "id": name, "sha256": sha256_of(name, row.backend), "dispatches": count, "device_ns": None,
                **dict.fromkeys(REPLAYS.values()),
            }
            for name, count in row.dispatches.items()
        ],
        "graph": None, "bandwidth": None, "measurements": [], "skipped": [], "errors": [],
        "step_ns": round(row.device_step_ms * 1e6) if clocked and row.device_step_ms else None,
        "clocks": None,
    }  # fmt: skip
