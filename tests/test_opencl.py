"""What only the opencl adapter does: kinds of device, compile errors by line, device seconds, faults with codes.

The parity of its kernels is in ``test_ops.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends import opencl
from kparity.backends.opencl import OpenclBackend
from kparity.device.adapter import Buffer, Program, launched
from kparity.errors import CompileFailed, DeviceFault, Unavailable, WrongInput
from kparity.ops.assemble import kernel_text
from tests.cli import python
from tests.conftest import needing
from tests.refusals import refused

ADD = ops.get("add")
CASE = ADD.case(M=3, D=257)


@pytest.fixture(scope="module")
def device() -> Iterator[OpenclBackend]:
    with needing("opencl"):
        backend = OpenclBackend.open()
    yield backend
    backend.close()


def add_program(device: OpenclBackend, launches: int = 1) -> tuple[Program, Buffer]:
    """A program of additions, and the buffer of their result."""
    shape = (CASE["M"], CASE["D"])
    a, b, y = (device.upload(np.full(shape, value, np.float32)) for value in (1.0, 2.0, np.nan))
    return device.record([device.build(ADD, CASE).bind(a, b, y)] * launches), y


def fake_device(kind: int, name: str) -> Any:
    return SimpleNamespace(type=kind, name=name)


def test_kind_is_never_guessed_upwards(device: OpenclBackend) -> None:
    types = device.cl.device_type
    assert opencl._kind(device.cl, fake_device(types.GPU, "NVIDIA H100")) == "gpu"
    assert opencl._kind(device.cl, fake_device(types.GPU, "llvmpipe (LLVM 15)")) == "software"
    assert opencl._kind(device.cl, fake_device(types.CPU, "pthread-AMD EPYC")) == "cpu"
    assert opencl._kind(device.cl, fake_device(types.CPU | types.GPU, "both")) == "cpu"
    assert opencl._kind(device.cl, fake_device(types.ACCELERATOR, "FPGA")) == "software"
    if "Portable Computing Language" in device.info.driver:
        assert device.info.kind == "cpu" and "cpu device" in device.info.label


def test_gpus_come_before_cpus(device: OpenclBackend) -> None:
    types = device.cl.device_type
    listed = [fake_device(types.CPU, "c"), fake_device(types.GPU, "g"), fake_device(types.ACCELERATOR, "a")]
    platforms = [SimpleNamespace(get_devices=lambda each=each: [each]) for each in listed]
    cl = SimpleNamespace(get_platforms=lambda: platforms, device_type=types, Error=device.cl.Error)
    assert [each.name for each in opencl._devices(cl)] == ["g", "a", "c"]


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with refused(Unavailable, "KP-OPENCL-NOLIB", "[opencl]"):
        OpenclBackend.open()


def test_a_cache_of_pocl_that_cannot_be_written_is_named(
    device: OpenclBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl, "_devices", lambda cl: [])  # which is what PoCL then shows
    monkeypatch.setenv("POCL_CACHE_DIR", "/proc/none")
    with refused(Unavailable, "KP-OPENCL-NOCACHE", "POCL_CACHE_DIR=/proc/none", "unset it"):
        OpenclBackend.open()


def test_no_such_device_and_no_platform(device: OpenclBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(Unavailable, "KP-OPENCL-NODEVICE", "no OpenCL device 99", "index below"):
        OpenclBackend.open(99)

    def refuse() -> list[Any]:
        raise device.cl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(device.cl, "get_platforms", refuse)
    with refused(Unavailable, "KP-OPENCL-NOPLATFORM"):
        OpenclBackend.open()


def test_a_home_that_cannot_be_written(device: OpenclBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from kparity.device.registry import open_backend; b = open_backend('opencl'); print(b.info.kind); b.close()"
    for name in ("XDG_CACHE_HOME", "POCL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert python(text, env={"HOME": "/proc/none"}).strip() == device.info.kind


@pytest.mark.parametrize(
    ("old", "new", "path", "marker"),
    [
        ("y[at] = a[at] + b[at];", "y[at] = a[at] + missing;", "kernels/add/add.cu", "missing"),
        ("#define EXP(value)", "int broken = ;\n#define EXP(value)", "kernels/prelude/opencl.h", "broken"),
    ],
)
def test_compile_error_names_file_and_line(device, monkeypatch, old: str, new: str, path: str, marker: str) -> None:
    source = opencl.gpu_source(ADD, CASE, "opencl")
    more, ((head, lines), *rest) = new.count("\n"), source.before
    own = replace(source, text=source.text.replace(old, new), first_line=source.first_line + more,
                  before=((head, lines + more), *rest))  # fmt: skip
    monkeypatch.setattr(opencl, "gpu_source", lambda *_: own)
    with pytest.raises(CompileFailed) as caught:
        device.build(ADD, CASE)
    assert caught.value.path == path
    told = kernel_text(path.removeprefix("kernels/")).replace(old, new).splitlines()
    assert marker in told[caught.value.line - 1]


def test_device_seconds_are_the_devices_own(device: OpenclBackend) -> None:
    program, y = add_program(device, launches=5)
    before = device.dispatches.total
    seconds = program.run_timed()
    assert 0 < seconds < 1
    assert device.dispatches.total - before == 5
    assert (device.download(y) == 3).all()
    assert device.record([]).run_timed() == 0


def test_texts_are_compiled_once_and_what_is_written_is_bound_once(device: OpenclBackend) -> None:
    kernels = [device.build(ADD, CASE) for _ in range(2)]
    good = [device.empty((CASE["M"], CASE["D"]), "f32") for _ in range(2)]
    with pytest.raises(WrongInput, match="written and bound twice"):
        kernels[0].bind(good[0], good[1], good[1])
    assert kernels[0].compiled is kernels[1].compiled
    assert kernels[0].id == "add_opencl_generic"


def test_a_wave_is_one_of_two_widths(device: OpenclBackend) -> None:
    with pytest.raises(WrongInput, match="wave is 16, expected one of 32, 64"):
        OpenclBackend.open(wave=16)
    for wave in opencl.WAVES:
        other = OpenclBackend.open(wave=wave)
        assert f"#define WAVE {wave}\n" in other.source(ADD, CASE, other.constants).text
        other.close()


def test_launches_share_scratch_and_count_once(device: OpenclBackend) -> None:
    op = ops.get("argmax")
    case = op.case(M=2, N=20_000)
    assert [arg.name for arg in op.scratch(case, "gpu")] == ["keys", "done"]
    kernel = device.build(op, case)
    assert [buffer.shape for buffer in kernel.scratch] == [arg.shape for arg in op.scratch(case, "gpu")]
    x, first, second = (device.empty(*spec) for spec in (((2, 20_000), "f32"), ((2,), "i32"), ((2,), "i32")))
    bound = [kernel.bind(x, first), kernel.bind(x, second)]
    assert bound[0].buffers[-1].handle is bound[1].buffers[-1].handle
    program, before = device.record(bound), device.dispatches.total
    for place in (7, 19_999):
        device.write(x, np.eye(2, 20_000, place, dtype=np.float32))
        program.run()
        assert device.download(first).tolist() == device.download(second).tolist() == [place, (place + 1) % 20_000]
    assert device.dispatches.total == before + 4


def test_groups_that_run_side_by_side_have_local_memory_of_their_own(device: OpenclBackend) -> None:
    op = ops.get("argmax")
    case = op.case(M=1, N=128_256)
    kernel, inputs = device.build(op, case), op.inputs(case, np.random.default_rng(1), "random")
    found = set[bytes]()
    for _ in range(40):
        launched(device, kernel, inputs)
        found.add(device.download(kernel.scratch[0]).tobytes())
    assert len(found) == 1, "what each of the groups has found"


def test_faults_have_codes(device: OpenclBackend) -> None:
    cl, status = device.cl, device.cl.status_code
    for code, expected in (
        (status.MEM_OBJECT_ALLOCATION_FAILURE, "KP-DEVICE-OOM"),
        (status.OUT_OF_RESOURCES, "KP-DEVICE-OOM"),
        (status.DEVICE_NOT_AVAILABLE, "KP-DEVICE-LOST"),
        (status.INVALID_KERNEL_ARGS, "KP-DEVICE-FAULT"),
    ):
        with refused(DeviceFault, expected, "while testing"), opencl._faults(cl, "testing"):
            raise cl.RuntimeError(cl._cl._ErrorRecord(msg="x", code=code, routine="y"))
    case = ADD.case(M=1 << 16, D=1 << 20)
    assert "bytes, one binding of this device holds" in (device.supports(ADD, case) or "")
    with refused(DeviceFault, "KP-DEVICE-OOM"):
        device.empty((1 << 16, 1 << 20), "f32")
