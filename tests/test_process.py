"""Child processes: typed messages within their size, deadlines that hold, and nothing that outlives the parent."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kparity.engine import Engine
from kparity.errors import WrongInput
from kparity.host.text import printable
from kparity.model import load_model
from kparity.process import Child, Done, Family, Garbled, Stage, Tick

ROOT = Path(__file__).resolve().parent.parent
KIND = Stage | Tick | Done


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Family() as family:
        yield family


@pytest.fixture
def start(family: Family) -> Callable[..., Child[Any]]:
    """Starts a child with requests; the family ends it."""

    def started(*requests: tuple[str, Any]) -> Child[Any]:
        child: Child[Any] = Child(family, "tests.process_children", KIND)
        for kind, value in requests:
            child.send({"do": kind, "value": value})
        return child

    return started


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(holds: Callable[[], bool], within: float = 10.0) -> bool:
    """Whether something holds before long."""
    until = time.monotonic() + within
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


def gone(*pids: int) -> bool:
    """Whether processes end soon."""
    return soon(lambda: not any(map(runs, pids)))


def test_messages_come_whole_and_in_order(start: Any) -> None:
    child = start(("say", "a"), ("say", "ü" * 200), ("stage", "b"), ("done", 0), ("exit", 0))
    assert [child.receive(60) for _ in range(2)] == [Tick("a"), Tick("ü" * 200)]
    assert child.receive(60).stage == "b" and child.receive(60) == Done() and child.receive(60) is None
    assert child.over and child.ended("this test") == "the worker exited with 0 in this test: vendor library: hello"


NO_MESSAGES = (
    "no json", "{}", '{"type":"tick"', '{"type":"unheard of"}', '{"type":"tick","note":7}', '{"type":"tick","more":1}',
    '{"type":"stage","stage":"a","at_ms":"1"}', '{"type":"tick","note":"' + "x" * 400 + '"}', "[" * 100_000,
    "\x1b[31m\u202e",
)  # fmt: skip


@pytest.mark.parametrize("line", NO_MESSAGES)
def test_what_is_no_message_is_garbled_and_quoted_without_tricks(start: Any, line: str) -> None:
    child = start(("raw", line + "\n"))
    with pytest.raises(Garbled) as told:
        child.receive(60)
    assert str(told.value) == printable(str(told.value)) and len(str(told.value)) < 1000


@pytest.mark.alone
@pytest.mark.parametrize(("pieces", "words", "seconds"), [(20_000, "more than 4 MiB", 30), (48, "is no message", 5)])
def test_a_long_line_ends_at_its_limit_and_is_searched_once(start: Any, pieces: int, words: str, seconds: int) -> None:
    """More than a gigabyte without an end; and 3 MiB in pieces of 64 KiB, which are not searched anew each time."""
    child, began = start(("flood", pieces), ("raw", "\n")), time.monotonic()
    with pytest.raises(Garbled, match=words):
        child.receive(60)
    assert time.monotonic() - began < seconds and len(child._rest) == 0


@pytest.mark.alone
def test_a_deadline_holds_while_bytes_flow(start: Any) -> None:
    child = start(("say", "a"), ("drip", 0))
    assert child.receive(60) == Tick("a")
    began = time.monotonic()
    assert child.receive(0.5) is None
    assert 0.5 <= time.monotonic() - began < 2


def test_how_a_child_ends_and_its_last_words_are_told(start: Any) -> None:
    seven = start(("raw", "half a message"), ("exit", 7))
    assert seven.receive(60) is None and seven.ended("x").startswith("the worker exited with 7 in x")
    works = start(("say", "a"), ("wait", 600))
    assert works.receive(60) == Tick("a") and works.receive(0.1) is None and works.ended("x") == ""
    with works.log.open("ab") as file:
        file.write(b"y" * (64 << 20) + b"\nlast \x1b[31m words\n")
    assert works.last_words() == "last \\x1b[31m words", "of a huge log the end is read"
    killed = start(("wait", 600))
    os.kill(killed.process.pid, signal.SIGSEGV)
    assert killed.receive(60) is None and "crashed (SIGSEGV) in x" in killed.ended("x")


@pytest.mark.parametrize("how", ["group", "session"])
def test_what_a_child_started_ends_with_the_family(how: str, family: Family, start: Any) -> None:
    child = start(("start", how), ("exit", 0))
    pid = int(child.receive(60).stage)
    assert child.receive(60) is None, "a grandchild that holds the pipe does not keep the child alive"
    assert runs(pid)
    child.close()
    family.close()
    assert gone(pid) and not family.folder.exists()


PARENT = """
import sys, time
from kparity.process import Child, Family, Stage, Tick, Done
with Family() as family:
    child = Child(family, "tests.process_children", Stage | Tick | Done)
    child.send({"do": "start", "value": "session"})
    print(child.receive(60).stage, child.process.pid, family.folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["KILL", "TERM", "HUP", "INT"])
def test_nothing_outlives_the_parent_whatever_ends_it(how: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    grandchild, child, folder = process.stdout.readline().split()
    assert Path(folder).is_dir() and runs(int(child)) and runs(int(grandchild))
    process.send_signal(getattr(signal, f"SIG{how}"))
    process.wait(20)
    process.stdout.close()
    assert gone(int(child), int(grandchild)) and soon(lambda: not list(tmp_path.iterdir()))


@pytest.mark.parametrize(("how", "code"), [("TERM", 143), ("HUP", 129), ("INT", 130)])
def test_a_command_cleans_up_whatever_ends_it(how: str, code: int, tmp_path: Path) -> None:
    liars = os.pathsep.join([str(ROOT / "tests" / "liars"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": liars, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "kparity.cli.main", "probe", "--backends", "liar-hang,cpu"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert soon(lambda: any(tmp_path.glob("kparity-*/*.log")), 30)
    time.sleep(0.5)
    process.send_signal(getattr(signal, f"SIG{how}"))
    _, said = process.communicate(timeout=20)
    assert process.returncode == code and said.endswith("kparity: interrupted\n"), said
    assert list(tmp_path.iterdir()) == []


def test_an_engine_of_another_process_raises_at_once() -> None:
    from kparity.backends.cpu import CpuBackend

    engine = Engine(load_model(), CpuBackend())
    engine.step(1)
    pid = os.fork()
    if pid == 0:
        answers = []
        for use in (lambda: engine.step(1), lambda: engine.prefill([1, 2]), engine.best, engine.close):
            with pytest.raises(WrongInput, match="was opened by process"):
                use()
            answers.append(True)
        os._exit(0 if len(answers) == 4 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    engine.close()


@pytest.mark.parametrize(("limit", "advice"), [("-n 12", "ulimit -n 256"), ("-f 0", "set TMPDIR")])
def test_what_the_system_does_not_give_is_a_sentence_with_a_way_out(limit: str, advice: str) -> None:
    line = f"ulimit {limit}; exec {shlex.quote(sys.executable)} -m kparity.cli.main probe -b cpu --depth bos -q"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
    told = [each for each in done.stderr.splitlines() if not re.search(r", after \d+ s$", each)]
    assert done.returncode == 2 and len(told) == 1 and advice in told[0], done.stderr
