"""The page that counts what is tested: its tables have the rows of today, and its lanes are there."""

from __future__ import annotations

import re
from pathlib import Path

from tools import how_tested

ROOT = Path(__file__).resolve().parent.parent


def shape(text: str) -> str:
    """Without numbers, and with no say of how wide a column is."""
    return re.sub(r"[\d:-]+", "#", text)


def test_the_page_is_current_in_structure() -> None:
    told = how_tested.PAGE.read_text("utf-8")
    assert shape(how_tested.page(told)) == shape(told), "run python -m tools.how_tested --docs"
    assert [name for name in how_tested.SECTIONS if f"<!-- {name} -->\n| " not in told] == []
    assert "| 0 |" not in how_tested.cases() + how_tested.functions() + how_tested.controls()


def test_what_a_lane_calls_is_there() -> None:
    for lane in how_tested.LANES:
        called = [word for word in lane.strip("`").split() if "/" in word and not word.startswith(".venv")]
        called += [f"{each.replace('.', '/')}" for each in re.findall(r"-m (t\w+\.\w+)", lane)]
        assert all((ROOT / each).exists() or (ROOT / f"{each}.py").exists() for each in called), lane


def test_a_kind_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text(
        "import pytest\npytestmark = pytest.mark.compile\n\n\ndef test_a(backend): pass\n\n\n"
        "@given(x)\ndef test_b(browser, x):\n    run('probe')\n\n\ndef helper(backend): pass\n"
    )
    assert list(how_tested.tests(file)) == [
        {"all", "marked `compile`", "once for each backend"},
        {"all", "marked `compile`", "over drawn inputs", "in a browser", "the command in a process of its own"},
    ]
