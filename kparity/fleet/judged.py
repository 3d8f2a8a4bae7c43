"""What a command on a node brought back, judged here: by the rules of receipts, never by what a node says of itself."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from kparity.check.document import Document
from kparity.errors import WrongInput
from kparity.fleet import seen as look
from kparity.fleet.hand import Errand
from kparity.fleet.record import Command, Outcome, Seen
from kparity.host import files
from kparity.receipts import document, sign, verify
from kparity.receipts.rules import identity

BY_CODE: dict[int, Outcome] = {0: "passed", 1: "failed", 3: "inconclusive"}


@dataclass(frozen=True)
class Judgement:
    """What became of a device, and why, where it did not pass."""

    outcome: Outcome
    reason: str = ""
    seen: tuple[Seen, ...] = ()
    sha256: str = ""


def judge(errand: Errand, command: Command, gpu: bool) -> Judgement:
    """Judge an errand; with ``gpu`` nothing passes but what was right on a GPU."""
    if errand.late:
        return Judgement("late", f"no end after {errand.seconds:.0f} s")
    if errand.receipt is None or errand.exit_code not in BY_CODE:
        return without(errand)
    try:
        rows, why, absent = _read(errand.receipt, command)
    except WrongInput as error:
        return Judgement("unsound", str(error))
    sha256 = hashlib.sha256(errand.receipt).hexdigest()
    if why:
        return Judgement("unsound", why, (), sha256)
    outcome, reason = BY_CODE[errand.exit_code], ""
    if outcome == "passed" and gpu and not look.on_gpu(rows):
        outcome, reason = "failed", f"nothing passed on a GPU: {_said(rows) or absent or 'no backend opened'}"
    elif outcome != "passed":
        reason = _said([each for each in rows if each.verdict != "PASS"]) or absent or _last(errand.tail)
    if outcome != "passed" and any(each.code.endswith("-OOM") for each in rows):
        outcome = "out-of-memory"
    return Judgement(outcome, reason, tuple(rows), sha256)


def without(errand: Errand) -> Judgement:
    """What became of a command that left nothing to judge."""
    if errand.exit_code < 0:
        number = -errand.exit_code
        name = signal.Signals(number).name if number in {*signal.Signals} else str(number)
        return Judgement("crashed", f"ended by {name}; {_last(errand.tail)}")
    return Judgement("refused", errand.problem or f"exit code {errand.exit_code}: {_last(errand.tail)}")


def _read(data: bytes, command: Command) -> tuple[list[Seen], str, str]:
    """What a receipt shows, why it may not be believed, and what was not there; raises WrongInput for what is none."""
    if command == "check":
        files.parse_json(data, "what came back", "the JSON of kparity check")
        try:
            found = msgspec.json.decode(data, type=Document, strict=False)
        except (msgspec.ValidationError, ValueError) as error:
            return [], f"not the JSON of kparity check: {error}", ""
        return look.of_check(found), "", _listed(found.absent.items())
    read = document.parse(data, "what came back")
    if not document.is_receipt(read):
        return [], "what came back is no receipt", ""
    statement, malformed = identity.form(sign.statement_of(read))
    if statement is None:
        return [], str(malformed[0]), ""
    refused = verify.verify(read)
    if statement.predicate.kind != command:
        return [], f"a receipt of kparity {statement.predicate.kind}", ""
    absent = [(each.backend, each.reason or each.status) for each in statement.predicate.fallback if each.reason]
    return look.of_receipt(statement.predicate), str(refused[0]) if refused else "", _listed(absent)


def _listed(absent: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{backend}: {why}" for backend, why in absent)


def _said(rows: list[Seen]) -> str:
    return "; ".join(f"{each.backend} on {each.model} ({each.kind}): {each.code or each.verdict}" for each in rows)


def _last(tail: str) -> str:
    lines = [
        line
        for line in tail.splitlines()
        if line.strip() and not re.match(r"\s*(File |Backend: |.*, after \d+ s$)", line)
    ]
    return lines[-1].strip()[:400] if lines else "it said nothing"
