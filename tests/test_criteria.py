"""Other projects' criteria, and the page that says what they see."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kparity import ops
from kparity.mutate import library
from tools import criteria
from tools.criteria import CRITERIA, accuracy, diffy, elementwise, nmse, norm, pointwise

ONE = np.linspace(1, 2, 100, dtype=np.float32)
PAGE = criteria.PAGE.read_text("utf-8")


def changed(value: float) -> np.ndarray:
    """An element of many."""
    y = ONE.copy()
    y[7] = value
    return y


@pytest.mark.parametrize(
    ("criterion", "passes", "fails"),
    [
        (pointwise(5e-7), ONE * np.float32(1 + 2e-7), changed(1.1)),
        (pointwise(0), ONE, np.nextafter(ONE, np.float32(3))),
        (norm(5e-3), changed(1.1), changed(2.0)),
        (nmse(5e-4), changed(1.3), changed(2.0)),
        (nmse(1e-7), ONE, changed(np.nan)),
        (elementwise(), changed(ONE[7] + 8e-6), changed(ONE[7] + 8e-5)),
        (elementwise(), ONE, changed(np.nan)),
        (accuracy, changed(1.9), changed(ONE[7] + 1.5)),
        (accuracy, changed(0.2), np.where(np.arange(100) % 2, ONE, 0).astype(np.float32)),
    ],
)
def test_a_criterion_is_what_its_project_says(criterion: criteria.Criterion, passes: np.ndarray, fails: np.ndarray):
    assert not criterion(passes, ONE) and criterion(fails, ONE)


def test_what_they_do_with_nothing_and_with_what_is_not_finite() -> None:
    nothing, strange = np.zeros(9, np.float32), np.array([np.nan, np.inf, -np.inf], np.float32)
    assert not nmse(1e-7)(nothing, nothing), "0/0 is not above a limit"
    assert not pointwise(0)(strange, strange) and elementwise()(strange, strange) and nmse(1e-7)(strange, strange)


def test_noise_of_a_service_excuses_as_much_as_it_is() -> None:
    assert diffy(466, 0, 1500) and not diffy(466, 460, 1500) and not diffy(1, 0, 10_000) and not diffy(0, 9, 100)


def test_the_page_has_every_criterion_and_wrong_kernel_of_today() -> None:
    wrong = {f"{op}/{name}" for op in ops.NAMES for name, each in library.of_op(op).items() if "numpy" in each.patches}
    (told,) = re.findall(r"wrong kernels seen, of (\d+) ", PAGE)
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+) \| \d+ \|$", PAGE, re.M))
    assert int(told) == len(wrong) and rows.keys() == {*CRITERIA, criteria.KPARITY}, "python -m tools.criteria --docs"
    missed = dict(re.findall(r"^\| (\w+/[\w-]+) \| ([^|]+) \|$", PAGE, re.M))
    assert missed.keys() <= wrong
    for name in CRITERIA:
        assert int(rows[name]) == len(wrong) - sum(name in each.split("; ") for each in missed.values())


@pytest.mark.slow
@pytest.mark.parametrize("op", ["rmsnorm", "kv_store"])
def test_the_rows_of_an_op_are_what_the_tool_finds(op: str) -> None:
    rows = re.findall(rf"^\| {op}/.*$", PAGE, re.M)
    assert [line for line in criteria.tables([op]).splitlines() if line.startswith(f"| {op}/")] == rows
