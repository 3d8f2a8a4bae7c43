"""The table of faults in docs/burnin.md is what running each of them shows."""

from __future__ import annotations

import pytest

from tools.burnin_faults import BEGIN, END, FAULTS, PAGE, Fault, line


def table() -> list[str]:
    """Its rows."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()[2:]


def test_every_fault_has_a_row() -> None:
    """One that perplexity misses and the burn-in halts at, and the reverse, are among them."""
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table()]
    assert [row[0] for row in cells] == [fault.words for fault in FAULTS]
    assert any(row[3] == "PASS" and "halted" in row[1] for row in cells)
    assert any(row[3] == "FAIL" and row[1:3] == ["none", "nothing"] for row in cells)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.words)
def test_a_fault_is_seen_by_what_the_page_says(fault: Fault) -> None:
    assert line(fault) == table()[FAULTS.index(fault)]
