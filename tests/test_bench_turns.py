"""Who is measured when: turns in rotating order, slow engines left out with the reason, dead ones left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from kparity.bench import endtoend
from kparity.bench.endtoend import EndToEndRun, Request
from kparity.errors import WrongInput
from kparity.process.worker import WorkerFailed
from tests.gguf_files import TINY, Spec, write


class Fake:
    """A worker without a process: answers at once, with the speed of its name, and notes every call."""

    calls: ClassVar[list[tuple[str, str, Any]]] = []
    pace: ClassVar[dict[str, float]] = {"fast": 1e-5, "slow": 1.0, "dies": 1e-5}

    def __init__(self, name: str, factory: str, options: dict[str, Any]) -> None:
        self.name, self.count = name, 0

    def opened(self, seconds: float) -> None:
        """As a worker does."""
        if self.name == "absent":
            raise WorkerFailed("unavailable", "KP-TEST", "not there")

    def close(self) -> None:
        """Nothing to end."""
        self.calls.append((self.name, "close", None))

    def rest(self) -> None:
        """Nothing of it spins."""

    def call(self, method: str, seconds: float, **arguments: Any) -> Any:
        """What the child would answer."""
        self.calls.append((self.name, method, arguments.get("length")))
        if method == "about":
            return {"label": self.name, "device_clock": False}
        if method == "bandwidth":
            return {"what": "streaming read", "bytes": 8, "seconds": 1.0}
        if method == "decode" and self.name == "dies":
            self.count += 1
            if self.count > 3:
                raise WorkerFailed("died", "KP-WORKER-DIED", "crashed (SIGSEGV) in decode")
        if method == "write_outputs" and self.name == "reference" and Fake.pace.get("reference"):
            raise WorkerFailed("rejected", "KP-UNSUPPORTED", "too wide")
        tokens = arguments.get("length", 1) if method == "prefill" else 1
        found = {"seconds": [tokens * self.pace.get(self.name, 0)], "joules": None, "digest": "d"}
        return found if method in ("prefill", "decode") else {}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a request with fakes; returns what was found and who was called."""
    path = write(tmp_path / "m.gguf", Spec(**{**vars(TINY), "arch": "bitnet"}))
    monkeypatch.setattr(endtoend, "Worker", Fake)
    monkeypatch.setattr(endtoend, "TURN_S", 0.0)
    monkeypatch.setattr(Fake, "calls", [])

    def ran(*names: str, **more: Any) -> Any:
        request = Request(str(path), names, **{"prompts": (16, 64), "depths": (0, 32), "seconds": 20.0, **more})
        return EndToEndRun(request, lambda line: None).run()

    return ran


def test_engines_take_turns_and_none_always_follows_another(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endtoend, "converged", lambda seconds: len(seconds) >= 4)
    found = bench("fast", "other", "third", prompts=(16,), depths=())
    order = [name for name, method, _ in Fake.calls if method == "prefill"]
    a, b, c = "fast", "other", "third"
    assert order[3:] == [a, b, c, b, c, a, c, a, b, a, b, c], "after a warm-up of each"
    assert [len(samples.seconds) for engine in found.engines for samples in engine.samples.values()] == [4, 4, 4]
    closed = [name for name, method, _ in Fake.calls if method == "close"]
    assert sorted(closed) == ["fast", "other", "reference", "third"]


def test_the_cache_is_filled_once_and_every_depth_warmed_the_shallow_first(bench: Any) -> None:
    bench("fast", prompts=())
    calls = [(method, at) for _, method, at in Fake.calls if method in ("fill", "decode")]
    assert calls[:3] == [("fill", 32), ("decode", 0), ("decode", 32)]
    assert [method for method, _ in calls].count("fill") == 1


def test_what_would_take_too_long_is_left_out_with_the_reason(bench: Any) -> None:
    slow, fast = bench("slow", "fast").engines
    assert [each.name for each in slow.skipped] == ["pp64", "tg@32"]
    assert slow.skipped[0].reason == "64 tokens would take about 64 s, all points have 20 s"
    assert {point.name for point in slow.samples} == {"pp16", "tg@0"} and not slow.errors
    assert {point.name for point in fast.samples} == {"pp16", "pp64", "tg@0", "tg@32"} and not fast.skipped
    assert [each.name for each in bench("fast", prompts=(16, 500)).engines[0].skipped] == ["pp500"]


def test_an_engine_that_dies_or_does_not_open_leaves_the_others_running(bench: Any) -> None:
    found = bench("dies", "absent", "fast")
    dies, fast = found.engines
    assert dies.errors == ["crashed (SIGSEGV) in decode"] and not fast.errors
    assert found.unopened["absent"].code == "KP-TEST"
    assert all(len(samples.seconds) >= 2 for samples in fast.samples.values()) and len(fast.samples) == 4
    after = [name for name, method, _ in Fake.calls if method == "conclude"]
    assert set(after) == {"fast"}, "a dead engine is not asked"


def test_without_a_backend_nothing_runs_and_a_failing_reference_is_said(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench().engines == [] and Fake.calls == []
    monkeypatch.setitem(Fake.pace, "reference", 1.0)
    with pytest.raises(WrongInput, match=r"the reference \(.*\) does not run this model: too wide"):
        bench("fast")
