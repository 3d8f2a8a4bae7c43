"""What takes long says so: on a terminal and in a log, and not at all where it is quick or unwanted."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.cli import run

WORK = """
import sys, time
from kparity.host import progress, streams
streams.guard()
progress.show({shown})
with progress.task("work", 4) as task:
    for stage in ("first", "second"):
        task.stage(stage, note="a note")
        task.advance()
        time.sleep({seconds})
        streams.log(f"log of {{stage}}" + " and on" * 20)
    with progress.task("inner[/]\\x1b"):
        time.sleep({seconds})
print("result")
"""
LOG = "log of {}" + " and on" * 20
"""Longer than the terminal is wide: it is not cut, and has no line ends of its own."""


def work(seconds: float, terminal: bool, shown: bool = True, stop: float = 0.0, **env: str) -> tuple[str, str, int]:
    """stdout, stderr and exit code of WORK; ``stop`` are the seconds after which it gets SIGINT."""
    here, there = pty.openpty() if terminal else os.pipe()
    there, here = (there, here) if terminal else (here, there)
    reader, writer = (here, there) if terminal else (there, here)
    child = subprocess.Popen(
        [sys.executable, "-c", WORK.format(seconds=seconds, shown=shown)], stdout=subprocess.PIPE, stderr=writer,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **env},
    )  # fmt: skip
    os.close(writer)
    if stop:
        time.sleep(stop)
        child.send_signal(signal.SIGINT)
    said = b""
    with suppress(OSError):  # the end of a terminal
        while data := os.read(reader, 65536):
            said += data
    os.close(reader)
    assert child.stdout
    return child.stdout.read().decode(), said.decode(), child.wait(60)


def test_a_terminal_has_a_bar_with_an_estimate_that_goes_away() -> None:
    out, said, code = work(1.6, terminal=True)
    assert (out, code) == ("result\n", 0)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert re.search(r"work: second; a note +[━╸╺]+ +50% 0:00:0[234] ", plain)
    assert "inner[/]\\x1b" in plain and LOG.format("first") in plain
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l"), "the cursor is hidden"
    assert said.rstrip("\r\n").endswith("\x1b[2K"), "the bar stays"


@pytest.mark.parametrize(("terminal", "env"), [(False, {}), (True, {"TERM": "dumb"}), (False, {"FORCE_COLOR": "1"})])
def test_elsewhere_a_stage_is_a_line_without_control_characters(terminal: bool, env: dict[str, str]) -> None:
    out, said, _ = work(1.6, terminal, **env)
    assert out == "result\n" and "\x1b" not in said
    lines = said.replace("\r\n", "\n").splitlines()
    assert [re.sub(r"\d s$", "", line) for line in lines] == [
        "work: first, 1 of 4, after ", LOG.format("first"), "work: second, 2 of 4, after ", LOG.format("second"),
        "inner[/]\\x1b, after ",
    ]  # fmt: skip


@pytest.mark.parametrize(("seconds", "shown"), [(0.1, True), (0.7, False)])
def test_what_is_quick_or_not_wanted_says_nothing(seconds: float, shown: bool) -> None:
    for terminal in (True, False):
        assert work(seconds, terminal, shown)[1].splitlines() == [LOG.format("first"), LOG.format("second")]


def test_an_interrupt_leaves_the_cursor() -> None:
    _, said, code = work(5, terminal=True, stop=3)
    assert code != 0 and "work: first" in said
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("check", "-o", "tgemv", "-b", "numpy"), r"^check: tgemv, \d+ of \d+, after \d+ s$"),
        (("mutate", "--backends", "numpy", "--op", "add", "--mutant", "difference"), r"^mutate(: |, \d+ of )"),
    ],
)
def test_a_command_that_takes_long_says_what_it_does_and_nowhere_else(command: tuple[str, ...], words: str) -> None:
    done = run(*command, progress=True)
    assert re.search(words, done.stderr, re.M), done.stderr
    assert ", after" not in done.stdout
