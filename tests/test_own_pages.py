"""The pages of what another package can bring are followed word for word, from an empty folder to a judged plug-in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kparity.device import registry
from tests.conftest import needing
from tests.followed import OWN_PAGES, follow

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN_PAGES)
def test_an_own_page_word_for_word(kind: str, tmp_path: Path) -> None:
    page = DOCS / f"own-{kind}.md"
    if "opencl" in page.read_text("utf-8"):
        with needing("opencl"):
            registry.open_backend("opencl").close()
    folder = tmp_path / "empty"
    folder.mkdir()
    ran = follow(page, folder)
    assert ran[0] == "pip install -q ." and any(command.startswith("kparity ") for command in ran)


@pytest.mark.parametrize("kind", OWN_PAGES)
def test_each_page_installs_and_rejects(kind: str) -> None:
    """A page that shows no rejection shows no gate."""
    text = (DOCS / f"own-{kind}.md").read_text("utf-8")
    groups = {"mutants": "mutants", "op": "ops"}
    assert f'[project.entry-points."kparity.{groups.get(kind, kind + "s")}"]' in text
    assert re.search(r"^\$ kparity .*# exit code [12]$", text, re.M)
