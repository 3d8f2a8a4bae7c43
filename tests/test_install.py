"""What is told to install can be installed: an extra of this checkout, or names that the indexes have."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kparity.device.codes import reasons
from kparity.errors import WrongInput
from kparity.host import install
from kparity.mutate import report
from kparity.receipts import page, sign, store

ROOT = Path(__file__).parent.parent
FOLDERS = ("kparity", "backends", "tools", "training", "docs", "examples")
PATHS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for name in FOLDERS for path in (ROOT / name).rglob("*.*")),
]
TEXTS = [path.read_text("utf-8") for path in PATHS if path.suffix in (".py", ".md", ".sh")]
ALONE = {"nvidia-cuda-nvrtc", "intel-opencl-rt", "intel-cmplr-lib-rt"}
"""On PyPI, and of no extra."""
SAID = {code: [reason.remedy, *reason.ways] for code, reason in reasons().items()}


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~ ;]", requirement, maxsplit=1)[0]


def known() -> set[str]:
    return ALONE | {name_of(each) for required in install.extras().values() for each in required}


def wrong(line: str) -> list[str]:
    """What a line of pip would not find."""
    words = [word for word in shlex.split(line.partition(" pip install ")[2]) if not word.startswith("-")]
    extra = re.compile(rf"(?:{re.escape(str(ROOT))}|\.)\[(\w+)\]")
    found = [word for word in words if not ((match := extra.fullmatch(word)) and match[1] in install.extras())]
    return [word for word in found if name_of(word) not in known()]


def test_every_remedy_of_pip_works_here() -> None:
    lines = [way for ways in SAID.values() for way in ways if " pip install " in way]
    assert len(lines) >= 8 and [(line, bad) for line in lines if (bad := wrong(line))] == []
    assert all(shlex.quote(sys.executable) in line for line in lines)


def test_from_a_wheel_an_extra_is_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "checkout", lambda: None)
    for extra in install.extras():
        assert "kparity" not in install.extra(extra).partition(" pip install ")[2] and wrong(install.extra(extra)) == []
    assert "'duckdb>=1.1' 'jinja2>=3.1'" in install.extra("reports").lower()


def test_no_text_names_a_distribution_that_no_index_has() -> None:
    assert [found for text in TEXTS for found in re.findall(r"install\s+['\"]?kparity\b.*", text)] == []


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="this system has no apt")
def test_every_package_of_apt_is_known() -> None:
    lines = [line for text in TEXTS for line in re.findall(r"apt-get install ([a-z0-9 .+-]+)", text)]
    told = {word for line in lines for word in line.split()}
    found = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=True).stdout.split()
    assert "mesa-vulkan-drivers" in told and told - set(found) == set()


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("duckdb", lambda: store.query([])),
        ("jinja2", lambda: page.html([])),
        ("jinja2", lambda: report.page([], [])),
        ("matplotlib", lambda: report.drawn([])),
        ("cryptography.hazmat.primitives.asymmetric.ed25519", lambda: sign.keygen(Path("no"), Path("no.pub"))),
    ],
)
def test_a_missing_library_is_told_with_what_brings_it(
    module: str, use: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WrongInput, match=re.escape(install.extra("reports"))):
        use()  # type: ignore[operator]
