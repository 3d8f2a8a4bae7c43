"""Whether the output was right: the verdict follows from the gates, the gates from the contract, and what was timed
was verified.
"""

from __future__ import annotations

from kparity import contracts
from kparity.contracts import Contract
from kparity.contracts.history import numbers
from kparity.gates.table import DEPTHS, EVERY, WHOLE, thresholds
from kparity.receipts.cutover import Cutover
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Head, Predicate
from kparity.receipts.rules.device import enumerated

ROUNDING = 1e-6
"""By which a figure that was computed in floating point may lie beyond its range."""
COUNTED = ("_mismatches", "_differences", "_diverged", "_argmax", "_wrong", "_min", "_compared")
"""How the names of measures end that are counts."""


def judge_of(predicate: Head) -> Contract | None:
    """The contract that judged, where it is the one that ships here in that major version: a changed limit is another
    major version, so that every value can be held against the limits of here. None for a version that never was.
    """
    told, here = predicate.contract, _own(predicate)
    known = told.version in {each.version for each in here.sections.metadata.changelog}
    version, own = numbers(told.version), numbers(here.version)
    return here if told.id == here.id and version[0] == own[0] and (known or version > own) else None


def _own(predicate: Head) -> Contract:
    return contracts.load(contracts.CUTOVER if isinstance(predicate, Cutover) else contracts.PROBE)


def contract(predicate: Head) -> Findings:
    """The contract is the right one, in the major version of this installation: its limits are known."""
    if judge_of(predicate) is None:
        told, here = predicate.contract, _own(predicate)
        why = f"{told.id} {told.version}; here is {here.id} {here.version}: verify with the release of that"
        yield Finding("RCPT-CONTRACT", "/predicate/contract", why)


def gates(predicate: Predicate) -> Findings:
    """Every gate is held against the limit of the contract again."""
    judge = judge_of(predicate)
    if judge is None:
        return
    owners = {name: spec.name for spec in EVERY for name in spec.thresholds}
    for at, run in enumerated(predicate):
        names = [gate.name for gate in run.parity.gates]
        for index, gate in enumerate(run.parity.gates):
            where = f"{at}/parity/gates/{index}"
            if owners.get(gate.name) != gate.gate:
                yield Finding("RCPT-GATE", f"{where}/name", f"{gate.name} is no measure of a gate {gate.gate}")
                continue
            if names.index(gate.name) != index:
                yield Finding("RCPT-GATE", f"{where}/name", f"{gate.name} stands twice")
            if fault := impossible(gate.name, gate.value):
                yield Finding("RCPT-RANGE", f"{where}/value", fault)
            limit = judge.threshold(gate.name)
            holds = gate.value is not None and limit.holds(gate.value)
            if gate.limit != limit.value:
                why = f"{gate.name} is held against {gate.limit:g}, the contract says {limit.value:g}"
                yield Finding("RCPT-GATE", f"{where}/limit", why)
            if gate.passed is not holds:
                why = f"{gate.name} = {gate.value} {limit.sign} {limit.value:g} is {holds}"
                yield Finding("RCPT-GATE", f"{where}/passed", why)


def impossible(name: str, value: float | None) -> str:
    """Why no measure of that name has such a value; empty where it can."""
    if value is None:
        return ""
    if name.endswith("cosine"):
        return "" if abs(value) <= 1 + ROUNDING else f"{name} = {value!r}: a cosine lies between -1 and 1"
    if value < -ROUNDING:
        return f"{name} = {value!r}: it is never negative"
    if name.endswith(COUNTED) and not float(value).is_integer():
        return f"{name} = {value!r}: it is counted, in whole numbers"
    return ""


