"""Contracts: thresholds with a basis, tests that exist, and gates that fail closed."""

from __future__ import annotations

import itertools
import math
import operator
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity import contracts
from kparity.cli.schema import schema_of
from kparity.contracts import code, coverage, files
from kparity.contracts.validate import validate
from kparity.device import registry
from kparity.engine import Engine
from kparity.errors import UnknownName
from kparity.gates import reference
from kparity.gates.bos import gate_bos
from kparity.gates.candidate import Candidate
from kparity.gates.judge import lacking
from kparity.gates.positions import gate_positions
from kparity.gates.table import GATES
from kparity.gates.verdict import Gate, Measure, Verdict
from kparity.model import load_model

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {
    "backend-output-parity-v1", "burnin-cutover-v1", "kernel-parity-v1", "ladder-v1", "receipt-v1", "trace-parity-v1",
}  # fmt: skip
CONTRACT = contracts.load(contracts.PROBE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("threshold", sorted(CONTRACT.document["thresholds"]))
def test_non_finite_numbers_fail_every_threshold(threshold: str, value: float) -> None:
    assert not Measure.of(CONTRACT, threshold, value).holds


def test_no_gates_is_no_acceptance() -> None:
    opened, names = Gate("open", "PASS"), [gate.name for gate in GATES]
    assert lacking([], "full") == names and lacking([opened], "bos") == ["BOS"]
    for verdict in ("INCONCLUSIVE", "FAIL"):
        assert lacking([opened, Gate("BOS", verdict)], "bos") == ["BOS"]
    assert lacking([opened, Gate("BOS", "PASS")], "bos") == []
    assert lacking([opened, Gate("BOS", "PASS")], "full") == names[2:], "two gates of all are no pass"


def test_the_bos_threshold_is_the_contracts() -> None:
    assert CONTRACT.threshold("bos_cosine").value == 0.99
    assert CONTRACT.threshold("positions_min").value >= 64
    with pytest.raises(UnknownName, match="did you mean 'bos_cosine'"):
        CONTRACT.threshold("bos_cosin")


RULES = {"at least": operator.ge, "at most": operator.le, "above": operator.gt, "below": operator.lt}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(RULES)), st.floats(-1e6, 1e6), st.floats(allow_nan=True, allow_infinity=True))
def test_a_threshold_divides_the_numbers(rule: str, limit: float, measured: float) -> None:
    threshold = contracts.Threshold("t", limit, rule, "basis")
    assert threshold.holds(measured) is (math.isfinite(measured) and RULES[rule](measured, limit))
    assert threshold.holds(limit) is (rule in ("at least", "at most"))
    assert len({contracts.Threshold("t", 0, each, "").sign for each in RULES}) == 4


def test_every_sequence_of_up_to_five_verdicts_is_concluded_rightly() -> None:
    verdicts: tuple[Verdict, ...] = ("PASS", "FAIL", "INCONCLUSIVE")
    seen = 0
    for length in range(6):
        for sequence in itertools.product(verdicts, repeat=length):
            found = [Gate(spec.name, verdict) for spec, verdict in zip(GATES, sequence, strict=False)]
            assert (not lacking(found, "bos")) is (sequence[:2] == ("PASS", "PASS")), sequence
            missed = [spec.name for spec, verdict in zip(GATES, sequence, strict=False) if verdict != "PASS"]
            assert lacking(found, "full") == [*missed, *(spec.name for spec in GATES[length:])], sequence
            seen += 1
    assert seen == 364


def test_interleaved_rope_passes_bos_and_fails_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "liars"))
    from kparity_liars import Interleaved

    model = load_model(None)
    wanted = reference.compute(model, reference.probe_tokens(model, 72), act="token", kv="f16")
    candidate = Candidate(Engine(model, Interleaved.open()), wanted, CONTRACT)
    assert gate_bos(candidate).verdict == "PASS"
    positions = gate_positions(candidate)
    assert (positions.verdict, positions.code) == ("FAIL", "KP-POS-COSINE")


def test_the_shipped_contracts_keep_every_rule() -> None:
    found = validate(files.resolve(()), registry.names())
    assert [str(problem) for problem in found.problems] == [] and found.unchecked == []
    assert {contract.id for contract in found.contracts} == SHIPPED


def test_evidence_covers_everything_that_computes() -> None:
    assert set(code.of(CONTRACT)) == {"kparity", "tests/", "csrc/"}


def test_the_table_in_the_docs_is_the_scoreboard() -> None:
    text = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- coverage: begin -->\n")[2].partition("\n<!-- coverage: end -->")[0]
    scores = [coverage.score(contract) for contract in files.read_all(files.resolve(()))]
    table = [line.rpartition(" | ")[0] + " |" for line in coverage.markdown(scores).splitlines()]
    assert shown.splitlines() == table, "kparity contract coverage --markdown gives it, with what passed beside it"


def test_every_known_issue_has_its_warning_and_every_warning_its_issue() -> None:
    issues = [each.id for contract in files.read_all(files.resolve(())) for each in contract.sections.known_issues]
    pages = {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
    text = re.sub(r"^```.*?^```", "", "\n".join(pages.values()), flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"\bISSUE-[A-Z0-9-]*[A-Z0-9]", text)) == set(issues)
    assert set(re.findall(r"\bISSUE-[A-Z0-9-]*[A-Z0-9]", pages[ROOT / "docs" / "known-issues.md"])) == set(issues)


def test_the_schema_names_every_section_that_the_docs_explain() -> None:
    sections = schema_of("contract")["$defs"]["Sections"]["properties"]
    text = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
    assert len(sections) == 13 and [name for name in sections if f"`{name}`" not in text] == []
