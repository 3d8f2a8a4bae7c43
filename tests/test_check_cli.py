"""``kparity check`` as a user runs it, on backends that crash, hang and lie."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kparity import ops
from kparity.check.runner import Sweep
from kparity.check.select import Selected
from kparity.process import Garbled
from tests.cli import run

LIARS = {
    "beyond": ("guard_changes", "wrote outside of its buffers: "),
    "one-nan": ("utilisation", "elements outside their limit"),
    "spoiler": ("input_changes", "bytes of its inputs"),
    "twice": ("launch_excess", "was not launched once in each of two runs"),
    "unsteady": ("repeat_differences", "two runs on outputs poisoned differently differ"),
    "crash-once": ("", "crashed (SIGSEGV) in this case"),
    "hang-once": ("", "no answer within 5 s"),
    "exit-once": ("", "the worker exited with 0 in this case: vendor library: giving up"),
    "no-compile": ("", "kernels/add/add.cu:3: undeclared"),
}
"""Liar → the threshold that it does not meet, and words of the reason; each lies in one case of four."""
HARMFUL = {"unlaunched", "faulty", "mortal"}
"""Liars that pass nothing."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One sweep over all of them, with an honest backend last."""
    folder = tmp_path_factory.mktemp("check")
    names = [f"liar-{name}" for name in (*LIARS, *sorted(HARMFUL), "choosy", "nothing")]
    paths = {name: folder / name for name in ("json", "junit", "csv")}
    done = run(
        "check", "--quick", "-o", "add", "-b", ",".join([*names, "cpu"]), "--case-timeout", "5",
        *(part for name, path in paths.items() for part in (f"--{name}", str(path))), liars=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return {"done": done, **{name: path.read_text(encoding="utf-8") for name, path in paths.items()}}


def of(swept: dict[str, Any], backend: str) -> list[dict[str, Any]]:
    return [each for each in json.loads(swept["json"])["records"] if each["backend"] == backend]


@pytest.mark.parametrize("liar", LIARS)
def test_a_liar_fails_in_its_case_and_the_sweep_goes_on(swept: dict[str, Any], liar: str) -> None:
    threshold, words = LIARS[liar]
    records = of(swept, f"liar-{liar}")
    failures = [each for each in records if each["outcome"] == "FAIL"]
    assert {each["case"] for each in failures} == {"add[D=257,M=3]"}
    assert words in failures[0]["reason"]
    assert not threshold or threshold in failures[0]["failed"]
    others = [each for each in records if each["case"] != "add[D=257,M=3]"]
    assert len(others) >= 20 and {each["outcome"] for each in others} == {"PASS"}


def test_an_honest_backend_passes_everything_and_one_that_is_always_wrong_nothing(swept: dict[str, Any]) -> None:
    assert {each["outcome"] for each in of(swept, "cpu")} == {"PASS"}
    for liar in HARMFUL:
        assert "PASS" not in {each["outcome"] for each in of(swept, f"liar-{liar}")}, liar


def test_after_three_deaths_the_rest_of_a_backend_is_skipped(swept: dict[str, Any]) -> None:
    records = of(swept, "liar-mortal")
    assert [each["outcome"] for each in records] == ["FAIL", "FAIL", "FAIL", "SKIPPED"]
    assert records[-1]["reason"] == "the worker died 3 times in cases of liar-mortal"


def test_what_is_not_supported_is_told_and_not_counted_as_a_pass(swept: dict[str, Any]) -> None:
    (left_out,) = [each for each in of(swept, "liar-choosy") if each["outcome"] != "PASS"]
    assert (left_out["outcome"], left_out["reason"]) == ("UNSUPPORTED", "257 is not a multiple of 2")
    assert {each["outcome"] for each in of(swept, "liar-nothing")} == {"UNSUPPORTED"}
    assert "UNSUPPORTED liar-choosy" in swept["done"].stdout


def test_every_denominator_adds_up(swept: dict[str, Any]) -> None:
    counts = json.loads(swept["json"])["counts"]
    whole = {each["runs"] for each in counts}
    assert len(whole) == 1, "every backend was asked for the same runs"
    for each in counts:
        assert each["PASS"] + each["FAIL"] + each["UNSUPPORTED"] + each["SKIPPED"] == each["runs"]


def test_the_files_can_be_read_and_failures_are_printed_with_the_bound(swept: dict[str, Any]) -> None:
    root = ET.fromstring(swept["junit"])
    assert sum(1 for _ in root.iter("testcase")) == len(json.loads(swept["json"])["records"])
    assert "undeclared" in swept["junit"] and swept["csv"].count("\n") > 100
    out, log = swept["done"].stdout, swept["done"].stderr
    assert "FAIL liar-one-nan: add[D=257,M=3] random" in out and "u·|y|" in out
    assert "more failures of liar-one-nan; --json, --junit and --csv have all of them" in out
    words = "FAIL liar-one-nan add[D=257,M=3] random: y: 3 of 771 elements outside their limit, worst at"
    assert words in log


def test_an_unsupported_backend_alone_is_inconclusive() -> None:
    done = run("check", "--quick", "-o", "add", "-b", "liar-nothing", liars=True)
    assert done.returncode == 3 and "INCONCLUSIVE: 0 PASS, 0 FAIL, 36 UNSUPPORTED" in done.stdout


def test_a_right_backend_is_green_and_two_runs_agree() -> None:
    documents = []
    for seed in ("3", "3", "4"):
        done = run("check", "-o", "add,rmsnorm", "-b", "cpu", "--quick", "-k", "random", "--seed", seed, "--json", "-")
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    keys = [[(r["inputs_sha256"], r["outputs"][0]["error"]) for r in each["records"]] for each in documents]
    assert keys[0] == keys[1] != keys[2]
    assert {each["kind"] for each in documents[0]["records"]} == {"random"}


@pytest.mark.parametrize("arguments", [("-k", "nothing-like-this"), ("-k", "nothing-like-this", "--list")])
def test_nothing_selected_is_never_green(arguments: tuple[str, ...]) -> None:
    assert run("check", "-b", "cpu", *arguments).returncode == 3


def test_a_named_backend_that_is_missing_is_inconclusive() -> None:
    done = run("check", "--quick", "-o", "add", "-b", "cpu,liar-missing", liars=True)
    assert done.returncode == 3 and "SKIPPED liar-missing, 36 runs: No module named" in done.stdout


def test_the_list_is_what_would_run() -> None:
    done = run("check", "--quick", "--list", "-o", "add", "-k", "D=1, and not random")
    assert done.returncode == 0 and "cases" in done.stderr
    lines = done.stdout.splitlines()
    assert lines and all(line.startswith("add[D=1,M=1] ") and "random" not in line for line in lines)


def test_a_time_limit_skips_the_rest_and_is_not_green() -> None:
    done = run("check", "-o", "add,tgemv", "-b", "cpu", "--max-seconds", "0.9")
    assert done.returncode == 3 and "the limit of 0.9 s was reached" in done.stdout


def test_fail_fast_stops_at_the_first_failure() -> None:
    done = run("check", "--quick", "-o", "add", "-b", "liar-faulty", "--fail-fast", "--json", "-", liars=True)
    outcomes = [each["outcome"] for each in json.loads(done.stdout)["records"]]
    assert done.returncode == 1 and outcomes[0] == "FAIL" and set(outcomes[1:]) == {"SKIPPED"}


def test_an_interrupt_leaves_a_marked_partial_result(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    command = [sys.executable, "-m", "kparity.cli.main", "check", "-b", "cpu", "-o", "add,tgemv", "--json", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first op is done
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    found = json.loads(path.read_text())
    assert process.returncode == found["exit_code"] == 130
    assert found["interrupted"] and "interrupted, the rest was skipped" in out
    assert {each["outcome"] for each in found["records"]} == {"PASS", "SKIPPED"}


@pytest.mark.parametrize("liar", ["garbles", "floods"])
def test_what_is_no_message_is_the_failure_of_its_case_and_not_the_end_of_the_sweep(liar: str) -> None:
    done = run("check", "-b", f"liar-{liar},numpy", "-o", "add", "--quick", liars=True)
    assert done.returncode == 1 and "no message" in done.stdout and "Traceback" not in done.stderr, done.stderr
    document = json.loads(run("check", "-b", "numpy", "-o", "add", "--quick", "--json", "-").stdout)
    assert document["exit_code"] == 0, "the cases of the other backend are not among the failures"
    assert "FAIL numpy" not in done.stdout


def test_the_parent_judges_what_a_worker_records() -> None:
    case = ops.get("add").cases()[0]
    chosen = Selected(case, ("random",))
    sweep = Sweep(["numpy"], [chosen])
    unit, record = sweep.units[0], next(Sweep(["numpy"], [chosen]).records())
    assert sweep._judged(unit, record).outcome == "PASS"
    wrong = replace(record, counts={**record.counts, "guard_changes": 3})
    assert sweep._judged(unit, wrong).outcome == "FAIL", "whatever the worker says of it"
    assert sweep._judged(unit, replace(record, outputs=())).outcome == "FAIL"
    for change in ({"backend": "cpu"}, {"case": "other"}, {"runs": 99}, {"seed": 5}):
        with pytest.raises(Garbled):
            sweep._judged(unit, replace(record, **change))
