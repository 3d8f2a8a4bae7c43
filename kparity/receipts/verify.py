"""Whether a receipt may be believed: every rule of receipt-v1 over one document, and over several together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kparity import contracts
from kparity.host import files
from kparity.model import digest
from kparity.receipts import sign
from kparity.receipts.cutover import is_cutover
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Predicate, Statement
from kparity.receipts.rules import (
    challenge,
    cutover,
    device,
    dispatches,
    graph,
    identity,
    names,
    ops,
    parity,
    ratios,
    request,
    samples,
    speed,
)


def verify(
    document: dict[str, Any],
    *,
    require_gpu_kernels: bool = False,
    trust_claims: bool = False,
    require_parity: bool = False,
    key: Path | None = None,
    model: Path | None = None,
    commit: str = "",
    nonce: str | None = None,
    max_age_days: float | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """Every reason to refuse a receipt, a bare statement or an envelope; an empty list where there is none.

    Beyond its own soundness it must show that a GPU served with kernels that its own clock saw, that no GPU API ran on
    anything else, and that drivers confirm it (``require_gpu_kernels``; with ``trust_claims`` they may also tell
    nothing, where the run was asked for so); that every run was judged right or rejected, and one was right
    (``require_parity``); be signed with the public ``key`` (PEM); be of the file ``model``, and of a ``commit`` (or how
    it begins) without changes; have drawn its work from ``nonce``; be no older. ``now`` is the time that nothing may
    lie after. Raises WrongInput for a key or a model file that cannot be read. A document that has not the form is
    judged no further.
    """
    statement, refused = sign.opened(document, key)
    if statement is None:
        return refused
    moment = now or datetime.now(timezone.utc)
    if is_cutover(statement):
        asked = {"RCPT-NO-GPU-KERNELS": require_gpu_kernels, "RCPT-MODEL": model is not None,
                 "RCPT-NONCE": nonce is not None}  # fmt: skip
        unheard = [code for code, there in asked.items() if there]
        return [*refused, *cutover.refused(statement, unheard, require_parity, commit, max_age_days, moment)]
    record, malformed = identity.form(statement)
    if record is None:
        return [*refused, *malformed]
    predicate = record.predicate
    refused += [*identity.fits_digest(statement), *_sound(record, moment)]
    if require_gpu_kernels:
        refused += [*device.gpu_required(predicate), *device.gpu_verified(predicate, trust_claims)]
    if require_parity:
        refused += parity.required(predicate)
    return [*refused, *_demanded(predicate, model, commit, nonce, max_age_days, moment)]


def _sound(statement: Statement, now: datetime) -> Findings:
    limits, predicate = contracts.load(contracts.RECEIPT), statement.predicate
    yield from identity.has_subjects(statement)
    yield from identity.times(predicate, limits, now)
    yield from identity.revision(predicate)
    yield from names.shown(statement)
    yield from request.command(predicate)
    yield from request.options(predicate)
    yield from speed.ran(predicate)
    yield from device.devices(predicate)
    yield from device.processor(predicate)
    yield from device.kernel_ids(predicate)
    yield from graph.graph(predicate, limits)
    yield from graph.texts(predicate)
    yield from device.fallback(predicate)
    yield from device.served(predicate)
    yield from parity.contract(predicate)
    yield from parity.gates(predicate)
    yield from parity.verdicts(predicate)
    yield from parity.outputs(predicate)
    yield from challenge.logits(predicate, limits)
    yield from dispatches.repeated(predicate, limits)
    yield from ops.cases(predicate, limits)
    yield from dispatches.counts(predicate)
    yield from dispatches.device_time(predicate, limits)
    yield from speed.figures(predicate, limits)
    yield from speed.floors(predicate, limits)
    yield from ratios.ratios(predicate, limits)
    yield from samples.irregularities(speed.arrays(predicate), limits)


def _demanded(
    predicate: Predicate, model: Path | None, commit: str, nonce: str | None, max_age_days: float | None, now: datetime
) -> Findings:
    yield from identity.demanded(predicate, commit, max_age_days, now)
    if nonce is not None and (nonce != predicate.nonce or not any(run.logits for run in predicate.runs)):
        told = "nothing in it was" if nonce == predicate.nonce else "it was"
        why = f"asked for {nonce!r}, {told} drawn from {predicate.nonce!r}"
        yield Finding("RCPT-NONCE", "/predicate/nonce", why)
    if model is not None:
        with files.opened(model, "a GGUF file") as file:
            own = digest.sha256_of(model, file)  # read now: what is remembered could be of other bytes
        told = predicate.model.sha256 if predicate.model else "none"
        if own != told:
            why = f"{told[:12]}…, {model} has {own[:12]}…"
            yield Finding("RCPT-MODEL", "/predicate/model/sha256", why)


def replays(statements: Sequence[tuple[str, Statement]]) -> dict[str, list[Finding]]:
    """Of several receipts (name and statement), those that share an id or samples with another.

    Name → findings; every receipt after the first of its kind is the replayed one.
    """
    seen, ids = samples.Seen(contracts.load(contracts.RECEIPT)), dict[str, str]()
    replayed: dict[str, list[Finding]] = {}
    for name, statement in statements:
        found = [("/predicate/id", "the id", ids.setdefault(statement.predicate.id, name))]
        found += [(where, "the samples", seen.of(each, name)) for where, each in speed.arrays(statement.predicate)]
        for where, what, owner in found:
            if owner != name:
                replayed.setdefault(name, []).append(Finding("RCPT-REPLAYED", where, f"{what} of {owner}"))
    return replayed
