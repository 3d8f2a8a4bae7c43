"""Children that report: whole lines in order, and how each of them ends."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kparity import processes
from kparity.processes import Reporter

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a child with a request, and closes it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    children = []

    def started(*lines: str, **request: Any) -> Reporter:
        child = Reporter("tests.reporting", {})
        children.append(child)
        processes.send(child.process.stdin, json.dumps({"pipe": child.pipe, "lines": lines, **request}).encode())
        return child

    yield started
    for child in children:
        child.close()
        assert child.process.returncode is not None
        child.close()


def test_lines_come_whole_and_in_order(start: Any) -> None:
    child = start("a", "", "x" * 3 * processes.READ_BYTES, "ü")
    lines = [child.line(60) for _ in range(5)]
    assert lines == [b"a", b"", b"x" * 3 * processes.READ_BYTES, "ü".encode(), None]
    assert child.ended("this test") == "the worker exited with 0 in this test: vendor library: hello"


def test_half_a_line_is_none(start: Any) -> None:
    child = start("a", rest="b", code=7)
    assert [child.line(60), child.line(60)] == [b"a", None]
    assert child.ended("this test").startswith("the worker exited with 7 in this test")


def test_a_child_that_works_has_not_ended(start: Any) -> None:
    child = start("a", before_s=600)
    assert child.line(60) == b"a"
    began = time.monotonic()
    assert child.line(0.2) is None and child.ended("this test") == ""
    assert 0.2 <= time.monotonic() - began < 5


def test_a_child_has_time_to_end_after_its_last_line(start: Any) -> None:
    child = start(after_s=0.5, code=3)
    assert child.line(60) is None and child.ended("this test").startswith("the worker exited with 3")


def test_a_child_that_never_ends_is_told(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "EXIT_SECONDS", 0.2)
    child = start(after_s=600)
    assert child.line(60) is None
    assert child.ended("this test") == "the worker closed its pipe in this test and did not end"


def test_what_a_child_started_ends_with_it(start: Any) -> None:
    child = start(sleeper=True, before_s=600)
    sleeper = int(child.line(60))
    os.kill(sleeper, 0)
    child.close()
    until = time.monotonic() + 10
    while _runs(sleeper):
        assert time.monotonic() < until
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_parent_s_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}

    def kept(module: str, log: Any, environment: dict[str, str], pass_fds: tuple[int, ...]) -> Any:
        found.update(environment)
        raise InterruptedError

    monkeypatch.setattr(processes, "start", kept)
    monkeypatch.setenv("KPARITY_A", "parent")
    with pytest.raises(InterruptedError):
        Reporter("tests.reporting", {"KPARITY_A": "default", "KPARITY_B": "default"})
    assert (found["KPARITY_A"], found["KPARITY_B"]) == ("parent", "default")
