"""The scripts of bench/: wrong output is not timed, what their receipts hold, and the GPU-host script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kparity import ops, receipt
from kparity.adapter import Backend
from kparity.backends.numpy import NumpyBackend, NumpyBound, NumpyProgram
from kparity.errors import Unavailable
from kparity.registry import open_backend
from tests.gguf_files import writer

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Modules of bench/ by name, as its scripts see each other."""
    monkeypatch.syspath_prepend(str(BENCH))
    assert sys.modules.get("write_gguf", writer) is writer

    def named(name: str) -> ModuleType:
        return import_module(name)

    yield named
    for name in ("timing", "gpu_ops", "stream"):
        sys.modules.pop(name, None)


# --- what is timed is verified ---


def numpy_with(lie: Any) -> NumpyBackend:
    """A numpy backend whose launches go through ``lie``."""

    class Program(NumpyProgram):
        def _run(self) -> None:
            for launch in self.launches:
                assert isinstance(launch, NumpyBound)
                lie(launch)

    class Lying(NumpyBackend):
        def record(self, launches: Any) -> NumpyProgram:
            return Program(self, launches)

    return Lying()


def lie_nothing(launch: NumpyBound) -> None:
    pass


def lie_first_copy_only(launch: NumpyBound) -> None:
    first = getattr(lie_first_copy_only, "first", None) or launch.buffers[0]
    lie_first_copy_only.first = first  # type: ignore[attr-defined]
    if launch.buffers[0] is first:
        launch()


def lie_one_off(launch: NumpyBound) -> None:
    launch()
    out = launch.buffers[
        launch.kernel.op.args(launch.kernel.case).index(launch.kernel.op.outputs_of(launch.kernel.case)[0])
    ]
    out.handle.reshape(-1)[-1] += 1


@pytest.mark.parametrize("lie", [lie_nothing, lie_first_copy_only, lie_one_off])
def test_wrong_output_is_found_in_what_was_timed(bench: Any, lie: Any) -> None:
    gpu_ops = bench("gpu_ops")
    case = ops.get("tgemv").case(M=1, N=24, K=256)
    facts = gpu_ops.facts_of(case)
    right = gpu_ops.Timed(NumpyBackend(), case, facts, 3 * gpu_ops.weight_bytes(case))
    assert right.copies == 3 and right.check() is None
    assert "output wrong" in gpu_ops.Timed(numpy_with(lie), case, facts, 3 * gpu_ops.weight_bytes(case)).check()


@pytest.mark.parametrize("op", ["tgemv", "dense_gemv", "attention"])
def test_copies_of_the_weights_are_distinct_and_each_is_right(bench: Any, op: str) -> None:
    gpu_ops = bench("gpu_ops")
    params = {
        "tgemv": {"N": 40, "K": 256},
        "dense_gemv": {"N": 40, "K": 64},
        "attention": {"L": 24, "H": 4, "G": 2, "D": 16},
    }
    case = ops.get(op).case(M=1, **params[op])
    facts = gpu_ops.facts_of(case)
    copies = [gpu_ops.shifted(case, facts.inputs, at) for at in range(4)]
    weights = 1 if op == "attention" else 0
    assert len({copy[weights].tobytes() for copy in copies}) == 4
    for at, inputs in enumerate(copies):  # truth of the turned inputs is the turned truth
        truth = ops.get(op).reference(case, inputs)
        for found, want in zip(truth, facts.truth, strict=True):
            np.testing.assert_allclose(found, gpu_ops.turned(case, want, at), rtol=1e-12)


def test_truth_in_pieces_is_the_truth(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_ops = bench("gpu_ops")
    monkeypatch.setattr(gpu_ops, "PIECE", 16)
    case = ops.get("dense_gemv").case(M=1, N=50, K=64)
    facts = gpu_ops.facts_of(case)
    assert len(np.unique(facts.inputs[0], axis=0)) == 50, "rows that repeat are turned along K"
    whole = ops.get("dense_gemv").reference(case, facts.inputs)
    np.testing.assert_allclose(facts.truth[0], whole[0], rtol=1e-12)
    bound = ops.get("dense_gemv").bounds(case, facts.inputs, whole)[0]
    np.testing.assert_allclose(facts.bounds[0].limit, bound.limit, rtol=1e-12)


def test_a_head_larger_than_a_binding_is_timed_in_parts(bench: Any) -> None:
    import dataclasses

    gpu_ops, backend = bench("gpu_ops"), open_backend("cpu")
    case = ops.get("dense_gemv").case(M=1, N=50, K=64)
    backend.info = dataclasses.replace(backend.info, max_binding=16 * 64 * 2)
    timed = gpu_ops.Timed(backend, case, gpu_ops.facts_of(case), 0)
    assert len(timed.programs[0].launches) == 4 and timed.check() is None
    backend.close()


# --- receipts ---


def read(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert document["schema"] == "kparity-bench-receipt-v1" and document["sha256"] == receipt.digest(document)
    result = document["result"]
    assert result["complete"] and len(result["revision"]["commit"]) in (7, 40)
    assert not any(
        isinstance(value, float) and not np.isfinite(value) for row in result["rows"] for value in row.values()
    )
    found: dict[str, Any] = result
    return found


def test_ops_leave_a_receipt(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ops.json"
    assert bench("gpu_ops").main(["--backends", "cpu", "--smoke", "--receipt", str(path)]) == 0
    result = read(path)
    assert result["kind"] == "ops-smoke" and result["devices"]["cpu"]["kind"] == "cpu"
    rows = {row["op"]: row for row in result["rows"]}
    assert {"stream", "tgemv", "dense_gemv", "attention", "rmsnorm", "act_quant", "add"} <= set(rows)
    assert all(row["verified"] and row["samples_device_s"] for row in result["rows"])
    assert result["empty_launch_us"]["cpu"] > 0
    assert not any(row["cold"] for row in result["rows"] if row["op"] == "tgemv"), "a megabyte is in every cache"
    assert "tgemv" in capsys.readouterr().out


def test_an_absent_backend_is_said_and_a_required_one_fails(bench: Any, tmp_path: Path) -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    for script in ("gpu_ops.py",):
        path = tmp_path / f"{script}.json"
        command = [sys.executable, BENCH / script, "--backends", "cuda,cpu", "--require", "cuda", "--smoke"]
        done = subprocess.run(
            [*command, "--receipt", path], env=hidden, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 3, done.stderr
        assert "required and absent: cuda: [KP-CUDA-" in done.stdout
        assert "cuda" in json.loads(path.read_text())["result"]["absent"]


@pytest.mark.gpu
@pytest.mark.parametrize("op", ["tgemv", "attention"])
def test_a_cold_kernel_on_the_device_is_right_and_not_impossible(bench: Any, op: str) -> None:
    timing, gpu_ops = bench("timing"), bench("gpu_ops")
    try:
        backend: Backend = open_backend("cuda")
    except Unavailable as missing:
        if {"cuda", "gpu", "all"} & set(os.environ.get("KPARITY_REQUIRE", "").split(",")):
            raise
        pytest.skip(f"[{missing.code}] {missing}")
    case = next(case for group in gpu_ops.table_of(gpu_ops.FULL) for case in group if case.op == op)
    found = gpu_ops.Timed(backend, case, gpu_ops.facts_of(case), timing.cold_bytes(backend)).series()
    timing.interleave([found], least=5, most=20)
    row = timing.judge_times(found, timing.peak_bandwidth(backend), measured=False)
    assert row["errors"] == [] and row["verified"] and row["cold"] and row["clock"] == "device"
    backend.close()
