"""One test over backend × op × case: every kernel of every backend against fp64 truth.

To add a case, add it to ``cases`` of the op's specification (``kernels/<op>/__init__.py``); to add a kind of input, to
its ``kinds`` and ``inputs``. What a case must hold is in ``kparity.check.core``.
"""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends.numpy import NumpyBackend, NumpyBound
from kparity.check import core as check
from kparity.device import registry
from kparity.device.adapter import Backend, Program
from kparity.errors import Unavailable, WrongInput
from kparity.ops.spec import DTYPES, Case
from tests.conftest import number

SEED = number("KPARITY_SEED")


def check_case(backend: Backend, case: Case) -> None:
    """Every kind of input of a case; raises AssertionError with each finding."""
    records = check.check_case(backend, ops.get(case.op), case, seed=SEED)
    wrong = [f"{each.backend}: {each.label}: {each.reason}" for each in records if each.outcome != check.PASS]
    assert not wrong, "\n".join(wrong)
    assert len(records) == len(ops.get(case.op).kinds(case))


def test_op(backend: Backend, case: Case) -> None:
    reason = backend.supports(ops.get(case.op), case)
    if reason:
        pytest.skip(f"{backend.name}: {case.id}: {reason}")
    check_case(backend, case)


def test_bytes_survive_the_round_trip(backend: Backend) -> None:
    for dtype in DTYPES:
        for shape in ((1,), (3,), (5, 7), (2, 3, 129)):
            rng = np.random.default_rng(math.prod(shape))
            array = (rng.standard_normal(shape) * 50).astype(np.int32).astype(DTYPES[dtype])
            buffer = backend.upload(array)
            assert (buffer.dtype, tuple(buffer.shape), buffer.nbytes) == (dtype, shape, array.nbytes)
            copy = backend.download(buffer)
            assert copy.tobytes() == array.tobytes()
            copy[...] = 1  # an array of the caller's
            assert backend.download(buffer).tobytes() == array.tobytes()
            backend.write(buffer, array[::-1].copy())
            assert backend.download(buffer).tobytes() == array[::-1].tobytes()


def test_wrong_buffers_are_refused(backend: Backend) -> None:
    add = ops.get("add")
    kernel = backend.build(add, add.case(M=2, D=3))
    right, wrong, integers = (backend.empty(*spec) for spec in (((2, 3), "f32"), ((3, 2), "f32"), ((2, 3), "i32")))
    for buffers in ((right, right), (right, wrong, right), (right, right, integers)):
        with pytest.raises(WrongInput):
            kernel.bind(*buffers)
    with pytest.raises(WrongInput):
        backend.upload(np.zeros((4, 4), np.float32)[:, ::2])
    with pytest.raises(WrongInput):
        backend.upload(np.zeros(4))  # fp64
    for other in (np.zeros((2, 4), np.float32), np.zeros((2, 3), np.int8)):
        with pytest.raises(WrongInput):
            backend.write(right, other)


def test_a_program_runs_in_order_and_replays(backend: Backend) -> None:
    add = ops.get("add")
    case = add.case(M=1, D=300)
    kernel = backend.build(add, case)
    one = backend.upload(np.ones((1, 300), np.float32))
    spare = [backend.empty((1, 300), "f32") for _ in range(3)]
    program = backend.record([
        kernel.bind(one, one, spare[0]),
        kernel.bind(spare[0], spare[0], spare[1]),
        kernel.bind(spare[1], one, spare[2]),
    ])  # fmt: skip
    before = backend.dispatches.total
    for start in (1.0, 3.0):
        backend.write(one, np.full((1, 300), start, np.float32))
        program.run()
        assert (backend.download(spare[2]) == 5 * start).all()
    assert backend.dispatches.total == before + 6
    assert 0 < program.run_timed() < 60


def test_the_device_says_what_it_is(backend: Backend) -> None:
    info = backend.info
    assert info.backend == backend.name and info.kind in ("gpu", "cpu", "software")
    assert info.device and info.api and info.library
    software = re.search("llvmpipe|lavapipe|swiftshader|softpipe", info.device, re.I)
    assert not software or info.kind == "software", f"{info.device} poses as {info.kind}"
    assert info.label.startswith(backend.name)


# The test above proves nothing unless it fails for wrong kernels: each of these backends lies in one way.


LIES = ("does nothing", "forgets the tail", "writes beyond", "spoils an input", "never repeats", "is not a number")


def run_wrong(lie: str, bound: NumpyBound) -> None:
    """One launch that lies."""
    given, out = bound.buffers[0].handle, bound.buffers[-1].handle
    tail = out[..., -1].copy()
    if lie != "does nothing":
        bound()
    if lie == "forgets the tail":
        out[..., -1] = tail
    elif lie == "writes beyond":
        whole = out.base
        (whole if whole.base is None else whole.base)[-1] = 0
    elif lie == "spoils an input":
        given.reshape(-1)[0] += 1
    elif lie == "never repeats":
        out *= 1 + 6e-8 * np.random.default_rng().integers(0, 2, out.shape)
    elif lie == "is not a number":
        out[..., 0] = np.nan


def lying(run: Callable[[Program], None], method: str = "_run") -> NumpyBackend:
    """A numpy backend with another ``method`` of its programs."""

    class Lying(NumpyBackend):
        def record(self, launches: Sequence[Any]) -> Program:
            program = super().record(launches)
            setattr(program, method, lambda: run(program))
            return program

    return Lying()


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("op", ["add", "rmsnorm", "dense_gemv"])
def test_a_lying_kernel_is_found(op: str, lie: str) -> None:
    case = ops.get(op).cases()[-1] if op != "dense_gemv" else ops.get(op).case(M=3, N=17, K=66)
    with pytest.raises(AssertionError):
        check_case(lying(lambda program: [run_wrong(lie, launch) for launch in program.launches]), case)


def test_an_uncounted_launch_is_found() -> None:
    with pytest.raises(AssertionError, match="not launched once"):
        check_case(lying(lambda program: program._run(), "run"), ops.get("add").cases()[0])


def _pytest(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def test_a_misspelt_backend_ends_the_run() -> None:
    for variable in ("KPARITY_BACKENDS", "KPARITY_REQUIRE"):
        done = _pytest("--collect-only", **{variable: "numpy,wgpuu"})
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        assert "did you mean 'wgpu'" in done.stderr


def test_a_required_backend_that_is_missing_fails() -> None:
    try:
        registry.open_backend("hip").close()
    except Unavailable as missing:
        done = _pytest("-k", "test_wrong_buffers", KPARITY_BACKENDS="numpy", KPARITY_REQUIRE="hip")
        assert done.returncode == pytest.ExitCode.TESTS_FAILED and missing.reason in done.stdout
        skipped = _pytest("-k", "test_wrong_buffers", KPARITY_BACKENDS="numpy,hip", KPARITY_REQUIRE="")
        assert skipped.returncode == pytest.ExitCode.OK and missing.code in skipped.stdout
    else:
        pytest.skip("hip opens here")
