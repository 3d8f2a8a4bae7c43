"""What the torch adapter says about devices that are not here: names, ids, versions, as torch tells them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kparity.backends import torch as adapter

UUID = "00020406-080a-0c0e-1012-1416181a1c1e"


def fake_torch(hip: str | None = None, cuda: int = 1, xpu: int = 0, mps: bool = False, driver: int = 13000) -> Any:
    properties = SimpleNamespace(
        name="Fake", uuid=UUID, major=9, minor=0, warp_size=32, multi_processor_count=132, total_memory=1 << 37,
        gcnArchName="gfx90a:sramecc+:xnack-", driver_version="1.6",
    )  # fmt: skip

    def device(count: int) -> Any:
        return SimpleNamespace(
            device_count=lambda: count, is_available=lambda: count > 0, get_device_properties=lambda device: properties
        )

    return SimpleNamespace(
        __version__="2.11.0", cuda=device(cuda), xpu=device(xpu), version=SimpleNamespace(hip=hip, cuda="13.0"),
        backends=SimpleNamespace(
            mps=SimpleNamespace(is_available=lambda: mps), cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX2")
        ),
        _C=SimpleNamespace(_cuda_getDriverVersion=lambda: driver), get_num_threads=lambda: 2,
    )  # fmt: skip


def test_order_of_the_devices() -> None:
    assert adapter.devices(fake_torch(cuda=2, xpu=1, mps=True)) == ["cuda:0", "cuda:1", "xpu:0", "mps", "cpu"]
    assert adapter.devices(fake_torch(cuda=0)) == ["cpu"]


@pytest.mark.parametrize(
    ("torch", "kind", "wanted"),
    [
        (fake_torch(), "cuda", ("CUDA", "gpu", f"GPU-{UUID}", "CUDA 13.0", "torch 2.11.0, CUDA 13.0")),
        (fake_torch(hip="6.3"), "cuda", ("ROCm", "gpu", UUID, "", "torch 2.11.0, HIP 6.3")),
        (fake_torch(xpu=1), "xpu", ("XPU", "gpu", UUID, "1.6", "torch 2.11.0")),
        (fake_torch(cuda=0), "cpu", ("CPU", "cpu", "", "", "torch 2.11.0")),
    ],
)
def test_devices_are_what_torch_says(torch: Any, kind: str, wanted: tuple[str, ...]) -> None:
    info = adapter.describe(torch, SimpleNamespace(type=kind))
    assert (info.api, info.kind, info.uuid, info.driver, info.library) == wanted
    if kind == "cuda":
        assert info.detail == ("gfx90a:sramecc+:xnack-, 132 CUs" if torch.version.hip else "sm_90, 132 SMs")


def test_the_device_that_serves_is_the_one_that_is_waited_for() -> None:
    waited: list[Any] = []
    calls = SimpleNamespace(synchronize=lambda *device: waited.append(device), OutOfMemoryError=MemoryError)
    devices = [SimpleNamespace(type=kind) for kind in ("cuda", "xpu", "mps", "cpu")]
    for device in devices:
        backend: Any = object.__new__(adapter.TorchBackend)
        backend.device, backend.torch = device, SimpleNamespace(cuda=calls, xpu=calls, mps=calls)
        backend.sync()
    assert waited == [(devices[0],), (devices[1],), ()]
