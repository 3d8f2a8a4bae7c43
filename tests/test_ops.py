"""One test over backend × op × case: every kernel of every backend against fp64 truth.

To add a case, add it to ``cases`` of the op's specification (``kernels/<op>/__init__.py``); to add a kind of input, to
its ``kinds`` and ``inputs``.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from kparity import ops, registry
from kparity.adapter import Backend, Buffer
from kparity.backends.numpy import NumpyBackend, NumpyBound, NumpyProgram
from kparity.compare import judge
from kparity.errors import Unavailable, WrongInput
from kparity.spec import DTYPES, Array, Bound, Case

SEED = int(os.environ.get("KPARITY_SEED", "0"))
GUARD = 256
"""Bytes of sentinel before and after a buffer."""


@lru_cache(maxsize=32)
def facts(case: Case, kind: str) -> tuple[list[Array], list[Array], list[Bound]]:
    """Inputs, fp64 truth and bounds of one kind of input, the same for every backend."""
    op = ops.get(case.op)
    rng = np.random.default_rng([case.seed(SEED), zlib.crc32(kind.encode())])
    with np.errstate(all="ignore"):  # infinities and NaN are among the inputs
        inputs = op.inputs(case, rng, kind)
        truth = op.reference(case, inputs)
        return inputs, truth, op.bounds(case, inputs, truth)


def filled(shape: tuple[int, ...], dtype: str, byte: int) -> Array:
    """An array whose every byte is ``byte``: 0xFF is NaN and −1, 0x7F is NaN and a large integer."""
    count = math.prod(shape)
    return np.full(count * DTYPES[dtype].itemsize, byte, np.uint8).view(DTYPES[dtype]).reshape(shape)


class Guarded:
    """A buffer between sentinels: in one allocation where handles can be sliced, else in three neighbouring ones."""

    def __init__(self, backend: Backend, shape: tuple[int, ...], dtype: str) -> None:
        self.backend, pad, count = backend, GUARD // DTYPES[dtype].itemsize, math.prod(shape)
        if backend.name in ("numpy", "cpu", "torch"):
            self.whole = backend.empty((count + 2 * pad,), dtype)
            backend.write(self.whole, filled(self.whole.shape, dtype, 0xA5))
            inner = self.whole.handle[pad : pad + count].reshape(shape)
            self.buffer, self.fences = Buffer(inner, dtype, shape), []
            self.cut: slice | None = slice(pad, pad + count)
        else:
            before = backend.upload(filled((pad,), dtype, 0xA5))
            self.buffer, self.cut = backend.empty(shape, dtype), None
            self.fences = [before, backend.upload(filled((pad,), dtype, 0xA5))]

    def intact(self) -> bool:
        """No sentinel was overwritten."""
        if self.cut is None:
            return all((self.backend.download(fence).view(np.uint8) == 0xA5).all() for fence in self.fences)
        whole = self.backend.download(self.whole)
        return all((np.ascontiguousarray(part).view(np.uint8) == filled((1,), "u32", 0xA5).view(np.uint8)[0]).all()
                   for part in (whole[: self.cut.start], whole[self.cut.stop :]))  # fmt: skip


def check_case(backend: Backend, case: Case) -> None:
    """Build the kernel once and run it on every kind of input; raises AssertionError with the finding."""
    op = ops.get(case.op)
    kernel = backend.build(op, case)
    assert re.fullmatch(rf"{op.name}_[a-z0-9]+(_[a-z0-9]+)*_{op.variant(case)}", kernel.id), kernel.id
    guarded = [Guarded(backend, arg.shape, arg.dtype) for arg in kernel.args]
    buffers = [one.buffer for one in guarded]
    program = backend.record([kernel.bind(*buffers)])
    for kind in op.kinds(case):
        inputs, truth, bounds = facts(case, kind)
        first = run(backend, program, kernel, buffers, inputs, 0xFF)
        again = run(backend, program, kernel, buffers, inputs, 0x7F)
        for arg, got, twice, want, bound in zip(op.outputs_of(case), first, again, truth, bounds, strict=True):
            finding = judge(f"{backend.name}: {case.id} {kind}", arg.name, got, want, bound)
            assert finding.ok, str(finding)
            assert got.tobytes() == twice.tobytes(), f"{finding.case_id} {arg.name}: two runs differ"
        assert all(one.intact() for one in guarded), f"{backend.name}: {case.id} {kind}: wrote outside its buffers"


def run(
    backend: Backend, program: Any, kernel: Any, buffers: Sequence[Buffer], inputs: Sequence[Array], poison: int
) -> list[Array]:
    """Poison the outputs, run once, check the count of launches and the inputs; returns the outputs."""
    left = iter(inputs)
    given = [None if arg.role == "out" else next(left) for arg in kernel.args]
    for arg, buffer, array in zip(kernel.args, buffers, given, strict=True):
        backend.write(buffer, filled(arg.shape, arg.dtype, poison) if array is None else array)
    before, total = backend.dispatches.counts.get(kernel.id, 0), backend.dispatches.total
    program.run()
    backend.sync()
    assert backend.dispatches.counts.get(kernel.id, 0) == before + 1, f"{kernel.id} was not launched once"
    assert backend.dispatches.total == total + 1, f"something else than {kernel.id} was launched"
    outputs = []
    for arg, buffer, array in zip(kernel.args, buffers, given, strict=True):
        got = backend.download(buffer)
        assert got.shape == arg.shape and got.dtype == DTYPES[arg.dtype], f"{arg.name}: {got.dtype}{got.shape}"
        if arg.role == "in":
            assert got.tobytes() == array.tobytes(), f"{kernel.id} changed its input {arg.name}"
        else:
            outputs.append(got)
    return outputs


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


def lying(lie: Callable[[NumpyBound, Callable[[], None]], None]) -> NumpyBackend:
    """A numpy backend whose launches go through ``lie``."""

    class Program(NumpyProgram):
        def _run(self) -> None:
            for launch in self.launches:
                assert isinstance(launch, NumpyBound)
                lie(launch, launch)

    class Lying(NumpyBackend):
        def record(self, launches: Sequence[Any]) -> NumpyProgram:
            return Program(self, launches)

    return Lying()


def _nothing(bound: NumpyBound, launch: Callable[[], None]) -> None:
    pass


def _tail_forgotten(bound: NumpyBound, launch: Callable[[], None]) -> None:
    out = bound.buffers[-1].handle
    kept = out[..., -1].copy()
    launch()
    out[..., -1] = kept


def _writes_beyond(bound: NumpyBound, launch: Callable[[], None]) -> None:
    launch()
    whole = bound.buffers[-1].handle.base
    (whole if whole.base is None else whole.base)[-1] = 0


def _spoils_an_input(bound: NumpyBound, launch: Callable[[], None]) -> None:
    launch()
    bound.buffers[0].handle.reshape(-1)[0] += 1


def _unrepeatable(bound: NumpyBound, launch: Callable[[], None]) -> None:
    launch()
    out = bound.buffers[-1].handle
    out *= 1 + 6e-8 * np.random.default_rng().integers(0, 2, out.shape)


def _not_a_number(bound: NumpyBound, launch: Callable[[], None]) -> None:
    launch()
    bound.buffers[-1].handle[..., 0] = np.nan


@pytest.mark.parametrize(
    "lie", [_nothing, _tail_forgotten, _writes_beyond, _spoils_an_input, _unrepeatable, _not_a_number]
)
@pytest.mark.parametrize("op", ["add", "rmsnorm", "dense_gemv"])
def test_a_lying_kernel_is_found(op: str, lie: Callable[[NumpyBound, Callable[[], None]], None]) -> None:
    case = ops.get(op).cases()[-1] if op != "dense_gemv" else ops.get(op).case(M=3, N=17, K=66)
    with pytest.raises(AssertionError):
        check_case(lying(lie), case)


def test_an_uncounted_launch_is_found() -> None:
    class Silent(NumpyProgram):
        def run(self) -> None:
            self._run()

    class Lying(NumpyBackend):
        def record(self, launches: Sequence[Any]) -> NumpyProgram:
            return Silent(self, launches)

    with pytest.raises(AssertionError, match="not launched once"):
        check_case(Lying(), ops.get("add").cases()[0])


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
