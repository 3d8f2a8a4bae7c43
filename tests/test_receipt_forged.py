"""Forged receipts: each is refused, with the code that says why, and no code is there for nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from kparity.cli.explain import explain
from kparity.receipts.findings import REFUSALS
from kparity.receipts.verify import verify
from tests.forged_receipts import FORGED
from tests.forging import Forgery
from tests.made_receipts import NOW

DOCS = Path(__file__).parent.parent / "docs" / "receipts.md"
ELSEWHERE = {"RCPT-AGE", "RCPT-MODEL", "RCPT-UNSIGNED", "RCPT-SIGNATURE", "RCPT-PAYLOAD-TYPE"}
"""Codes whose lies need a key, a file or a clock: the tests of signatures and of the demands tell them."""


@pytest.mark.parametrize("forgery", FORGED, ids=lambda forgery: forgery.name)
def test_a_forged_receipt_is_refused_with_its_reason(forgery: Forgery) -> None:
    found = verify(forgery.made(), now=NOW, **forgery.demands)
    assert forgery.code in {finding.code for finding in found}, [str(finding) for finding in found]
    if forgery.redigest and forgery.renamed and forgery.code not in ("RCPT-DIGEST", "RCPT-SUBJECT"):
        assert {"RCPT-DIGEST", "RCPT-SUBJECT"}.isdisjoint(finding.code for finding in found)
    for finding in found:
        assert finding.code in REFUSALS and finding.where.startswith("/") and finding.why
        assert str(finding) == f"{finding.code} {finding.where}: {finding.why}"


def test_there_are_enough_lies_and_one_for_every_code() -> None:
    assert len(FORGED) >= 25 and len({forgery.name for forgery in FORGED}) == len(FORGED)
    assert {forgery.code for forgery in FORGED} | ELSEWHERE == set(REFUSALS)


def test_the_documentation_has_every_code_and_its_meaning() -> None:
    table = dict(re.findall(r"^\| `(RCPT-[A-Z-]+)` \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert table == {code: reason.cause for code, reason in REFUSALS.items()}


@pytest.mark.parametrize("code", REFUSALS)
def test_every_code_is_explained_on_the_command_line(code: str) -> None:
    told = CliRunner().invoke(explain, [code.lower()], env={"COLUMNS": "0"})
    reason = REFUSALS[code]
    assert told.exit_code == 0 and told.output.startswith(f"{code}: {reason.title}\n")
    assert reason.cause in told.output and reason.remedy in told.output
    assert f"{code} " in CliRunner().invoke(explain).output
