"""What continuous integration gets: JUnit of a probe, annotations, summaries, --lf, workflows to copy."""

from __future__ import annotations

import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kparity.cli.main import cli
from kparity.gates.table import GATES
from kparity.gates.verdict import Gate, Measure, Row
from kparity.host import ci as host_ci
from kparity.probe import ci
from tests.cli import run

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "a|b <script>\x1b[31m\r\n::error::forged, 100%: x"
DEVICE = {"device": "NVIDIA|<b>Card</b>", "kind": "gpu"}
PASSED = [Gate(each.name, "PASS", [Measure("bos_cosine", 1.0, 0.99, "≥", True)], elapsed_ms=5) for each in GATES]
WRONG = Gate("BOS", "FAIL", [Measure("bos_cosine", 0.5, 0.99, "≥", False)], "KP-BOS-COSINE", HOSTILE)
ROWS = [
    Row("cuda", "unavailable", "KP-CUDA-NODRIVER", "no CUDA driver"),
    Row("hip", "rejected", "KP-BOS-COSINE", HOSTILE, DEVICE, gates=[PASSED[0], WRONG]),
    Row("wgpu", "rejected", "KP-PROBE-CRASH", "crashed with SIGSEGV", DEVICE, gates=PASSED[:3]),
    Row("cpu", "accepted", device=DEVICE, label="cpu (AVX2)", gates=PASSED),
    Row("numpy", "accepted", device=DEVICE, depth="bos", gates=[*PASSED[:2], Gate("exact", "INCONCLUSIVE")]),
]


def test_junit_of_a_probe_has_a_suite_per_backend_and_a_test_per_gate() -> None:
    suites = {suite.get("name", "").split()[-1]: suite for suite in ET.fromstring(ci.as_junit(ROWS))}
    counts = {name: tuple(suite.get(key) for key in ("tests", "failures", "skipped")) for name, suite in suites.items()}
    every = len(GATES)
    assert counts == {
        "cuda": ("1", "0", "1"), "hip": (str(every), "1", str(every - 2)), "wgpu": (str(every), "1", str(every - 4)),
        "cpu": (str(every), "0", "0"), "numpy": ("3", "0", "1"),
    }  # fmt: skip
    (failure,) = suites["hip"].iter("failure")
    assert "bos_cosine: 0.5 ≥ 0.99  FAIL" in str(failure.text) and failure.get("type") == "KP-BOS-COSINE"
    assert "KP-CUDA-NODRIVER" in str(next(suites["cuda"].iter("skipped")).get("message"))
    assert "SIGSEGV" in str(next(suites["wgpu"].iter("failure")).get("message"))


SHAPES = {
    "testsuites": ("", "name time tests failures errors", "testsuite"),
    "testsuite": ("name tests", "failures errors skipped time timestamp hostname id package", "testcase"),
    "testcase": ("name classname", "time status assertions", "skipped error failure system-out system-err"),
    "failure": ("", "message type", ""),
    "skipped": ("", "message", ""),
}
"""Element → attributes that it must have, that it may have, and its children: what pytest writes and Jenkins takes
(junit-10.xsd of its xunit plugin)."""


def assert_junit(text: str) -> None:
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        must, may, children = (set(each.split()) for each in SHAPES[element.tag])
        assert must <= {*element.attrib} <= must | may and {child.tag for child in element} <= children
        assert re.fullmatch(r"\d+\.\d{1,3}", element.get("time", "0.0")), "more than milliseconds are refused"
    for suite in root:
        for name, count in (("tests", len(suite)), *((f"{tag}s", len([*suite.iter(tag)])) for tag in ("failure",))):
            assert suite.get(name) == str(count)
        assert suite.get("skipped") == str(len([*suite.iter("skipped")])) and len(suite)


