"""``--ctrf`` and ``--sarif``: the tests of ``--junit`` in other forms, whatever the text."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from kparity.host import ci
from tests.cli import run

HOSTILE = "a\x1b[31m \u202e \ud800 ]]> \n b"
TESTS = [
    ci.Test("cpu.add", HOSTILE, 1.5, failure=HOSTILE, type="utilisation", details="one\ntwo"),
    ci.Test("cpu.add", "b", 0.25), ci.Test("cpu.add", "c", 0.0, skipped=HOSTILE),
    ci.Test("python.add", "d", 0.0, failure="ValueError (a b.py:17)", place="a b.py"),
    ci.Test("python.add", "e", 0.0, failure="it died", place="a b.py"),
]  # fmt: skip


def test_ctrf_has_every_test_and_its_counts_add_up() -> None:
    whole = json.loads(ci.ctrf("kparity", 2.0, {HOSTILE: TESTS}).encode("utf-8"))
    results = whole["results"]
    summary = results["summary"]
    assert whole["reportFormat"] == "CTRF" and results["tool"]["name"] == "kparity"
    assert [each["status"] for each in results["tests"]] == ["failed", "passed", "skipped", "failed", "failed"]
    words = ("passed", "failed", "skipped", "pending", "other")
    assert [summary[word] for word in words] == [1, 3, 1, 0, 0] and sum(map(summary.get, words)) == summary["tests"]
    assert summary["stop"] - summary["start"] == 2000 and results["tests"][0]["duration"] == 1500
    assert results["tests"][0]["trace"] == "one\ntwo" and "message" not in results["tests"][1]
    assert not {"\x1b", "\u202e", "\n"} & {*json.dumps(results["tests"][0]["message"])}


def test_sarif_has_a_result_for_each_failure_at_its_line() -> None:
    (found,) = json.loads(ci.sarif("kparity", {"x": TESTS}).encode("utf-8"))["runs"]
    rules = [each["id"] for each in found["tool"]["driver"]["rules"]]
    assert rules == ["utilisation", "failure"] and len(found["results"]) == 3
    assert [rules[each["ruleIndex"]] == each["ruleId"] for each in found["results"]] == [True] * 3
    places = [each["locations"][0].get("physicalLocation") for each in found["results"]]
    assert places == [
        None,
        {"artifactLocation": {"uri": "a%20b.py"}, "region": {"startLine": 17}},
        {"artifactLocation": {"uri": "a%20b.py"}, "region": {"startLine": 1}},
    ]


def test_check_writes_the_same_tests_in_every_form(tmp_path: Path) -> None:
    kernel = tmp_path / "mine.py"
    kernel.write_text("def f(a, b):\n    return a @ b\n", encoding="utf-8")
    paths = {form: tmp_path / form for form in ("junit", "ctrf", "sarif")}
    given = [word for form, path in paths.items() for word in (f"--{form}", str(path))]
    done = run("check", f"{kernel}:f", "--op", "add", "-k", "D=257,M=3", *given)
    assert done.returncode == 1, done.stderr
    cases = [*ET.parse(paths["junit"]).getroot().iter("testcase")]
    tests = json.loads(paths["ctrf"].read_text("utf-8"))["results"]["tests"]
    assert [f"{each.get('classname')} {each.get('name')}" for each in cases] == [each["name"] for each in tests]
    results = json.loads(paths["sarif"].read_text("utf-8"))["runs"][0]["results"]
    assert len(results) == len(cases) > 1
    (place,) = {json.dumps(each["locations"][0]["physicalLocation"]) for each in results}
    assert json.loads(place) == {"artifactLocation": {"uri": str(kernel)}, "region": {"startLine": 2}}


def test_probe_writes_them_too(tmp_path: Path) -> None:
    paths = [tmp_path / "ctrf", tmp_path / "sarif"]
    done = run("probe", "-b", "liar-crash,numpy", "--depth", "bos", "--ctrf", str(paths[0]), "--sarif", str(paths[1]),
               liars=True)  # fmt: skip
    ctrf, sarif = (json.loads(path.read_text("utf-8")) for path in paths)
    assert done.returncode in (1, 3) and ctrf["results"]["summary"]["failed"] == len(sarif["runs"][0]["results"]) == 1
    assert {each["status"] for each in ctrf["results"]["tests"]} >= {"passed", "failed"}
