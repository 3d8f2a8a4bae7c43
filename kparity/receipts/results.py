"""The same verdicts as an in-toto test result (https://in-toto.io/attestation/test-result/v0.1), which policy engines
read without knowing kparity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from kparity.receipts.cutover import CutoverStatement, State
from kparity.receipts.findings import Finding
from kparity.receipts.record import Digest, Record, Statement, Subject, Text

Kind = Literal["https://in-toto.io/attestation/test-result/v0.1"]
PREDICATE: Kind = "https://in-toto.io/attestation/test-result/v0.1"


class Configuration(Record):
    """What configured the tests (a ResourceDescriptor): the receipt, whose contract has the limits."""

    name: Text
    digest: Digest


class Result(Record):
    """The predicate. Tests are called ``<backend>/<gate>/<measure>``; ``receipt`` is what verification said."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: list[Configuration]
    passed: list[Text] = field(name="passedTests")
    warned: list[Text] = field(name="warnedTests")
    failed: list[Text] = field(name="failedTests")


class ResultStatement(Record):
    """An in-toto Statement v1 of a test result."""

    type: Literal["https://in-toto.io/Statement/v1"] = field(name="_type")
    subject: Annotated[list[Subject], Meta(min_length=1)]
    type_of_predicate: Kind = field(name="predicateType")
    predicate: Result


def is_result(document: dict[str, Any]) -> bool:
    """Whether a document calls itself a test result."""
    return document.get("predicateType") == PREDICATE


def of_receipt(statement: Statement, findings: Sequence[Finding]) -> dict[str, Any]:
    """The statement of a receipt's verdicts, as plain values: FAILED where the receipt is refused, a gate failed or a
    timed output was wrong; WARNED where nothing of that was checked, or a backend was not there. The subjects are the
    receipt's own.
    """
    predicate, passed, failed, warned = statement.predicate, list[str](), list[str](), list[str]()
    (failed if findings else passed).append("receipt")
    for run in predicate.runs:
        for gate in run.parity.gates:
            (passed if gate.passed else failed).append(f"{run.backend}/{gate.gate}/{gate.name}")
        if run.timed_output is not None:
            (passed if run.timed_output.passed else failed).append(f"{run.backend}/timed_output")
        if run.parity.verdict == "INVALID-CORRECTNESS":
            warned.append(f"{run.backend}/parity")
    for row in predicate.ops:
        (warned if row.unsupported else passed if row.verified else failed).append(f"ops/{row.name}")
    warned += [f"{each.backend}/dispatch" for each in predicate.fallback if each.status == "unavailable"]
    failed += [f"{each.backend}/dispatch" for each in predicate.fallback if each.status == "rejected"]
    return _result(statement, passed, warned, failed)


def of_cutover(statement: CutoverStatement, findings: Sequence[Finding]) -> dict[str, Any]:
    """The same of a cutover: a gate that waits is WARNED."""
    named: dict[State, list[str]] = {"PASS": [], "INCONCLUSIVE": [], "FAIL": []}
    named["FAIL" if findings else "PASS"].append("receipt")
    for gate in statement.predicate.gates:
        named[gate.state].append(f"cutover/{gate.name}")
    return _result(statement, named["PASS"], named["INCONCLUSIVE"], named["FAIL"])


def _result(
    statement: Statement | CutoverStatement, passed: list[str], warned: list[str], failed: list[str]
) -> dict[str, Any]:
    predicate = statement.predicate
    result = Result(
        result="FAILED" if failed else "WARNED" if warned else "PASSED",
        configuration=[Configuration(
            name=f"receipt {predicate.id} by {predicate.contract.id} {predicate.contract.version}",
            digest=Digest(sha256=predicate.sha256),
        )],
        passed=passed, warned=warned, failed=failed,
    )  # fmt: skip
    whole = ResultStatement(
        type=statement.type, subject=statement.subject, type_of_predicate=PREDICATE, predicate=result
    )
    plain: dict[str, Any] = msgspec.to_builtins(whole)
    return plain
