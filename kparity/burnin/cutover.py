"""Whether one server may take over from another: every gate of the contract, and nothing green by absence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kparity import contracts
from kparity.burnin import perplexity, query
from kparity.burnin.log import state_of
from kparity.burnin.record import CONTRACT
from kparity.burnin.stats import Gate, Judged, State, stats, target, verdict_of
from kparity.host import files
from kparity.receipts import document, results, sign, verify

WORDS = {"PASS": "ALLOWED", "FAIL": "BLOCKED", "INCONCLUSIVE": "WAITING"}


class Decision(Judged):
    """The gates, and ``ALLOWED`` where all are green, ``WAITING`` where some are not yet, ``BLOCKED`` where one is red;
    ``log`` and ``log_sha256`` are what was counted.
    """

    decision: str
    gates: list[Gate]
    log: str
    log_sha256: str
    contract: str
    schema: str = "kparity-cutover-v1"


def decide(log: Path, state: Path, ppl: str | None, receipts: Sequence[Path], since: str = "") -> Decision:
    """Of the log of a burn-in and where it stands, the JSON of ``kparity ppl``, and a receipt of each side."""
    with query.opened(log, since) as table:
        gates = stats(table, since=since).gates
    judge = contracts.load(CONTRACT)
    gates += [_perplexity(judge, ppl), _receipts(judge, receipts), _halted(judge, state)]
    verdict = verdict_of(gates)
    return Decision(verdict, WORDS[verdict], gates, str(log), _digest(log), f"{CONTRACT} {judge.version}")


def _perplexity(judge: contracts.Contract, path: str | None) -> Gate:
    if path is not None:
        return perplexity.gate(perplexity.read(path))
    limit = judge.threshold("ppl_delta")
    return Gate(limit.id, target(limit), None, "INCONCLUSIVE", needs="kparity ppl --json FILE, and --ppl FILE")


def _receipts(judge: contracts.Contract, paths: Sequence[Path]) -> Gate:
    """How many of the receipts nothing is wrong with and have a verdict of parity: one of each side is needed."""
    limit = judge.threshold("parity_receipts")
    read = {path: document.read(path) for path in paths}
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


def _digest(path: Path) -> str:
    with files.opened(path, "the log of a burn-in") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def as_result(found: Decision) -> dict[str, Any]:
    """The decision as an in-toto test result about the log, which ``kparity receipt sign`` signs."""
    named: dict[State, list[str]] = {"PASS": [], "INCONCLUSIVE": [], "FAIL": []}
    for gate in found.gates:
        named[gate.state].append(f"cutover/{gate.name}")
    results_of = {"PASS": "PASSED", "INCONCLUSIVE": "WARNED", "FAIL": "FAILED"}
    text = contracts.load(CONTRACT).path.read_bytes()
    return {
        "_type": "https://in-toto.io/Statement/v1", "predicateType": results.PREDICATE,
        "subject": [{"name": Path(found.log).name, "digest": {"sha256": found.log_sha256}}],
        "predicate": {
            "result": results_of[found.verdict],
            "configuration": [{"name": found.contract, "digest": {"sha256": hashlib.sha256(text).hexdigest()}}],
            "passedTests": named["PASS"], "warnedTests": named["INCONCLUSIVE"], "failedTests": named["FAIL"],
        },
    }  # fmt: skip
