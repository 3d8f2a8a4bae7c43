"""The receipt of a probe: what was judged right on which device, without any speed; and the parts that a benchmark's
receipt shares with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kparity.device.adapter import Device
from kparity.gates.reference import SEED
from kparity.gates.verdict import Row
from kparity.model import load_model
from kparity.model.graph import EMBEDDING, HEAD
from kparity.probe import messages
from kparity.receipts import statement
from kparity.receipts.kernel_ids import sha256_of
from kparity.receipts.record import Canary, Gate, Kernel, Model, Parity, Programs, Proof, Request, Run, Tried

NOT_CHECKED = "parity was not checked"


def receipt(
    rows: Sequence[Row], request: messages.Request, order: Sequence[str], serving: str, command: Sequence[str],
    begun: str, served: Mapping[str, Canary] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A receipt of kind ``probe``: a run for every backend that opened, and what became of the others.

    ``order`` are the requested backends, ``serving`` the one that serves (empty: none), ``command`` the command line,
    ``begun`` the time (``statement.now``), ``served`` what was seen of a backend while it served.
    """
    told = (
        "depth", "positions", "require_gpu", "trust_claims", "act", "kv", "index", "context", "repeat", "soak",
    )  # fmt: skip
    options = {name: getattr(request, name) for name in told}
    whole = statement.predicate(
        "probe", begun, Request(command=list(command), backends=list(order), options=options),
        of_model(request.model), [tried(row) for row in rows], serving=serving or None, seeds={"tokens": SEED},
        nonce=request.nonce,
        runs=[_run(row, row.device, (served or {}).get(row.backend)) for row in rows if row.device is not None],
    )  # fmt: skip
    return statement.statement(whole)


def of_model(path: str | None, seed: int | None = None) -> Model:
    """A model as receipts hold it; ``path`` None is the embedded one, ``seed`` is that of random weights."""
    model = load_model(path)
    h, types = model.hparams, {name: tensor.type.name for name, tensor in model.file.tensors.items()}
    mixed = ["blk.{}.{}".format(*each) for each in model.mixed]
    found = Model(
        name=model.name, sha256=model.sha256, bytes=model.n_bytes, layers=h.n_layer, width=h.width, ffn=h.ffn,
        heads=h.n_head, kv_heads=h.n_kv, head_dim=h.head_dim, vocab=h.vocab, context=h.context, arch=h.arch,
        type=", ".join(model.ternary_types), embedding=types[EMBEDDING], head=types.get(HEAD), seed=seed,
        mixed={name: types[f"{name}.weight"] for name in mixed},
    )  # fmt: skip
    model.close()
    return found


def tried(row: Row) -> Tried:
    """What became of a backend."""
    return Tried(backend=row.backend, status=row.status, code=row.code or None, reason=row.reason or None)


def parity_of(row: Row | None) -> Parity:
    """The verdict of a row with every measured number beside its limit; a number that is not finite is None. Without a
    row nothing was checked.
    """
    if row is None:
        return Parity(verdict="INVALID-CORRECTNESS", gates=[], reason=f"{NOT_CHECKED} (--no-parity)")
    gates = [
        Gate(
            gate=gate.name, name=each.threshold, value=each.value if math.isfinite(each.value) else None,
            limit=each.limit, passed=each.holds,
        )
        for gate in row.gates for each in gate.measures
    ]  # fmt: skip
    reason = f"{row.code}: {row.reason}" if row.code else None
    return Parity(verdict="PASS" if row.accepted else "FAIL", gates=gates, reason=reason, proved=row.proved)


def run_of(
    backend: str, device: Mapping[str, Any], row: Row | None, dispatches: Mapping[str, int], device_clock: bool,
    engine: dict[str, Any], kernels: Sequence[Mapping[str, Any]] = (), **measured: Any,
) -> Run:  # fmt: skip
    """The run of a backend that was opened. ``row`` is the probe's, ``kernels`` what a benchmark knows of each: its id,
    device_ns and launches; ``measured`` are the other fields.
    """
    known = kernels or [{"id": name, "device_ns": None, "launches": None} for name in dispatches]
    return Run(
        backend=backend, device=Device(**device), parity=parity_of(row), engine=engine,
        proof=Proof(device_clock=device_clock, dispatches_counted=bool(dispatches),
                    device=row.gpu_proof if row else "", evidence=row.evidence if row else []),
        kernels=[
            Kernel(
                id=each["id"], sha256=sha256_of(each["id"], backend), dispatches=dispatches.get(each["id"], 0),
                device_ns=each["device_ns"], launches=each["launches"] and Programs(**each["launches"]),
            )
            for each in known
        ],
        **measured,
    )  # fmt: skip


def _run(row: Row, device: Mapping[str, Any], canary: Canary | None) -> Run:
    # A step on the wall's clock, as CPU backends have it, proves nothing of a device.
    step_ns = round(row.device_step_ms * 1e6) if device["kind"] != "cpu" and row.device_step_ms else None
    engine = {"reference": row.reference, "cached": row.cached}
    return run_of(
        row.backend, device, row, row.dispatches, step_ns is not None, engine, step_ns=step_ns, logits=row.logits,
        canary=canary,
    )  # fmt: skip
