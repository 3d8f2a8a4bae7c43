"""Whether a receipt may be believed: every rule of receipt-v1 over one document, and over several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kparity import contracts
from kparity.errors import WrongInput
from kparity.host import cachedir
from kparity.receipts import sign
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Predicate, Statement
from kparity.receipts.rules import determinism, device, dispatches, identity, op_rows, parity, samples, speed


@dataclass(frozen=True)
class Demands:
    """What is asked of a receipt beyond its own soundness; nothing by default."""

    gpu_kernels: bool = False
    """A GPU served, with kernels that its own clock saw, and no GPU API ran on anything else."""
    parity: bool = False
    """Every run was judged right or rejected, and one was right."""
    key: Path | None = None
    """The public key (PEM) that must have signed it."""
    model: Path | None = None
    """The file that was measured."""
    commit: str = ""
    """The commit, or how it begins; the tree must not have been changed."""
    max_age_days: float | None = None


def verify(
    document: dict[str, Any],
    *,
    require_gpu_kernels: bool = False,
    require_parity: bool = False,
    key: Path | None = None,
    demands: Demands | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """Every reason to refuse a receipt, a bare statement or an envelope; an empty list where there is none.

    ``demands`` holds what the three options say, and more; ``now`` is the time that nothing may lie after. Raises
    WrongInput for a key or a model file that cannot be read. A document that has not the form is judged no further.
    """
    asked = demands or Demands(gpu_kernels=require_gpu_kernels, parity=require_parity, key=key)
    statement, refused = sign.opened(document, asked.key)
    if statement is None:
        return refused
    record, malformed = identity.form(statement)
    if record is None:
        return [*refused, *malformed]
    moment = now or datetime.now(timezone.utc)
    refused += identity.fits_digest(statement)
    return [*refused, *_sound(record, moment), *_demanded(record.predicate, asked, moment)]


def _sound(statement: Statement, now: datetime) -> Findings:
    limits, predicate = contracts.load(contracts.RECEIPT), statement.predicate
    yield from identity.has_subjects(statement)
    yield from identity.times(predicate, limits, now)
    yield from identity.revision(predicate)
    yield from speed.ran(predicate)
    yield from device.devices(predicate)
    yield from device.kernel_ids(predicate)
    yield from device.fallback(predicate)
    yield from device.served(predicate)
    yield from parity.contract(predicate)
    yield from parity.gates(predicate)
    yield from parity.verdicts(predicate)
    yield from parity.outputs(predicate)
    yield from determinism.repeated(predicate, limits)
    yield from dispatches.counts(predicate)
    yield from dispatches.device_time(predicate, limits)
    yield from speed.figures(predicate, limits)
    yield from speed.floors(predicate, limits)
    yield from speed.ratios(predicate, limits)
    yield from op_rows.sound(predicate, limits)
    yield from samples.irregularities(speed.arrays(predicate), limits)


def _demanded(predicate: Predicate, asked: Demands, now: datetime) -> Findings:
    if asked.gpu_kernels:
        yield from op_rows.gpu_required(predicate) if op_rows.only_ops(predicate) else device.gpu_required(predicate)
    if asked.parity:
        yield from parity.required(predicate)
    if asked.commit:
        harness = predicate.harness
        if not harness.commit.startswith(asked.commit.lower()) or harness.dirty is not False:
            state = {True: " with changes", None: ", whose changes are unknown"}.get(harness.dirty, "")
            said = f"of {harness.commit[:12]}{state}, asked for {asked.commit}"
            yield Finding("RCPT-COMMIT", "/predicate/harness/commit", said)
    if asked.model is not None:
        found = _file_sha256(asked.model)
        if found != predicate.model.sha256:
            said = f"{predicate.model.sha256[:12]}…, {asked.model} has {found[:12]}…"
            yield Finding("RCPT-MODEL", "/predicate/model/sha256", said)
    ended = identity.moment(predicate.ended)
    if asked.max_age_days is not None and ended is not None:
        days = (now - ended).total_seconds() / 86400
        if days > asked.max_age_days:
            said = f"{days:.1f} days old, at most {asked.max_age_days:g} are allowed"
            yield Finding("RCPT-AGE", "/predicate/ended", said)


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return cachedir.sha256_of(file)
    except OSError as error:
        raise WrongInput(f"the model {path} cannot be read: {error.strerror}; name a GGUF file") from error


def replays(statements: Sequence[tuple[str, Statement]]) -> dict[str, list[Finding]]:
    """Of several receipts (name and statement), those that share an id or samples with another.

    Name → findings; every receipt after the first of its kind is the replayed one.
    """
    limits = contracts.load(contracts.RECEIPT)
    seen: dict[Any, str] = {}
    found: dict[str, list[Finding]] = {}
    for name, statement in statements:
        predicate = statement.predicate
        keys: list[tuple[Any, str, str]] = [(predicate.id, "/predicate/id", "the id")]
        keys += [
            (tuple(each), where, "the samples")
            for where, each in speed.arrays(predicate)
            if limits.threshold("samples_judged").holds(len(each))
        ]
        for key, where, what in keys:
            if seen.setdefault(key, name) != name:
                found.setdefault(name, []).append(Finding("RCPT-REPLAYED", where, f"{what} of {seen[key]}"))
    return found