def test_junit_is_what_servers_take_whatever_the_text() -> None:
    evil = f"{HOSTILE} ]]> <failure/> \x00\ufffe\ud800 &amp; \U0001f600"
    tests = [host_ci.Test(evil, evil, 1.23456, evil, evil, evil), host_ci.Test(evil, evil, 7e-7, skipped=evil)]
    assert_junit(text := host_ci.junit("x", 1e6, {evil: tests}))
    (failure,) = ET.fromstring(text.encode()).iter("failure")
    assert "]]> <failure/> \ufffd\ufffd\ufffd &amp; \U0001f600" in str(failure.text)
    assert_junit(ci.as_junit(ROWS))
    assert_junit(run("check", "-o", "add", "-b", "liar-one-nan,cuda", "--quick", "--junit", "-", liars=True).stdout)


def test_annotations_and_the_summary_let_no_text_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    ci.to_github(ROWS, "cpu")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["::warning", "::error", "::error", "::notice"]
    assert lines[1].startswith("::error title=kparity probe%3A hip rejected::KP-BOS-COSINE: a|b <script>")
    assert lines[1].endswith("%0D%0A::error::forged, 100%25: x")
    text = summary.read_text()
    assert text.startswith("before\n### kparity probe\n") and "<b>" not in text and "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(ROWS) and {line.count("|") for line in rows} == {len(ci.COLUMNS) + 1}
    assert host_ci.annotation("error", "a,b:c%\n", "x") == "::error title=a%2Cb%3Ac%25%0A::x"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    ci.to_github([], "")
    assert "no backend may serve" in (said := capsys.readouterr().err) and "cannot be written" in said


def test_what_failed_last_time_runs_alone_and_what_passes_is_forgotten(tmp_path: Path) -> None:
    def check(*options: str) -> tuple[str, str]:
        env = {"XDG_CACHE_HOME": str(tmp_path), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
        done = run("check", "--quick", "-o", "add", *options, liars=True, env=env)
        return done.stdout, done.stderr

    out, log = check("-b", "cpu", "--lf")
    assert "nothing of this failed last time: all of it runs" in log and "36 PASS" in out
    out, log = check("-b", "liar-one-nan,cpu", "--github")
    failed = int(re.findall(r"(\d+) FAIL", out)[0])
    assert log.count("::error title=kparity check%3A liar-one-nan add::") == min(failed, 10)
    assert "| liar-one-nan | 4 | 36 |" in (tmp_path / "summary.md").read_text()
    out, log = check("--lf")
    assert f"{failed} runs failed last time: only these run" in log
    assert f"0 PASS, {failed} FAIL, 0 UNSUPPORTED, 0 SKIPPED of {failed} runs on liar-one-nan" in out
    out, _ = check("--lf", "-x")
    assert re.search(r"0 PASS, 1 FAIL, 0 UNSUPPORTED, \d+ SKIPPED", out)
    kept = tmp_path / "kparity" / "check" / "failed.json"
    kept.write_text(kept.read_text().replace("liar-one-nan", "cpu"))  # as if it had been repaired
    out, _ = check("--lf")
    assert f"{failed} PASS, 0 FAIL" in out and kept.read_text() == "[]"


# --- the workflows to copy ---


def scripts(part: Any) -> Iterator[str]:
    """Every shell script of a workflow, of GitHub's or GitLab's form."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part if isinstance(part, list) else ()):
        if key == "run" and isinstance(value, str):
            yield value
        elif key in ("script", "before_script"):
            yield "\n".join(value)
        else:
            yield from scripts(value)


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_every_command_of_a_workflow_is_one_of_this_version(name: str) -> None:
    texts = [*scripts(yaml.safe_load((ROOT / "examples" / "ci" / name).read_text()))]
    commands = []
    for text in texts:
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)
        commands += [line.partition("||")[0] for line in text.splitlines() if line.startswith("kparity ")]
    assert len(commands) >= 5
    for command in commands:
        _, word, *arguments = shlex.split(command)
        found = cli.get_command(click.Context(cli), word)
        assert found, command
        found.make_context(word, arguments)  # raises where it does not know an option or a value
