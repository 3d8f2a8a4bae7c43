"""The pages: the tutorial is followed word for word, and the site is built strictly, with nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.followed import follow

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_tutorial_word_for_word(tmp_path: Path) -> None:
    assert len(follow(ROOT / "docs/tutorial.md", tmp_path)) == 7


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("material") is None:
        absent("mkdocs is not installed: pip install 'kparity[docs]'", "mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {str(path.relative_to(tmp_path)): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    made = {f"reference/{name}/index.html" for name in ("cli", "thresholds", "codes", "schemas", "python")}
    assert made <= set(pages)
    assert "kparity burnin run" in pages["reference/cli/index.html"]
    assert "bos_cosine" in pages["reference/thresholds/index.html"]
    for name, page in pages.items():
        fetched = re.findall(r'<(?:script|img|link)\b[^>]*\b(?:src|href)="(https?:[^"]*)"', page)
        assert fetched == [], name
