"""The pytest-benchmark suites of bench/: they run, say on what, compare, and fail where an output is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import LIARS
from tests.cli import run as kparity

pytest.importorskip("pytest_benchmark")
ROOT = Path(__file__).resolve().parent.parent
QUICK = ("--benchmark-min-rounds=6", "--benchmark-max-time=0.01", "-p", "no:cacheprovider", "-q")


def suite(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """``pytest bench/`` with few rounds."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("KPARITY_", "PYTEST_"))}
    env["PYTHONPATH"] = path
    return subprocess.run([sys.executable, "-m", "pytest", "bench/", *QUICK, *arguments],
                          cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of two ops and of a decode step."""
    paths = [tmp_path_factory.mktemp("suite") / name for name in ("a.json", "b.json")]
    for path in paths:
        done = suite("--kparity-backends", "cpu", "--kparity-ops", "tgemv[K=1, or add[D=1,M=1]",
                     "-k", "hot or (decode and 0)", f"--benchmark-json={path}")  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return paths


def test_the_json_says_what_was_timed_on_what_at_which_commit(written: list[Path]) -> None:
    document = json.loads(written[0].read_text())
    names = {each["fullname"] for each in document["benchmarks"]}
    assert any("test_op[add[D=1,M=1]-cpu-hot]" in name for name in names)
    assert any("test_decode" in name for name in names)
    for each in document["benchmarks"]:
        info = each["extra_info"]
        assert info["verified"] is True and info["device"]["kind"] == "cpu" and "thread" in info["label"]
        assert len(info["commit"]) in (7, 40) and info["dirty"] in (True, False)
        assert len(each["stats"]["data"]) >= 6
    assert document["commit_info"]["id"] == document["benchmarks"][0]["extra_info"]["commit"]
    assert len(document["machine_info"]["devices_sha256"]) == 64


def test_both_commands_compare_the_files(written: list[Path]) -> None:
    a, b = map(str, written)
    command = [sys.executable, "-m", "pytest_benchmark", "compare", a, b]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "test_op" in done.stdout + done.stderr, done.stderr
    ours = kparity("bench", "compare", a, b, "--json", "-")
    rows = json.loads(ours.stdout)["rows"]
    assert ours.returncode == 0 and len(rows) >= 3 and all(row["ratio"] > 0 for row in rows), ours.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--kparity-backends", "liar-column", "--kparity-ops", "tgemv[K=640,M=9,N=33", "-k", "tgemv and hot"), 1,
         "output wrong"),
        (("--kparity-backends", "liar-nan", "-k", "prefill and 32"), 1, "cosine with the reference"),
        (("--kparity-ops", "tgemw"), 4, "no op case matches 'tgemw'"),
    ],
)  # fmt: skip
def test_what_is_wrong_fails(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = suite(*arguments, path=str(LIARS))
    assert done.returncode == code and words in done.stdout + done.stderr, done.stdout + done.stderr


def test_pytest_by_itself_does_not_run_benchmarks() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'testpaths = ["tests"]' in text
