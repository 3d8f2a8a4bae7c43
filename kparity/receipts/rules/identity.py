"""What a receipt is of: form, digest, subjects, times, commit."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import cache
from importlib import resources
from typing import Any

from kparity.contracts import Contract
from kparity.receipts.document import digest
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.statement import subjects

SHOWN = 160
"""Characters of a schema validator's message."""


@cache
def _validator() -> Any:
    import jsonschema

    text = resources.files("kparity.schemas").joinpath("receipt-v1.schema.json").read_text("utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def form(statement: dict[str, Any]) -> Findings:
    """Where a statement departs from ``kparity/schemas/receipt-v1.schema.json``."""
    for error in sorted(_validator().iter_errors(statement), key=lambda error: [str(part) for part in error.path]):
        said = " ".join(error.message.split())
        where = "".join(f"/{part}" for part in error.absolute_path)
        yield Finding("RCPT-SCHEMA", where, said if len(said) <= SHOWN else said[: SHOWN - 1] + "…")


def fits_digest(statement: dict[str, Any]) -> Findings:
    """The digest is that of the content."""
    found, told = digest(statement), statement["predicate"]["sha256"]
    if found != told:
        yield Finding("RCPT-DIGEST", "/predicate/sha256", f"it says {told[:12]}…, the content gives {found[:12]}…")


def has_subjects(statement: dict[str, Any]) -> Findings:
    """The subjects are the model and every kernel, each with the digest that the predicate tells."""
    wanted = sorted(subjects(statement["predicate"]))
    there = sorted((each["name"], each["digest"]["sha256"]) for each in statement["subject"])
    if wanted != there:
        odd = sorted({name for name, _ in set(wanted) ^ set(there)}) or ["one of them stands twice"]
        yield Finding("RCPT-SUBJECT", "/subject", f"not the model and the kernels of the predicate: {', '.join(odd)}")


def moment(text: str) -> datetime | None:
    """A time of a receipt; None for one that no calendar has."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except ValueError:
        return None


def times(predicate: dict[str, Any], contract: Contract, now: datetime) -> Findings:
    """It began before it ended, ended before now, and lasted at least as long as its samples."""
    began, ended = moment(predicate["begun"]), moment(predicate["ended"])
    if began is None or ended is None:
        at = "begun" if began is None else "ended"
        yield Finding("RCPT-TIME", f"/predicate/{at}", f"{predicate[at]} is no date")
        return
    if ended < began:
        yield Finding("RCPT-TIME", "/predicate/ended", f"ended at {predicate['ended']}, before {predicate['begun']}")
    ahead = (ended - now).total_seconds()
    if not contract.threshold("clock_skew_s").holds(ahead):
        yield Finding("RCPT-TIME", "/predicate/ended", f"ended {ahead:.0f} s in the future")
    sampled = sum(
        sum(measurement["samples_s"])
        for each in (*predicate["runs"], *predicate["baselines"])
        for measurement in each["measurements"]
    )
    lasted = (ended - began).total_seconds()
    # Times are told to the millisecond.
    if ended >= began and sampled > lasted + 2e-3:
        yield Finding("RCPT-DURATION", "/predicate/ended", f"lasted {lasted:.3f} s, its samples take {sampled:.3f} s")


def revision(predicate: dict[str, Any]) -> Findings:
    """The commit, the flag and the list of changed files do not contradict each other."""
    harness = predicate["harness"]
    if harness["dirty"] is not (None if harness["commit"] == "unknown" else bool(harness["changed"])):
        said = f"commit {harness['commit'][:12]}, dirty {harness['dirty']}, {len(harness['changed'])} changed files"
        yield Finding("RCPT-COMMIT", "/predicate/harness/dirty", f"contradicts itself: {said}")
