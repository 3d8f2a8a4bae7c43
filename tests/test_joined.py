"""Ops that are two others in one launch: the bits of the two, and wrong ones are rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.check.core import check_case
from kparity.check.record import FAIL
from kparity.device import registry
from kparity.device.adapter import Backend, launched
from kparity.engine import Engine
from kparity.model import load_model
from kparity.mutate.library import of_op
from kparity.ops import assemble
from kparity.ops.mutant import Mutant
from kparity.ops.spec import Array, Case
from tests.conftest import needing

LEAST = 8
"""Wrong kernels of each."""


@pytest.fixture(scope="module", params=("opencl", "cuda-ptx"))
def device(request: Any) -> Any:
    with needing(request.param):
        options = {"sanitize": True} if request.param == "cuda-ptx" else {}
        backend = registry.open_backend(request.param, **options)
    yield backend
    backend.close()


def norm_then_tgemv(backend: Backend, case: Case, inputs: list[Array]) -> list[Array]:
    norm, product = ops.get(case.op).parts(case)
    first = launched(backend, backend.build(ops.get(norm.op), norm), inputs[2:])
    given = [*inputs[:2], *first[-3:]]
    return [*first[:-3], *launched(backend, backend.build(ops.get(product.op), product), given)]


def store_then_attend(backend: Backend, case: Case, inputs: list[Array]) -> list[Array]:
    store, attend = ops.get(case.op).parts(case)
    q, *caches = launched(backend, backend.build(ops.get(store.op), store), inputs)
    shape = case["L"], case["G"], case["D"]
    given = [q, *(each.reshape(shape) for each in caches), inputs[1]]
    return [*caches, *launched(backend, backend.build(ops.get(attend.op), attend), given)]


APART = {"norm_tgemv": norm_then_tgemv, "rope_attention": store_then_attend}


WHOLE = {"rope_attention": 2}
"""Outputs, from the first on, that are the same bits on every device; of the others a compiler may fuse products."""


def small(name: str) -> list[Case]:
    op = ops.get(name)
    return [case for case in op.cases() if op.work(case).flops < 10**6]


def test_each_has_a_folder_and_wrong_kernels_and_the_text_of_another() -> None:
    assert set(APART) == set(ops.JOINED) and set(ops.JOINED.values()) <= set(ops.NAMES)
    for name, other in ops.JOINED.items():
        op = ops.get(name)
        assert assemble.file_of(name, "gpu") == f"{other}/{other}.cu" and len(of_op(name)) >= LEAST
        assert assemble.missing_text(op, "gpu") is None and "no wgsl text" in (assemble.missing_text(op, "wgsl") or "")


@pytest.mark.parametrize("name", APART)
def test_the_bits_are_those_of_two_launches(device: Any, name: str) -> None:
    op = ops.get(name)
    for case in small(name):
        kernel = device.build(op, case)
        for kind in op.kinds(case)[::2]:
            inputs = op.inputs(case, np.random.default_rng(case.seed()), kind)
            found, wanted = launched(device, kernel, inputs), APART[name](device, case, inputs)
            whole = WHOLE.get(name, len(found)) if device.name == "cuda-ptx" else len(found)
            assert [each.tobytes() for each in found[:whole]] == [each.tobytes() for each in wanted[:whole]], case.id
            assert all(np.allclose(*each, 0, 1e-6, True) for each in zip(found, wanted, strict=True)), case.id


@pytest.mark.parametrize("name", APART)
def test_each_is_right_and_clean(device: Any, name: str) -> None:
    op = ops.get(name)
    records = [record for case in small(name) for record in check_case(device, op, case, kinds=op.kinds(case)[:2])]
    assert [f"{each.label}: {each.reason}" for each in records if each.outcome != "PASS"] == []
    assert len(records) > 4


WRONG = [pytest.param(op, each, id=f"{op}-{name}") for op in APART for name, each in of_op(op).items()]


@pytest.mark.parametrize(("name", "mutant"), WRONG)
def test_a_wrong_one_is_rejected(device: Any, monkeypatch: pytest.MonkeyPatch, name: str, mutant: Mutant) -> None:
    if mutant.only not in ("", device.name):
        pytest.skip(f"what is wrong shows on {mutant.only} alone")
    patched, real = mutant.sources(name, "gpu"), assemble.kernel_text
    monkeypatch.setattr(assemble, "kernel_text", lambda path: patched.get(path) or real(path))
    op = ops.get(name)
    records = (each for case in small(name)[::-1] for each in check_case(device, op, case, stop_at_first=True))
    record = next(each for each in records if each.outcome == FAIL)
    assert record.failed or record.reason.startswith(("race", "Fault: r")), f"does not run: {record.reason}"


def test_a_step_of_a_gpu_has_fewer_launches_and_the_bits_of_a_row_that_is_a_chunk() -> None:
    with needing("opencl"):
        backend = registry.open_backend("opencl")
    engine = Engine(load_model(None), backend, context=64)
    layers = engine.model.hparams.n_layer
    found = [engine.step(token) for token in (2, 3, 5, 7)]
    assert len(engine.recorded(1).graph.launches) == 6 * layers + 5
    engine.reset()
    assert np.array_equal(found, engine.score((2, 3, 5, 7), rows=1))
    assert len(engine.recorded(1, every_row=True).graph.launches) == 10 * layers + 5
    engine.close()
