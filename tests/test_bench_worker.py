"""A benchmark's worker process: what fails costs a call or the worker, never the run; and how it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kparity.process.worker import REST_S, Worker, WorkerFailed

ROOT = Path(__file__).resolve().parent.parent


pytestmark = pytest.mark.alone


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Starts workers with a ``Faulty`` and closes them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    workers = []

    def started(fault: str = "") -> Worker:
        workers.append(Worker("faulty", "tests.bench_workers:Faulty", {"fault": fault}))
        return workers[-1]

    yield started
    for worker in workers:
        worker.close()
        assert worker.process.returncode is not None


def test_a_worker_answers_in_order_and_libraries_may_print(start) -> None:
    worker = start()
    worker.opened(60)
    assert worker.call("echo", 60, value={"a": [1.5, None]}) == [{"a": [1.5, None]}, 1]
    assert worker.call("echo", 60, value="x" * 200_000) == ["x" * 200_000, 2]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor times of others are told in /proc")
def test_a_turn_ends_when_the_threads_of_a_worker_rest(start) -> None:
    worker = start()
    worker.opened(60)
    worker.rest()
    worker.call("spin", 60, for_s=1.0)
    began = time.monotonic()
    worker.rest()
    assert 0.8 < time.monotonic() - began < REST_S
    began = time.monotonic()
    worker.call("spin", 60, for_s=60.0)
    worker.rest()
    assert REST_S <= time.monotonic() - began < REST_S + 2, "it is not waited for without end"


def test_a_call_that_raises_costs_the_call(start) -> None:
    worker = start()
    worker.opened(60)
    for method, words in (("error", "ZeroDivisionError"), ("not_a_number", "ValueError"), ("no_such", "Attribute")):
        with pytest.raises(WorkerFailed, match=words) as told:
            worker.call(method, 60)
        assert told.value.status == "rejected" and told.value.code == "KP-PROBE-ERROR"
    assert worker.call("echo", 60, value=1) == [1, 1], "the worker goes on"


def test_what_does_not_open_says_why(start) -> None:
    with pytest.raises(WorkerFailed, match="no such device") as told:
        start("unavailable").opened(60)
    assert (told.value.status, told.value.code) == ("unavailable", "KP-TEST-NODEVICE")
    with pytest.raises(WorkerFailed, match=r"exited with 7 in open: vendor library: hello") as told:
        start("exit").opened(60)
    assert (told.value.status, told.value.code) == ("died", "KP-WORKER-DIED")


@pytest.mark.parametrize(
    ("method", "limit", "words"),
    [
        ("crash", 60, r"crashed \(SIGSEGV\) in crash: vendor library: about to fall"),
        ("hang", 0.5, r"no answer within 0.5 s, ended in hang"),
        ("garble", 60, r"no message in garble: '\[INFO\] tuning' is no message"),
    ],
)
def test_what_ends_a_worker_is_told_and_stays(start, method: str, limit: float, words: str) -> None:
    worker = start()
    worker.opened(60)
    for call, more in ((method, {}), ("echo", {"value": 1})):
        with pytest.raises(WorkerFailed, match=words) as told:
            worker.call(call, limit, **more)
        assert told.value.status == "died" and worker.process.poll() is not None
