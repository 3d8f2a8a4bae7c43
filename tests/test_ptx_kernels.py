"""The backend cuda-ptx: whole kernels through NVRTC and the interpreter, with everything watched, and beside PoCL."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends import cuda
from kparity.check.core import check_case
from kparity.device import registry
from kparity.device.adapter import launched
from kparity.engine import Engine
from kparity.errors import Unavailable
from kparity.model import load_model
from kparity.mutate import barriers
from kparity.ops import assemble
from kparity.ops.assemble import Source
from kparity.ops.spec import Case, Op
from kparity.ptx import nvrtc
from tests import gguf_files
from tests.cli import run
from tests.conftest import needing


@pytest.fixture(scope="module")
def ptx() -> Any:
    with needing("cuda-ptx"):
        backend = registry.open_backend("cuda-ptx", sanitize=True)
    yield backend
    backend.close()


def small(op: Op) -> list[Case]:
    """The cases of an op that are quick here; every option is among them."""
    return [case for case in op.cases() if op.work(case).flops < 10**6]


@pytest.mark.parametrize("name", ops.NAMES)
def test_every_kernel_is_right_and_clean(ptx: Any, name: str) -> None:
    op = ops.get(name)
    cases = small(op)
    records = [record for case in cases for record in check_case(ptx, op, case, kinds=op.kinds(case)[:2])]
    assert [f"{each.label}: {each.reason}" for each in records if each.outcome != "PASS"] == []
    assert len(records) >= len(cases) > 1


def test_kernels_bear_the_worst_approximations() -> None:
    with needing("cuda-ptx"):
        backend = registry.open_backend("cuda-ptx", perturb=True)
    for name in ("attention", "glu", "norm_quant"):
        op = ops.get(name)
        records = [each for case in small(op)[:4] for each in check_case(backend, op, case, kinds=["random"])]
        assert [each.reason for each in records if each.outcome != "PASS"] == []


EXACT = ("embed", "kv_store", "add", "act_quant", "argmax", "tgemv")
"""Ops whose texts leave a compiler no choice: no sum of floats in another order, no product that may be fused."""


@pytest.mark.parametrize("name", EXACT)
def test_the_bits_are_those_of_pocl(ptx: Any, name: str) -> None:
    with needing("opencl"):
        other = registry.open_backend("opencl")
    op, compared = ops.get(name), 0
    for case in small(op):
        if any(str(value).startswith("block") for _, value in case.params):
            continue  # spans are added up as floats
        for kind in op.kinds(case)[:2]:
            inputs = op.inputs(case, np.random.default_rng(case.seed()), kind)
            ours, theirs = (launched(each, each.build(op, case), inputs) for each in (ptx, other))
            assert [a.tobytes() for a in ours] == [b.tobytes() for b in theirs], case.id
            compared += 1
    assert compared > 3


def changed(monkeypatch: pytest.MonkeyPatch, pattern: str, by: str, count: int = 1, at: int = 0) -> None:
    """From now on the op's own text has the n-th match of a pattern replaced, on lines that stay."""
    true = cuda.gpu_source

    def source(*given: Any) -> Source:
        found = true(*given)
        lines = found.text.split("\n")
        own = "\n".join(lines[found.first_line :])
        match = list(re.finditer(pattern, own))[at]
        own = own[: match.start()] + by + own[match.end() :]
        return replace(found, text="\n".join([*lines[: found.first_line], own]))

    monkeypatch.setattr(cuda, "gpu_source", source)


def failure(ptx: Any, name: str, **params: Any) -> str:
    """The reason for which the first failing kind of input of a case fails."""
    op = ops.get(name)
    records = check_case(ptx, op, op.case(**params), stop_at_first=True)
    assert records[-1].outcome == "FAIL"
    return records[-1].reason


@pytest.mark.parametrize(
    ("at", "name", "params"),
    [
        (0, "tgemv", {"M": 2, "N": 70, "K": 2560, "ascale": "block256"}),
        (1, "tgemv", {"M": 1, "N": 1, "K": 1}),
        (0, "attention", {"M": 1, "L": 64, "H": 4, "G": 2, "D": 64}),
        (1, "attention", {"M": 1, "L": 64, "H": 4, "G": 2, "D": 64}),
        (2, "attention", {"M": 1, "L": 1000, "H": 8, "G": 2, "D": 64}),
        (3, "attention", {"M": 1, "L": 1000, "H": 8, "G": 2, "D": 64}),
        (4, "attention", {"M": 1, "L": 1000, "H": 8, "G": 2, "D": 64}),
        (5, "attention", {"M": 1, "L": 1000, "H": 8, "G": 2, "D": 64}),
        (6, "attention", {"M": 1, "L": 1000, "H": 8, "G": 2, "D": 64}),
    ],
)
def test_a_barrier_that_is_gone_is_a_race(
    ptx: Any, monkeypatch: pytest.MonkeyPatch, at: int, name: str, params: dict[str, Any]
) -> None:
    changed(monkeypatch, r"BARRIER\(\);", "", at=at)
    reason = failure(ptx, name, **params)
    race = rf"race on \w+\[byte \d+\]: .*thread \d+ of block .* at kernels/{name}/{name}.cu:\d+"
    assert re.search(rf"{race}|read of sums that another block wrote", reason)


