"""The HTML pages in Chromium: on a telephone and a desk, in light and dark, by keyboard, and by axe-core."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kparity.mutate import report
from kparity.mutate.cell import GATES, Cell, GateResult
from kparity.receipts import page, store
from kparity.receipts.statement import write
from tests.edits import put
from tests.made_receipts import edited, probed, receipt
from tests.test_burnin_pages import decided, watched
from tests.test_fleet import shown
from tests.test_report import failing

pytest.importorskip("jinja2", reason="Jinja2 is not installed")
REASON = "cosine vs plain fp64 = 0.4242 (< 0.99) at position 0/72, and <b>markup</b> with a_very_long_word" + "_x" * 60


def fleet(folder: Path) -> str:
    """The page of forty probes, three benchmarks, and two of them refused."""
    for at in range(40):
        write(folder / f"host{at:02}.json", probed("cpu", "wgpu" if at % 2 else "hip", REASON if at % 3 == 0 else ""))
    write(folder / "cuda.json", receipt("cuda", "cpu", salt="1"))
    write(folder / "wgpu.json", receipt("wgpu", salt="2"))
    write(folder / "forged.json", edited(put("runs.0.measurements.1.unit_s", 1e-5), "cuda", salt="3"))
    stranger = probed("cuda", "cpu")
    stranger["predicate"]["sha256"] = "0" * 64
    write(folder / "stranger.json", stranger)
    return page.html(store.load_folder(folder)[0])


def matrix(folder: Path) -> str:
    """The page of wrong kernels of two backends, one of which survives."""
    outcomes = ("caught", "passed", "blind", "not run")
    said = [GateResult(gate, outcomes[at % 4], "" if at % 4 == 1 else REASON) for at, gate in enumerate(GATES)]
    passed = [GateResult(gate, "passed") for gate in GATES]
    return report.page(
        [
            Cell(op, name, backend, "0", "A factor of two.", gates=gates)
            for backend in ("cpu", "wgpu")
            for op in ("rope", "add")
            for name, gates in (("seen", said), ("alive", passed))
        ],
        [f"numpy: {REASON}"],
    )


PAGES = {"receipt page": fleet, "mutate --html": matrix}
OTHERS = {
    "fleet report --html": shown,
    "report": failing,
    "burnin --dashboard": watched,
    "cutover status --html": decided,
}


@pytest.mark.parametrize("name", [*PAGES, *OTHERS])
def test_a_page_is_readable_by_everybody(name: str, browser: Any, tmp_path: Path) -> None:
    axe = import_module("axe_playwright_python.sync_playwright").Axe()
    text = {**PAGES, **OTHERS}[name](tmp_path)
    for width in (360, 1200):
        for scheme in ("light", "dark"):
            view = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            view.set_content(text)
            assert view.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
            found = axe.run(view)
            assert not found.violations_count, f"{width} px, {scheme}: {found.generate_report()}"
            view.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_used_by_keyboard_and_hides_no_reason(name: str, browser: Any, tmp_path: Path) -> None:
    view = browser.new_page(viewport={"width": 390, "height": 844})
    view.set_content(PAGES[name](tmp_path))
    stops = view.locator("summary, [tabindex='0']")
    for at in range(stops.count()):
        view.keyboard.press("Tab")
        assert stops.nth(at).evaluate("each => each === document.activeElement"), f"stop {at} is not reached"
        assert stops.nth(at).evaluate("each => getComputedStyle(each).outlineStyle") != "none", "focus is not seen"
        if stops.nth(at).evaluate("each => each.tagName") == "SUMMARY":
            view.keyboard.press("Enter")
    assert view.locator("[title]").count() == 0
    assert "cosine vs plain fp64 = 0.4242 (< 0.99) at position 0/72" in view.inner_text("main")
    view.close()


def test_probes_are_hosts_and_backends_of_which_only_the_believed_count(tmp_path: Path) -> None:
    text, found = fleet(tmp_path), page.fleet(store.load_folder(tmp_path)[0])
    assert len(found.hosts) == 41
    assert found.accepted == {"cpu": (40, 40), "hip": (13, 20), "wgpu": (13, 20), "cuda": (0, 0)}
    assert text.count("not asked for") == 41 * 4 - 82 and "accepted 13 of 20" in text
    assert "KP-BOS-COSINE: cosine vs plain fp64" in text and "&lt;b&gt;" in text
