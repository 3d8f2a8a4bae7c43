"""What a receipt shows of a device, in a form that a hundred thousand of them fit: digests, errors, a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from kparity import contracts
from kparity.check.document import Document
from kparity.check.record import FAIL, Record
from kparity.errors import UnknownName
from kparity.fleet.record import Seen
from kparity.receipts.document import canonical
from kparity.receipts.record import Predicate, Run

ASIDE = ("require_gpu", "trust_claims", "index", "repeat", "soak")
"""Options that change nothing of what is computed."""


def digest(content: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(canonical(content)).hexdigest()[:16]


def of_receipt(predicate: Predicate) -> list[Seen]:
    """A row for each backend that was opened."""
    asked = {name: value for name, value in predicate.request.options.items() if name not in ASIDE}
    shared = [
        predicate.kind, predicate.harness.kernels_sha256, predicate.model and predicate.model.sha256, predicate.nonce,
        predicate.seeds, asked, predicate.contract.version,
    ]  # fmt: skip
    codes = {each.backend: each.code or "" for each in predicate.fallback}
    return [_of_run(run, shared, codes.get(run.backend, "")) for run in predicate.runs]


def _of_run(run: Run, shared: list[Any], code: str) -> Seen:
    device = run.device
    computed = [[each.position, each.token, each.sha256] for each in run.logits]
    timed = next((row.unit_s for row in run.measurements if row.unit_s), None)
    return Seen(
        backend=run.backend, model=device.device, kind=device.kind, driver=device.driver or device.library,
        verdict=run.parity.verdict, code=code, uuid=device.uuid,
        group=digest([run.backend, device.device, device.driver, device.library, device.detail, *shared]),
        bits=digest(computed) if computed else "",
        errors=dict(_errors((each.name, each.value) for each in run.parity.gates)),
        unit_ns=run.step_ns or (timed and timed * 1e9),
    )  # fmt: skip


def _errors(measured: Iterable[tuple[str, float | None]]) -> Iterable[tuple[str, float]]:
    """Measured numbers as distances from what is right: 1 is right where the contract asks for a share, 0 elsewhere."""
    judge = contracts.load(contracts.PROBE)
    for name, value in measured:
        try:
            shares = judge.threshold(name).rule in ("at least", "above")
        except UnknownName:  # of another version of the contract
            continue
        if value is not None and math.isfinite(value):
            yield name, 1 - value if shares else value


def of_check(document: Document) -> list[Seen]:
    """A row for each backend that ran an op; its bits are those of every error that was measured."""
    by_backend: dict[str, list[Record]] = {}
    for record in document.records:
        if record.device:
            by_backend.setdefault(record.backend, []).append(record)
    shared = [document.kernels_sha256, document.seed, document.contract.version]
    return [_of_records(name, records, shared) for name, records in by_backend.items()]


def _of_records(backend: str, records: list[Record], shared: list[Any]) -> Seen:
    first, errors, computed = records[0], dict[str, float](), list[Any]()
    failed = next((each for each in records if each.outcome == FAIL), None)
    for each in records:
        for output in each.outputs:
            computed.append([each.case, each.kind, output.name, *map(repr, (output.got, output.rmse, output.max_abs))])
            if math.isfinite(output.utilisation):
                errors[each.op] = max(errors.get(each.op, 0.0), output.utilisation)
    inputs = [[each.case, each.kind, each.inputs_sha256] for each in records]
    return Seen(
        backend=backend, model=first.device, kind=first.device_kind, driver="", verdict="FAIL" if failed else "PASS",
        code=failed.reason[:80] if failed else "", group=digest([backend, first.device, inputs, *shared]),
        bits=digest(computed), errors=errors,
    )  # fmt: skip


def on_gpu(seen: Iterable[Seen]) -> bool:
    """Whether a GPU is among what was right."""
    return any(each.kind == "gpu" and each.verdict == "PASS" for each in seen)


def devices(seen: Iterable[Seen]) -> Mapping[str, str]:
    """Backend → the UUID that its driver gave; of backends that have one."""
    return {each.backend: each.uuid for each in seen if each.uuid}
