"""Whether one server may take over from another: every gate of the contract, and nothing green by absence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from kparity import contracts
from kparity.burnin import perplexity, query
from kparity.burnin.log import state_of
from kparity.burnin.stats import Judged, stats
from kparity.host import files
from kparity.receipts import document, sign, statement, verify
from kparity.receipts.cutover import WORDS, Cutover, Evidence, Gate, State, Word, target, verdict_of
from kparity.receipts.record import Contract


class Decision(Judged):
    """The gates, and ``ALLOWED`` where all are green, ``WAITING`` where some are not yet, ``BLOCKED`` where one is red;
    ``evidence`` is what was counted, from ``begun`` to ``ended`` (UTC).
    """

    decision: Word
    gates: list[Gate]
    evidence: list[Evidence]
    since: str
    begun: str
    ended: str
    contract: Contract
    schema: str = "kparity-cutover-v1"


def decide(log: Path, state: Path, ppl: str | None, receipts: Sequence[Path], since: str = "") -> Decision:
    """Of the log of a burn-in and where it stands, the JSON of ``kparity ppl``, and a receipt of each side."""
    judge, begun = contracts.load(contracts.CUTOVER), statement.now()
    with query.opened(log, since) as table:
        gates, lines = stats(table, since=since).gates, int(table.row("SELECT coalesce(max(round), 0) FROM rounds")[0])
    told = files.read(ppl, perplexity.WHAT, perplexity.LARGEST) if ppl else None
    papers = {path: files.read(path, "a receipt") for path in receipts}
    read = {path: document.parse(data, str(path)) for path, data in papers.items()}
    gates += [
        _perplexity(judge, perplexity.parse(told, ppl) if ppl and told is not None else None), _receipts(judge, read),
        _halted(judge, state),
    ]  # fmt: skip
    evidence = [Evidence(kind="log", name=log.name, sha256=_digest(log, lines), lines=lines)]
    if ppl and told is not None:
        evidence.append(Evidence(kind="ppl", name=Path(ppl).name, sha256=hashlib.sha256(told).hexdigest()))
    evidence += [Evidence(kind="receipt", name=each.name, sha256=hashlib.sha256(papers[each]).hexdigest())
                 for each in receipts]  # fmt: skip
    verdict = verdict_of(gates)
    return Decision(
        verdict, WORDS[verdict], gates, evidence, since, begun, statement.now(),
        Contract(id=judge.id, version=judge.version),
    )  # fmt: skip


def as_receipt(found: Decision) -> dict[str, Any]:
    """The decision as a receipt, which ``kparity receipt`` signs and verifies."""
    known = {**statement.common(), "ended": found.ended}
    return statement.statement(Cutover(
        begun=found.begun, contract=found.contract, since=found.since, decision=found.decision, gates=found.gates,
        evidence=found.evidence, **known,
    ))  # fmt: skip


def _perplexity(judge: contracts.Contract, found: perplexity.Perplexity | None) -> Gate:
    if found is not None:
        return perplexity.gate(found)
    limit = judge.threshold("ppl_delta")
    return Gate(limit.id, target(limit), None, "INCONCLUSIVE", needs="kparity ppl --json FILE, and --ppl FILE")


def _receipts(judge: contracts.Contract, read: Mapping[Path, dict[str, Any]]) -> Gate:
    """How many of the receipts nothing is wrong with and have a verdict of parity: one of each side is needed."""
    limit = judge.threshold("parity_receipts")
    refused = [f"{path}: {finding}" for path, each in read.items() for finding in
               verify.verify(each, require_parity=True)[:1]]  # fmt: skip
    good = len(
        {document.canonical(sign.statement_of(each)) for each in read.values()}
    )  # one that is given twice is one
    if refused:
        return Gate(limit.id, target(limit), good - len(refused), "FAIL", needs=refused[0])
    state: State = "PASS" if limit.holds(good) else "INCONCLUSIVE"
    return Gate(limit.id, target(limit), good, state, needs="" if state == "PASS" else "--receipt FILE of each side")


def _halted(judge: contracts.Contract, state: Path) -> Gate:
    """Whether the burn-in was halted, as its state says; without the state nobody knows."""
    limit = judge.threshold("halts")
    if not state.exists():
        return Gate(limit.id, target(limit), None, "INCONCLUSIVE", needs=f"{state}, which is beside the log")
    found = state_of(state)
    count = int(bool(found.halted))
    return Gate(limit.id, target(limit), count, "PASS" if limit.holds(count) else "FAIL", needs=found.halted)


def _digest(path: Path, lines: int) -> str:
    """SHA-256 of the first lines of a log: of those that were counted, whatever was added since."""
    with files.opened(path, "evidence of a cutover") as file:
        digest = hashlib.sha256()
        for piece in islice(file, lines):
            digest.update(piece)
    return digest.hexdigest()
