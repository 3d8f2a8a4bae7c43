"""``kparity init``: what it writes passes as it stands, and nothing is written over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kparity.cli.init import FILES
from tests.cli import run


def pytested(folder: Path) -> subprocess.CompletedProcess[str]:
    """The project's own tests, as its lanes run them."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "parity", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_written_project_passes_and_its_kernel_is_judged(tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    done = run("init", str(folder))
    assert done.returncode == 0 and done.stdout.splitlines() == [str(folder / place) for place in FILES]
    tested = pytested(folder)
    assert tested.returncode == 0 and "13 parity assertions, 1 rejected" in tested.stdout, tested.stdout
    kernel = folder / "my_kernels.py"
    checked = run("check", f"{kernel}:gemv", "--op", "tgemv", "--quick", "-k", "K=768,M=3 and random")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    kernel.write_text(kernel.read_text("utf-8").replace(" - 1)", ")"), encoding="utf-8")
    assert pytested(folder).returncode == 1


def test_its_lanes_run_what_is_there(tmp_path: Path) -> None:
    assert run("init", str(tmp_path)).returncode == 0
    for place in (".github/workflows/kparity.yml", ".gitlab-ci.yml"):
        text = (tmp_path / place).read_text("utf-8")
        assert yaml.safe_load(text) and "kparity check my_kernels.py:gemv --op tgemv --quick" in text
        assert "pytest -m parity" in text


def test_the_texts_are_as_formatted_and_checked_as_the_house_is(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    assert run("init", str(tmp_path)).returncode == 0
    rules = ["--config", str(Path(__file__).parents[1] / "pyproject.toml"), "--no-cache", str(tmp_path)]
    for what in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *what, *rules], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_what_is_there_stays(tmp_path: Path) -> None:
    mine = tmp_path / "my_kernels.py"
    mine.write_text("mine", encoding="utf-8")
    (tmp_path / ".gitlab-ci.yml").symlink_to(tmp_path / "nowhere")
    done = run("init", str(tmp_path))
    assert done.returncode == 0 and f"{mine} is there already; it stays as it is" in done.stderr
    assert mine.read_text("utf-8") == "mine" and not (tmp_path / "nowhere").exists()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = run("init", str(tmp_path))
    assert again.returncode == 2 and "has every file already; name another folder" in again.stderr
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "none" / "deeper"):
        done = run("init", str(place))
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    if os.getuid():
        (tmp_path / "shut").mkdir(mode=0o500)
        assert run("init", str(tmp_path / "shut")).returncode == 2