@pytest.mark.parametrize("name", barriers.COMES_ONCE)
def test_a_barrier_before_the_only_reduction_orders_nothing(
    ptx: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # fmt: skip
    patched = barriers.of_op(name)["no-barrier-lanes-h-1"].sources(name, "gpu")
    real, used = assemble.kernel_text, set[str]()

    def kernel_text(relative: str) -> str:
        used.update({relative} & set(patched))
        return patched.get(relative) or real(relative)

    monkeypatch.setattr(assemble, "kernel_text", kernel_text)
    op = ops.get(name)
    records = [record for case in small(op) for record in check_case(ptx, op, case, kinds=["random"])]
    assert [f"{each.label}: {each.reason}" for each in records if each.outcome != "PASS"] == []
    assert records and used == {barriers.REDUCTION}


@pytest.mark.parametrize("name", barriers.WITHIN_A_WAVE)
def test_lanes_of_one_wave_need_no_barrier(ptx: Any, name: str) -> None:
    op = ops.get(name)
    assert all(b"bar.sync" not in ptx.compiler.compile(ptx.source(op, case, ptx.constants)) for case in op.cases())


def test_a_race_names_both_lines(ptx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, r"BARRIER\(\);", "", at=1)
    lines = [int(line) for line in re.findall(r"tgemv\.cu:(\d+)", failure(ptx, "tgemv", M=1, N=1, K=1))]
    own = cuda.gpu_source(ops.get("tgemv"), ops.get("tgemv").case(M=1, N=1, K=1), "cuda", {"WAVE": 32})
    text = own.text.split("\n")[own.first_line :]
    read, written = (text[line - 1] for line in lines)
    assert "four = active[" in read and "active[" in written and " = staged[" in written


def test_what_goes_beyond_an_argument_names_it(ptx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, r"if \(at < M \* D\)", "if (1)")
    reason = failure(ptx, "add", M=1, D=3)
    assert re.search(r"read of 4 bytes at byte 12 of [ab], which has 12 at kernels/add/add\.cu:10, thread 3 ", reason)


def test_an_output_that_is_read_first(ptx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, r"= a\[at\]", "= y[at] * 0.0f + a[at]")
    assert "read of y that nobody wrote at kernels/add/add.cu:" in failure(ptx, "add", M=1, D=3)


def test_an_engine_serves_on_it(tmp_path: Any) -> None:
    from kparity.backends.numpy import NumpyBackend

    with needing("cuda-ptx"):
        backend = registry.open_backend("cuda-ptx")
    path = gguf_files.write(tmp_path / "tiny.gguf", replace(gguf_files.TINY, untied=True))
    model = load_model(str(path))
    found = []
    for device in (backend, NumpyBackend()):
        engine = Engine(model, device, context=64, chunk=4)
        found.append(np.stack([engine.step(token) for token in (3, 1, 4, 1, 5)]))
    assert np.abs(found[0] - found[1]).max() <= 1e-3 * np.abs(found[1]).max()
    assert backend.graphs and "no graph" not in backend.info.detail


def test_it_is_no_gpu_and_is_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = registry.backend_class("cuda-ptx")
    assert "cuda-ptx" in registry.names() and "cuda-ptx" not in [*registry.usual(), *registry.default_order()]
    assert not adapter.drives_gpu and adapter.kernel_dialects() == ("ptx",)
    monkeypatch.setattr(nvrtc, "library", lambda: None)
    with pytest.raises(Unavailable, match="NVRTC was not found") as missing:
        registry.open_backend("cuda-ptx")
    assert missing.value.code == "KP-CUDA-PTX-NOLIB" and "[ptx]" in missing.value.remedy
    with pytest.raises(Unavailable, match="no PTX interpreter 1"):
        registry.open_backend("cuda-ptx", 1)


def test_the_device_says_what_it_is(ptx: Any) -> None:
    assert (ptx.info.kind, ptx.info.device) == ("software", "PTX interpreter, not a GPU")
    assert registry.named_software(ptx.info)


def test_the_command() -> None:
    with needing("cuda-ptx"):
        registry.open_backend("cuda-ptx").close()
    done = run("check", "-b", "cuda-ptx", "-o", "add", "--quick", "--sanitize", "--perturb")
    assert done.returncode == 0 and "cuda-ptx" in done.stdout
    done = run("check", "-b", "cpu,cuda-ptx", "-o", "add", "--sanitize")
    assert done.returncode == 2 and "--sanitize is for the backend cuda-ptx alone" in done.stderr