def verdicts(predicate: Predicate) -> Findings:
    """PASS needs every gate and an accepted backend; FAIL and INVALID-CORRECTNESS need a reason; a failed backend has
    no speed.
    """
    status = {each.backend: each.status for each in predicate.fallback}
    reasons = {each.backend: (f"{each.code}: {each.reason}",) for each in predicate.fallback if each.code}
    options = predicate.request.options
    asked = options.get("depth", "full") if predicate.kind == "probe" else "full"
    depth = asked if asked in DEPTHS else "full"
    for at, run in enumerated(predicate):
        parity, where, dispatch = run.parity, f"{at}/parity", status.get(run.backend)
        failed = [gate.name for gate in parity.gates if not gate.passed]
        if parity.verdict == "PASS":
            missing = sorted({*thresholds(depth)} - {gate.name for gate in parity.gates})
            if missing:
                yield Finding("RCPT-GATES-MISSING", f"{where}/gates", f"PASS without {', '.join(missing)}")
            beyond = sorted({gate.name for gate in parity.gates} - {*thresholds(depth)})
            if beyond:
                yield Finding("RCPT-GATE", f"{where}/gates", f"a probe of depth {depth} has no {', '.join(beyond)}")
            if failed:
                yield Finding("RCPT-PARITY", f"{where}/verdict", f"PASS, and {', '.join(failed)} failed")
            if dispatch != "accepted":
                yield Finding("RCPT-PARITY", f"{where}/verdict", f"PASS, and the dispatch says {dispatch}")
            continue
        if not parity.reason:
            yield Finding("RCPT-PARITY", f"{where}/reason", f"{parity.verdict} without a reason")
        if parity.verdict == "INVALID-CORRECTNESS" and parity.gates:
            yield Finding("RCPT-PARITY", f"{where}/gates", "gates of a run that was not checked")
        if parity.verdict == "FAIL" and parity.reason not in reasons.get(run.backend, (parity.reason,)):
            yield Finding("RCPT-PARITY", f"{where}/reason", f"{parity.reason}: the dispatch gives another reason")
        if parity.verdict == "FAIL" and dispatch == "accepted":
            yield Finding("RCPT-PARITY", f"{where}/verdict", "FAIL, and the dispatch says accepted")
        if parity.verdict == "FAIL" and run.measurements:
            yield Finding("RCPT-PARITY", f"{at}/measurements", f"a speed of {run.backend}, whose output is wrong")


def required(predicate: Predicate) -> Findings:
    """Every run that was not rejected passed, and one did, or single ops were verified (``--require-parity``)."""
    verdicts = [run.parity.verdict for run in predicate.runs]
    if "PASS" not in verdicts and not (predicate.ops and not predicate.runs):
        yield Finding("RCPT-PARITY-REQUIRED", "/predicate/runs", "no run passed")
    if predicate.kind == "probe" and predicate.request.options.get("depth", "full") not in WHOLE:
        yield Finding("RCPT-PARITY-REQUIRED", "/predicate/request/options/depth", "only the first token was judged")
    for at, run in enumerated(predicate):
        if run.parity.verdict == "INVALID-CORRECTNESS":
            why = f"{run.backend}: {run.parity.verdict}: {run.parity.reason}"
            yield Finding("RCPT-PARITY-REQUIRED", f"{at}/parity/verdict", why)


def outputs(predicate: Predicate) -> Findings:
    """What was timed was verified, unless the run is labelled as not to be trusted."""
    for at, row, _ in predicate.rows():
        if row.op and not row.verified:
            yield Finding("RCPT-OUTPUT", f"{at}/verified", f"{row.name}: the timed output was not verified")
    for number, baseline in enumerate(predicate.baselines):
        for name, value in baseline.agreement.cosine.items() if baseline.agreement else ():
            if fault := impossible(f"{name} cosine", value):
                yield Finding("RCPT-RANGE", f"/predicate/baselines/{number}/agreement/cosine/{name}", fault)
    judge = judge_of(predicate)
    if judge is None:
        return
    for at, run in enumerated(predicate):
        timed = run.timed_output
        if run.parity.verdict != "PASS" or timed is None:
            continue
        where, limit = f"{at}/timed_output", judge.threshold("positions_cosine")
        if fault := impossible("cosine", timed.cosine):
            yield Finding("RCPT-RANGE", f"{where}/cosine", fault)
        if not timed.checked:
            yield Finding("RCPT-OUTPUT", f"{where}/checked", f"what {run.backend} computed while timed is unknown")
        elif timed.limit is None or not limit.holds(timed.limit):
            yield Finding("RCPT-OUTPUT", f"{where}/limit", f"held against {timed.limit}, softer than the contract")
        elif not (
            timed.passed and timed.cosine is not None and limit.holds(timed.cosine) and timed.cosine >= timed.limit
        ):
            yield Finding("RCPT-OUTPUT", f"{where}/cosine", f"cosine {timed.cosine} against {timed.limit}")
