"""The cuda and hip adapters where there is no device: each reason has its own code, most before CuPy is imported.

What they compute is tested by ``test_ops.py`` on machines that have a device.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kparity.backends import cuda, hip
from kparity.backends.cuda import CudaBackend
from kparity.backends.hip import HipBackend
from kparity.errors import Unavailable


class FakeDriver:
    """A driver library: its start status, its devices, its version."""

    def __init__(self, status: int = 0, devices: int = 1, version: int = 13000) -> None:
        self.status, self.devices, self.version = status, devices, version

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, out: Any) -> int:
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = self.version
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = self.devices
        return 0

    hipGetDeviceCount = cuDeviceGetCount


def fake_cupy(is_hip: bool = False, driver: int = 13000, library: int = 13000, devices: int = 1) -> Any:
    runtime = SimpleNamespace(
        is_hip=is_hip,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: library,
        getDeviceCount=lambda: devices,
    )
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


def refused(monkeypatch: pytest.MonkeyPatch, adapter: type[CudaBackend], driver: Any, cupy: Any, index: int = 0) -> str:
    """Open the adapter on a machine with this driver and this CuPy; the code of the refusal."""

    def imported(name: str) -> Any:
        if cupy is None:
            raise ImportError(f"No module named {name!r}")
        return cupy

    for module in (cuda, hip):
        monkeypatch.setattr(module, "cdll", lambda names: driver)
    monkeypatch.setattr(cuda, "import_module", imported)
    with pytest.raises(Unavailable) as caught:
        adapter.open(index)
    assert caught.value.reason and caught.value.remedy
    return caught.value.code


@pytest.mark.parametrize(
    ("driver", "cupy", "code"),
    [
        (None, None, "KP-CUDA-NODRIVER"),
        (FakeDriver(status=34), None, "KP-CUDA-NODRIVER"),
        (FakeDriver(status=100), None, "KP-CUDA-NODEVICE"),
        (FakeDriver(devices=0), None, "KP-CUDA-NODEVICE"),
        (FakeDriver(status=803), None, "KP-CUDA-OLDDRIVER"),
        (FakeDriver(), None, "KP-CUDA-NOLIB"),
        (FakeDriver(), fake_cupy(is_hip=True), "KP-CUDA-NOLIB"),
        (FakeDriver(), fake_cupy(driver=12080), "KP-CUDA-OLDDRIVER"),
        (FakeDriver(), fake_cupy(devices=0), "KP-CUDA-NODEVICE"),
    ],
)
def test_cuda_reasons(monkeypatch: pytest.MonkeyPatch, driver: Any, cupy: Any, code: str) -> None:
    assert refused(monkeypatch, CudaBackend, driver, cupy) == code


@pytest.mark.parametrize(
    ("driver", "kfd", "cupy", "code"),
    [
        (None, True, None, "KP-HIP-NOROCM"),
        (FakeDriver(), False, None, "KP-HIP-NODEVICE"),
        (FakeDriver(devices=0), True, None, "KP-HIP-NODEVICE"),
        (FakeDriver(), True, None, "KP-HIP-NOLIB"),
        (FakeDriver(), True, fake_cupy(is_hip=False), "KP-HIP-NOLIB"),
        (FakeDriver(), True, fake_cupy(is_hip=True, devices=0), "KP-HIP-NODEVICE"),
    ],
)
def test_hip_reasons(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Any, kfd: bool, cupy: Any, code: str
) -> None:
    file = tmp_path / "kfd"
    if kfd:
        file.touch()
    monkeypatch.setattr(hip, "KFD", file)
    assert refused(monkeypatch, HipBackend, driver, cupy) == code


def test_hip_without_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(hip, "KFD", tmp_path / "kfd")
    monkeypatch.setattr(hip.os, "access", lambda path, mode: False)  # root may open everything
    assert refused(monkeypatch, HipBackend, FakeDriver(), None) == "KP-HIP-NOPERMISSION"


def test_the_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cdll", lambda names: None)
    with pytest.raises(Unavailable, match=r"no CUDA driver \(libcuda\.so\.1 not found\)"):
        CudaBackend.open()


@pytest.mark.parametrize(
    ("major", "minor", "target"), [(9, 0, "sm_90"), (7, 5, "sm_75"), (10, 3, "compute_90"), (13, 0, "compute_120")]
)
def test_the_target_is_the_devices_own_or_the_newest_known(major: int, minor: int, target: str) -> None:
    backend = object.__new__(CudaBackend)
    backend.properties = {"major": major, "minor": minor}
    backend.cupy = SimpleNamespace(
        cuda=SimpleNamespace(nvrtc=SimpleNamespace(getSupportedArchs=lambda: (75, 80, 90, 120)))
    )
    backend.arch = backend._arch()
    assert backend.arch == target
    assert f"--gpu-architecture={target}" in backend._options()
    assert not any("fast" in option for option in backend._options())


def test_hip_targets_have_no_feature_flags() -> None:
    backend = object.__new__(HipBackend)
    backend.properties = {"gcnArchName": b"gfx90a:sramecc+:xnack-"}
    backend.arch = backend._arch()
    assert backend.arch == "gfx90a"
    assert "--offload-arch=gfx90a" in backend._options()
