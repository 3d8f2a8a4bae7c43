"""``kparity.select``: the Python side of the dispatcher."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import kparity
from kparity.errors import Refused
from kparity.gates.verdict import Gate, Row
from kparity.probe import cache, runner
from kparity.probe.messages import Request
from tests.cli import LOADED, TAG

NO_GPU = not any(Path("/dev").glob("nvidia*"))


def test_the_first_good_backend_is_opened_and_serves() -> None:
    lines: list[str] = []
    chosen = kparity.select(["hip", "cpu"], log=lines.append)
    assert chosen.name == "cpu" and [row.backend for row in chosen.rows] == ["hip", "cpu"]
    assert chosen.rows[0].code.startswith("KP-HIP-") and chosen.rows[1].accepted
    assert lines[0].startswith(f"[{TAG}] hip path rejected, attempting fallback: [KP-HIP-")
    assert lines[1] == f"Backend: {chosen.backend.info.label}, proved to position 511"
    assert len(list(chosen.engine.generate(chosen.engine.model.tokenizer.encode("And"), 4))) > 0
    chosen.close()


@pytest.mark.skipif(not NO_GPU, reason="this host has an NVIDIA device")
def test_a_required_backend_refuses() -> None:
    lines: list[str] = []
    with pytest.raises(Refused, match="cuda was required and may not serve; nothing was downgraded"):
        kparity.select(["cpu"], require="cuda", log=lines.append)
    assert len(lines) == 1 and "refusing, it was required: [KP-CUDA-" in lines[0]


def test_no_backend_left() -> None:
    lines: list[str] = []
    with pytest.raises(Refused, match="no backend of cpu,numpy may serve"):
        kparity.select(["cpu", "numpy"], require_gpu=True, log=lines.append)
    assert "attempting fallback: [KP-NOT-GPU]" in lines[0] and "no backend left: [KP-NOT-GPU]" in lines[1]


def test_what_says_more_of_the_moment_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keys, opened = cache.Keys(Request()), [Gate("open", "PASS")]

    def remembered(row: Row) -> bool:
        cache.put(keys, runner.Found(row, None, LOADED))
        return cache.get(keys, "cpu") is not None

    assert not remembered(Row("cpu", "rejected", "KP-PROBE-HANG", "no answer", gates=opened))
    assert not remembered(Row("cpu", "unavailable", "KP-CPU-NONATIVE", "not built")), "it may be there by now"
    assert not remembered(Row("cpu", "rejected", "KP-CPU-X", "it does not open")), "and so it may open by now"
    assert remembered(Row("cpu", "rejected", "KP-RESET", "differs", gates=opened))
    for lost in ({}, {**LOADED, "/nowhere/libgone.so": "1:2:3:4"}, {sys.executable: "1:2:3:4"}):
        cache.put(keys, runner.Found(Row("cpu", "rejected", "KP-RESET", "differs", gates=opened), None, lost))
        assert cache.get(keys, "cpu") is None, lost


def test_every_child_is_gone_after_a_selection() -> None:
    with runner.probing(["cpu", "numpy"], Request()) as rows:
        first, *_ = next(rows)
        started = [each.child.process for each in rows.gi_frame.f_locals["everyone"]]  # type: ignore[attr-defined]
    assert first.accepted and len(started) == 3 and all(process.poll() is not None for process in started)


def test_public_names() -> None:
    first = {"Engine", "Selection", "__version__", "load_model", "open_backend", "select"}
    assert set(kparity.__all__) == {*first, "column_sum", "guard"}
    for name in kparity.__all__:
        assert getattr(kparity, name) is not None
    with pytest.raises(AttributeError):
        kparity.selct  # noqa: B018
