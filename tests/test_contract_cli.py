"""``kparity contract`` as people and programs use it: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli import run
from tests.contract_project import DOCUMENT, ISSUE, document, make, write


def test_validate_says_one_line_per_problem_and_its_exit_code(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    unasked = run("contract", "validate", str(path.parent))
    assert unasked.returncode == 3 and f"runs code of {tmp_path}: --run allows it" in unasked.stderr
    good = run("contract", "validate", str(path.parent), "--run")
    assert good.stderr.startswith(f"runs code of {tmp_path}: ")
    assert "runs code of" in " ".join(run("contract", "validate", "--help").stdout.split())
    assert good.returncode == 0 and good.stdout == "contracts: 1, problems: 0\n", good.stdout + good.stderr
    contract = document()
    contract["proof_obligations"][0]["test"] = "test_mine.py::test_mny"
    write(path, contract)
    bad = run("contract", "validate", "--run", "--contracts", str(path.parent))
    problem, count = bad.stdout.splitlines()
    assert bad.returncode == 1 and count == "contracts: 1, problems: 1"
    where = f"{path}: proof_obligations.PO-MINE-1.test: "
    assert problem == f"{where}test_mine.py has no test test_mny; did you mean 'test_many'?"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("validate", "trace-parity"), "did you mean 'trace-parity-v1'"),
        (("validate", "no/such/place"), "no/such/place: no such file or folder"),
        (("show", "ladder-v2"), "did you mean 'ladder-v1'"),
        (("coverage", "--contracts", "tests/liars"), "has no *.yaml file"),
        (("check", "ladder-v1", "receipt-v1", "--evidence", "x.json"), "--evidence names one file, 2 contracts"),
        (("check", "README.md"), "README.md"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    done = run("contract", *arguments)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert said in done.stderr and done.stderr.startswith("kparity: ") and done.stderr.count("\n") == 1


def test_show_prints_everything_as_table_and_as_json(tmp_path: Path) -> None:
    path = make(tmp_path, document(known_issues=[ISSUE]))
    text = run("contract", "show", str(path)).stdout
    for word in ("mine-v1 1.0.0 (active)", "≤ 0.5", "FALSIFY-MINE-001", "PO-MINE-1", "H-MINE-1", "ISSUE-MINE-1"):
        assert word in text
    assert json.loads(run("contract", "show", str(path), "--json").stdout) == {**DOCUMENT, "known_issues": [ISSUE]}
    story = run("contract", "show", "trace-parity-v1").stdout
    titles = ("Fixes, either of", "Refuted hypotheses", "Five whys")
    assert all(word in story for word in (*titles, "trace_sample_size_parity", "PRE-TRACE-SAMPLE-SIZE"))


def test_check_runs_every_test_and_writes_what_it_saw(tmp_path: Path) -> None:
    contract = document(known_issues=[ISSUE])
    contract["falsification_tests"][0]["test"] = "test_mine.py::test_bad"
    contract["proof_obligations"][0]["test"] = "test_mine.py::test_some"
    contract["harnesses"][0]["test"] = "test_mine.py::test_nowhere"
    contract["harnesses"].append({**contract["harnesses"][0], "id": "H-MINE-2", "test": "test_mine.py::test_measured"})
    path = make(tmp_path, contract)
    place = tmp_path / "shown.json"
    done = run("contract", "check", str(path), "--evidence", str(place))
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("mine-v1: falsification_tests.FALSIFY-MINE-001.test: failed: test_mine.py::test_bad: ")
    assert "one is not two" in lines[0]
    assert lines[1].endswith("incomplete: test_mine.py::test_some: Skipped: no second device")
    assert lines[2].endswith("missing: test_mine.py::test_nowhere: no such test")
    assert lines[3] == f"mine-v1 1.0.0: 2 of 5 passed; evidence in {place}"
    shown = json.loads(place.read_text())
    outcomes = ["failed", "incomplete", "missing", "passed", "passed"]
    assert [entry["outcome"] for entry in shown["results"]] == outcomes
    said = "error = 0.25; printed: as\\x1bmeasured; 1 assertion held, the last: error <= 0.5: 0.25 <= 0.5"
    assert [entry["said"] for entry in shown["results"][3:]] == [
        said,
        '1 assertion held, the last: len("x") == 1: 1 == 1',
    ]
    assert set(shown["code"]) == {"*.py", "kparity"} and {"cpu"} <= set(shown["kinds"])
    assert shown["contract"] == {"id": "mine-v1", "version": "1.0.0"} and len(shown["devices_sha256"]) == 64
    assert shown["devices"]["cpu"].startswith("cpu (") and shown["command"].startswith("kparity contract check ")
    assert not (path.parent / "evidence").exists() and place.stat().st_mode & 0o777 == 0o644


def test_check_of_skips_alone_is_inconclusive(tmp_path: Path) -> None:
    contract = document()
    contract["falsification_tests"][0]["test"] = "test_mine.py::test_skipped"
    done = run("contract", "check", str(make(tmp_path, contract)))
    assert done.returncode == 3 and "skipped: test_mine.py::test_skipped: Skipped: no device here" in done.stdout
    assert "2 of 3 passed" in done.stdout


def test_check_outside_of_a_project_is_inconclusive(tmp_path: Path) -> None:
    path = make(tmp_path / "site-packages", document())
    done = run("contract", "check", str(path))
    assert done.returncode == 3 and "not checked: no project" in done.stderr and done.stdout == ""


def test_coverage_counts_and_adds_up(tmp_path: Path) -> None:
    first = make(tmp_path, document(known_issues=[ISSUE]))
    found = json.loads(run("contract", "coverage", str(first), "ladder-v1", "--json").stdout)
    mine, ladder = found["contracts"]
    assert (mine["functional"], mine["enforced"], mine["thresholds"], mine["open_issues"]) == (1, 1, 1, 1)
    assert (mine["tests"], mine["passed"]) == (4, 0)
    assert ladder["functional"] >= 8 and ladder["enforced"] == ladder["thresholds"] >= 31
    assert found["total"]["tests"] == mine["tests"] + ladder["tests"]
    table = run("contract", "coverage", str(first), "--markdown").stdout.splitlines()
    assert table[2].startswith("| mine-v1 | 1.0.0 | active | 0 | 1 | 0 |") and table[-1].startswith("| total |")
    assert "mine-v1" in run("contract", "coverage", str(first)).stdout
