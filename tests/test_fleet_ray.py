"""A round over a real Ray cluster of several raylets, whose nodes die or are taken away while it works."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from kparity.fleet.record import Begun, Ended, Line, Tried
from tests import ray_cluster
from tests.cli import run

ray_cluster.needed()
MARK = "418273"
WORK = ["--", "-o", "rope", "--quick", "--seed", MARK]


def tasks() -> set[int]:
    """The local commands that nodes run now."""
    found = set[int]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"\0kparity\0check\0-b\0cpu\0-o\0rope\0--quick\0--seed\0{MARK}\0".encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def waited(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether something holds after so long at most."""
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_ctrl_c_and_a_head_that_begins_anew_end_a_round_and_resume_accounts_for_every_device(tmp_path: Path) -> None:
    out = tmp_path / "fleet"
    words = ["--per", "node", "-b", "cpu", "--out", str(out), "--patience", "20s"]
    with ray_cluster.Raylets("one", "two") as cluster:
        command = [sys.executable, "-m", "kparity", "fleet", "check", "--address", cluster.address, *words]
        begun = subprocess.Popen([*command, *WORK], stderr=subprocess.PIPE, text=True)
        assert begun.stderr is not None
        for line in begun.stderr:
            if "2 of 2 tasks" in line:
                assert waited(lambda: len(tasks()) == 2)
                begun.send_signal(signal.SIGINT)
        assert begun.wait(60) == 130 and waited(lambda: not tasks()), "a task outlives its round"
        child = subprocess.Popen([*command, "--resume", *WORK], stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        said = list[str]()
        for line in child.stderr:
            said.append(line)
            if "2 of 2 tasks" in line:
                cluster.restart_head()
        code = child.wait(120)
    assert code == 3 and "have the cluster up again, and --resume" in said[-1], said
    assert not [line for line in said if "StackTrace" in line or "Traceback" in line]
    with ray_cluster.Raylets("one", "two") as cluster:
        done = run("fleet", "check", "--address", cluster.address, *words, "--resume", *WORK)
    assert done.returncode == 0 and "goes on" in done.stderr, done.stderr
    lines = [msgspec.json.decode(line, type=Line) for line in (out / "fleet.jsonl").read_bytes().splitlines()]
    last = {each.device: each.outcome for each in lines if isinstance(each, Tried)}
    assert last == {"one": "passed", "two": "passed"} and isinstance(lines[-1], Ended)
    assert [isinstance(each, Begun) for each in lines].count(True) == 1


@pytest.mark.slow
def test_a_node_that_dies_or_is_taken_away_is_named_or_run_again_and_no_device_is_silent(tmp_path: Path) -> None:
    out, names = tmp_path / "fleet", tmp_path / "names"
    names.write_text("one\ntwo\nthree\nfour\n")
    words = ["--per", "node", "-b", "cpu", "--out", str(out), "--expect", str(names), "--patience", "20s"]
    with ray_cluster.Raylets("one", "two", "three") as cluster:
        command = [sys.executable, "-m", "kparity", "fleet", "check", "--address", cluster.address, *words, *WORK]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        said = list[str]()
        for line in child.stderr:
            said.append(line)
            if "3 of 3 tasks have their place" in line:
                cluster.kill("two")
                cluster.preempt("three", 600.0)
            elif "three: its machine is being taken away" in line:
                cluster.kill("three")  # before it was due
                cluster.nodes["two"] = cluster.add("two")  # and three stays away
                cluster.nodes["spare"] = cluster.add("spare")
        code = child.wait(60)
    assert code == 3, said
    lines = [msgspec.json.decode(line, type=Line) for line in (out / "fleet.jsonl").read_bytes().splitlines()]
    assert isinstance(lines[0], Begun) and isinstance(lines[-1], Ended)
    tried = [(each.device, each.attempt, each.outcome) for each in lines if isinstance(each, Tried)]
    assert sorted(tried) == [
        ("four", 1, "missing"), ("one", 1, "passed"), ("spare", 1, "passed"), ("three", 1, "preempted"),
        ("two", 1, "lost"), ("two", 2, "passed"),
    ]  # fmt: skip
    done = run("fleet", "report", str(out), "--verify")
    assert done.returncode == 3 and "last round: 3 passed" in done.stdout, done.stdout
    assert "preempted" in done.stdout and "nothing in the cluster answers to its name" in done.stdout
