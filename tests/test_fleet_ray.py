"""A round over a real Ray cluster of several raylets, one of which is killed while it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kparity.fleet.record import Begun, Ended, Line, Tried
from tests import ray_cluster
from tests.cli import run

ray_cluster.needed()
PLACED = "3 of 3 tasks have their place"


@pytest.mark.slow
def test_a_head_that_begins_anew_is_a_sentence_and_resume_accounts_for_every_device(tmp_path: Path) -> None:
    out = tmp_path / "fleet"
    words = ["--per", "node", "-b", "cpu", "--out", str(out), "--patience", "20s", "--", "-o", "rope", "--quick"]
    with ray_cluster.Raylets("one", "two") as cluster:
        command = [sys.executable, "-m", "kparity", "fleet", "check", "--address", cluster.address, *words]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
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
        words[-4:-4] = ["--resume"]
        done = run("fleet", "check", "--address", cluster.address, *words)
    assert done.returncode == 0 and "goes on" in done.stderr, done.stderr
    lines = [msgspec.json.decode(line, type=Line) for line in (out / "fleet.jsonl").read_bytes().splitlines()]
    last = {each.device: each.outcome for each in lines if isinstance(each, Tried)}
    assert last == {"one": "passed", "two": "passed"} and isinstance(lines[-1], Ended)
    assert [isinstance(each, Begun) for each in lines].count(True) == 1


@pytest.mark.slow
def test_a_node_that_dies_is_named_or_run_again_and_no_device_is_silent(tmp_path: Path) -> None:
    out, names = tmp_path / "fleet", tmp_path / "names"
    names.write_text("one\ntwo\nthree\nfour\n")
    words = ["--per", "node", "-b", "cpu", "--out", str(out), "--expect", str(names), "--patience", "20s"]
    work = ["--", "-o", "rope", "--quick"]
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    with ray_cluster.Raylets("one", "two", "three") as cluster:
        command = [sys.executable, "-m", "kparity", "fleet", "check", "--address", cluster.address, *words, *work]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        assert child.stderr is not None
        said = list[str]()
        for line in child.stderr:
            said.append(line)
            if PLACED in line:
                cluster.kill("two")
                cluster.kill("three")
                cluster.nodes["two"] = cluster.add("two")  # and three stays away
        code = child.wait(60)
    assert code == 3, said
    lines = [msgspec.json.decode(line, type=Line) for line in (out / "fleet.jsonl").read_bytes().splitlines()]
    assert isinstance(lines[0], Begun) and isinstance(lines[-1], Ended)
    tried = [(each.device, each.attempt, each.outcome) for each in lines if isinstance(each, Tried)]
    assert sorted(tried) == [
        ("four", 1, "missing"), ("one", 1, "passed"), ("three", 1, "lost"), ("two", 1, "lost"), ("two", 2, "passed"),
    ]  # fmt: skip
    done = run("fleet", "report", str(out), "--verify")
    assert done.returncode == 3 and "last round: 2 passed" in done.stdout, done.stdout
    assert "health check" in done.stdout and "nothing in the cluster answers to its name" in done.stdout
