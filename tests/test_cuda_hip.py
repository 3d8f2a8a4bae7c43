"""The cuda and hip adapters where there is no device: each reason has its own code, most before CuPy is imported.

What they do with a device is tested by ``test_cuda_fake.py``; what a device computes, by ``test_ops.py`` and
``test_cuda_device.py`` on machines that have one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kparity import ops
from kparity.backends import cuda, hip
from kparity.backends._cupy import Compiler
from kparity.backends.cuda import CudaBackend
from kparity.backends.hip import HipBackend
from kparity.device.codes import explain
from kparity.errors import CompileFailed, Unavailable
from kparity.ops.assemble import gpu_source
from tests.fake_cupy import Library, Machine, cupy


def driver(**options: int) -> Library:
    """A driver library: its start status, its devices."""
    return Library(Machine(), **options)


def library(**options: Any) -> Any:
    """CuPy on such a machine, without NVRTC."""

    def no_compiler() -> None:
        raise RuntimeError("Failure finding libnvrtc.so.13\nsearched here and there")

    found = cupy(Machine(), **options)
    found.cuda.nvrtc.getVersion = no_compiler
    return found


def refused(monkeypatch: pytest.MonkeyPatch, adapter: type[CudaBackend], found: Any, module: Any) -> str:
    """Open the adapter on a machine with this driver and this CuPy; the code of the refusal, which can be explained."""

    def imported(name: str) -> Any:
        if module is None:
            raise ImportError(f"No module named {name!r}")
        return module

    for each in (cuda, hip):
        monkeypatch.setattr(each, "cdll", lambda names: found)
    monkeypatch.setattr(cuda, "import_module", imported)
    with pytest.raises(Unavailable) as caught:
        adapter.open()
    assert caught.value.reason and caught.value.remedy and explain(caught.value.code).remedy
    assert found or adapter is HipBackend or "no CUDA driver (libcuda.so.1 not found)" in caught.value.reason
    return caught.value.code


@pytest.mark.parametrize(
    ("code", "found", "module"),
    [
        ("KP-CUDA-NODRIVER", None, None),
        ("KP-CUDA-NODRIVER", driver(status=34), None),
        ("KP-CUDA-NODEVICE", driver(status=100), None),
        ("KP-CUDA-NODEVICE", driver(devices=0), None),
        ("KP-CUDA-OLDDRIVER", driver(status=803), None),
        ("KP-CUDA-NOLIB", driver(), None),
        ("KP-CUDA-NOLIB", driver(), library(is_hip=True)),
        ("KP-CUDA-OLDDRIVER", driver(), library(version=12080)),
        ("KP-CUDA-NODEVICE", driver(), library(devices=0)),
        ("KP-CUDA-NOLIB", driver(), library()),
        ("KP-HIP-NOROCM", None, None),
        ("KP-HIP-NODEVICE", driver(devices=0), None),
        ("KP-HIP-NOLIB", driver(), None),
        ("KP-HIP-NOLIB", driver(), library(is_hip=False)),
        ("KP-HIP-NODEVICE", driver(), library(is_hip=True, devices=0)),
        ("KP-HIP-NOLIB", driver(), library(is_hip=True)),
    ],
)
def test_what_is_missing_has_a_code(monkeypatch: pytest.MonkeyPatch, code: str, found: Any, module: Any) -> None:
    monkeypatch.setattr(hip, "KFD", Path(__file__))
    assert refused(monkeypatch, CudaBackend if "CUDA" in code else HipBackend, found, module) == code


def test_the_node_of_hip_must_be_there_and_open_to_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hip, "KFD", tmp_path / "kfd")
    assert refused(monkeypatch, HipBackend, driver(), None) == "KP-HIP-NODEVICE"
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(hip.os, "access", lambda path, mode: False)  # root may open everything
    assert refused(monkeypatch, HipBackend, driver(), None) == "KP-HIP-NOPERMISSION"


ARCHES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_90")


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """CuPy's NVRTC, which needs no driver; importing CuPy takes a second, so it is done where a test asks for it."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: the adapter's own compile path is not run")
    if cupy.cuda.runtime.is_hip:
        pytest.skip("CuPy is built for ROCm")
    try:
        cupy.cuda.nvrtc.getVersion()
    except RuntimeError as error:
        pytest.skip(f"NVRTC cannot be loaded: {str(error).splitlines()[0]}")
    return cupy.cuda.nvrtc


@pytest.mark.parametrize("arch", ARCHES)
def test_nvrtc_compiles_every_text(nvrtc: Any, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if int(arch.partition("_")[2]) not in nvrtc.getSupportedArchs():
        pytest.skip(f"this NVRTC does not know {arch}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = object.__new__(CudaBackend)
    backend.arch = arch
    compiler = Compiler(nvrtc, "cuda", backend._options(), backend._binary)
    for op in ops.every():
        source = gpu_source(op, op.cases()[-1], "cuda", extra={"WAVE": 32})
        binary = compiler.compile(source)
        assert binary[:4] == b"\x7fELF" if arch.startswith("sm_") else f".target sm_{arch[8:]}".encode() in binary
        entries = [stage.entry.encode() for stage in op.stages(op.cases()[-1], "gpu")]
        assert all(entry in binary for entry in entries)
        assert compiler.load(source, bytes, ()) == binary
    assert compiler.compiled == len(ops.every())


def test_nvrtc_errors_name_file_and_line(nvrtc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = object.__new__(CudaBackend)
    backend.arch = "sm_90"
    compiler = Compiler(nvrtc, "cuda", backend._options(), backend._binary)
    add = ops.get("add")
    source = gpu_source(add, add.case(M=1, D=1), "cuda", extra={"WAVE": 32})
    lines = source.text.splitlines()
    constants = next(at for at, line in enumerate(lines) if not line.startswith("#define "))
    typedef = next(at for at, line in enumerate(lines) if line.startswith("typedef"))
    for at, first_line, path, line in (
        (source.first_line, source.first_line, "kernels/add/add.cu", 1),
        (typedef, source.first_line + 1, "kernels/prelude/cuda.h", typedef - constants + 1),
    ):
        wrong = replace(source, text="\n".join([*lines[:at], "unheard x;", *lines[at:]]), first_line=first_line)
        with pytest.raises(CompileFailed, match="unheard") as caught:
            compiler.compile(wrong)
        assert (caught.value.path, caught.value.line) == (path, line)
    huge = replace(source, text=source.text + "KERNEL big() { SHARED volatile float x[99999]; x[LANE] = 0.0f; }\n")
    with pytest.raises(CompileFailed, match="shared data"):  # from the assembler: no line, but a reason
        compiler.compile(huge)
