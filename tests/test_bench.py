"""The scripts of bench/: wrong output is not timed, what their receipts hold, and the GPU-host script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
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
    for name in ("timing", "gpu_ops", "gpu_decode", "summary", "stream"):
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


def test_bytes_per_token_count_every_weight_once(bench: Any, tmp_path: Path) -> None:
    from kparity.model import load_model

    decode, spec = bench("gpu_decode"), writer.TINY
    model = load_model(writer.write(tmp_path / "m.gguf", spec))
    found = decode.bytes_per_token(model, 9)
    q, kv = spec.width, spec.kv_heads * spec.head_dim
    weights = spec.layers * (2 * q * q + 2 * kv * q + 3 * spec.ffn * q)
    assert found["ternary"] == weights // 4
    assert found["head"] == spec.vocab * spec.width * 2 and found["kv_cache"] == 10 * 2 * 2 * kv * spec.layers
    assert found["total"] == sum(value for name, value in found.items() if name != "total")


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


def test_decode_leaves_a_receipt_with_parity(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "decode.json"
    arguments = ["--backends", "cpu", "--smoke", "--cache", str(tmp_path), "--receipt", str(path)]
    assert bench("gpu_decode").main(arguments) == 0
    row = next(row for row in read(path)["rows"] if row["op"] == "decode")
    assert row["verified"] and row["parity"]["passed"] and row["parity"]["min_cosine"] > 0.999
    assert row["tokens_per_s"] > 0 and row["bytes_per_token"]["total"] > 0 and row["of_bound"] > 0
    assert row["prefill"]["16"]["tokens_per_s"] > 0


def test_a_wrong_model_path_is_not_timed(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kparity.engine import Engine

    decode, path = bench("gpu_decode"), tmp_path / "decode.json"
    step, count = Engine.step_greedy, iter(range(1000))
    monkeypatch.setattr(Engine, "step_greedy", lambda self, token: (step(self, token) + (next(count) == 6)) % 300)
    assert decode.main(["--backends", "cpu", "--smoke", "--cache", str(tmp_path), "--receipt", str(path)]) == 1
    row = next(row for row in read(path)["rows"] if row["op"] == "decode")
    assert not row["verified"] and "other tokens" in row["errors"][0]


def test_an_absent_backend_is_said_and_a_required_one_fails(bench: Any, tmp_path: Path) -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    for script in ("gpu_ops.py", "gpu_decode.py"):
        path = tmp_path / f"{script}.json"
        command = [sys.executable, BENCH / script, "--backends", "cuda,cpu", "--require", "cuda", "--smoke"]
        done = subprocess.run(
            [*command, "--receipt", path], env=hidden, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 3, done.stderr
        assert "required and absent: cuda: [KP-CUDA-" in done.stdout
        assert "cuda" in json.loads(path.read_text())["result"]["absent"]


def test_the_summary_names_what_failed(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = bench("summary")
    notes = tmp_path / "steps.tsv"
    notes.write_text(
        "build\trequired\t0\t12\ta.log\nprobe\trequired\t3\t1\t\nncu\toptional\t77\t0\t\nops\toptional\t124\t9\t\n"
    )
    (tmp_path / "a.log").write_text("x\n\x1b[32m12 passed\x1b[0m, 3 skipped in 1 s\nbye\n")
    (tmp_path / "ncu.log").write_text(
        '==PROF== Connected\ntgemv: right\n"ID","Kernel Name","Grid Size","Metric Name","Metric Unit","Metric Value"\n'
        '"0","tgemv","(320, 1, 1)","gpu__time_duration.sum","us","3.1"\n'
        '"0","tgemv","(320, 1, 1)","launch__registers_per_thread","register/thread","40"\n'
    )
    (tmp_path / "bad.json").write_text('{"sha256": "0", "result": {}}')
    (tmp_path / "cut.json").write_text('{"result": ')
    assert summary.main([str(tmp_path), "--steps", str(notes), "--write", str(tmp_path / "summary.json")]) == 1
    printed = capsys.readouterr().out
    assert "ncu tgemv (320,1,1)" in printed and "time 3.1 us, registers 40" in printed
    for part in ("12 passed, 3 skipped", "FAIL (3)", "absent", "TIMEOUT", "digest does not fit", "no JSON",
                 "required steps failed: probe"):  # fmt: skip
        assert part in printed
    assert json.loads((tmp_path / "summary.json").read_text())["failed"] == ["probe"]
    notes.write_text("")
    assert summary.main([str(tmp_path), "--steps", str(notes)]) == 1, "nothing that ran is no success"


@pytest.mark.slow
def test_the_gpu_host_script_runs_through(tmp_path: Path) -> None:
    """Without a GPU: what needs one fails or is said to be absent, and everything else passes."""
    venv, out = tmp_path / "venv", tmp_path / "out"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python3.*")) / "site-packages"
    here = [path for path in sys.path if path.endswith("site-packages")]  # without this checkout's editable install
    (site / "dependencies.pth").write_text("\n".join(here) + "\n")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "KPARITY"))}
    env |= {"PYTHON": str(venv / "bin" / "python"), "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", BENCH / "on_gpu.sh", "--smoke", out],
        env=env,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    files = {path.name for path in out.iterdir()}
    assert files == {"summary.json", "probe_cuda.json", "probe_all.json", "ops_others.json", "decode_others.json",
                     "ops_cuda.json", "decode_cuda.json", "logs.tar.gz"}, done.stdout + done.stderr  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    results = {each["step"]: each["result"] for each in summary["steps"]}
    assert results["build"] == results["preflight"] == "pass", done.stdout
    assert done.returncode == 1 and "required steps failed" in done.stdout
    assert set(summary["failed"]) == {"op-parity-cuda", "probe-cuda", "bench-ops", "bench-decode"}, done.stdout
    for step in ("op-parity-opencl", "probe-all", "bench-ops-others", "bench-decode-others"):
        assert results[step] == "pass", done.stdout
    assert len(summary["revision"]["commit"]) == 40
    with tarfile.open(out / "logs.tar.gz") as logs:
        assert "logs/build.log" in logs.getnames()
    assert not list(tmp_path.glob("kparity-gpu.*")), "the work folder is removed"


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
