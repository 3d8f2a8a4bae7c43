"""hip: the CUDA adapter on CuPy for ROCm, with hipRTC, its own prelude and its own probes.

CuPy has no stream capture on ROCm so far: then kernels are launched one by one, and the log and ``info`` say so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from kparity.backends._cupy import cdll
from kparity.backends.cuda import CudaBackend
from kparity.device.remedies import Reason, missing_package

KFD = Path("/dev/kfd")
"""The kernel driver's device file: who may not open it sees no GPU."""


class HipBackend(CudaBackend):
    """One AMD device. A wavefront has 32 or 64 lanes, as the device says."""

    name = "hip"
    api = "HIP"
    place = 20
    packages = ("cupy-rocm-7-0",)
    extra = "rocm"
    libraries = ("libamdhip64.so", "libhiprtc.so")
    nodes = (str(KFD), "/dev/dri")
    driver_files = ("/sys/module/amdgpu/version", "/opt/rocm/lib/libamdhip64.so*")
    environment = (
        "HIP_*",
        "HIPRTC_*",
        "COMGR_*",
        "AMDGPU_*",
        "ROCR_*",
        "HSA_*",
        "ROCM_*",
        "AMD_*",
        "GPU_*",
        "CUPY_*",
        "KPARITY_DEBUG",
    )
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-HIP-NOLIB": missing_package(packages[0], extra),
        "KP-HIP-NOROCM": Reason(
            "no ROCm runtime",
            "libamdhip64.so was not found by the dynamic linker nor under /opt/rocm/lib.",
            "install ROCm 7 from AMD's own repository (rocm.docs.amd.com), or set ROCM_PATH or the linker's path to it",
            ("LD_LIBRARY_PATH=/opt/rocm/lib",),
        ),
        "KP-HIP-NOPERMISSION": Reason(
            "/dev/kfd cannot be opened",
            "The kernel driver is loaded, but this user may not use it.",
            "add the user to the groups render and video, then log in again (in a container: --device /dev/kfd "
            "--device /dev/dri)",
            (f"sudo usermod -aG render,video {os.environ.get('USER', 'root')}",),
        ),
        "KP-HIP-NODEVICE": Reason(
            "a ROCm runtime, but no device",
            "The runtime reports no device with this index, or /dev/kfd does not exist.",
            "check rocminfo, HIP_VISIBLE_DEVICES and the amdgpu driver",
            ("rocminfo", "HIP_VISIBLE_DEVICES=0"),
        ),
        "KP-HIP-NOARCH": Reason(
            "no code for this AMD device",
            "hipRTC does not know the device's architecture, or the runtime does not load what hipRTC makes.",
            "install a ROCm that supports the device, and the CuPy that goes with it",
        ),
    }
    prelude: ClassVar[str] = "hip"
    compiler_name: ClassVar[str] = "hipRTC"
    tag: ClassVar[str] = "KP-HIP"
    visible: ClassVar[tuple[str, ...]] = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    processors: ClassVar[str] = "CUs"
    node_query: ClassVar[str] = "hipGraphGetNodes"
    max_items: ClassVar[int] = (1 << 32) - 1

    @classmethod
    def _probe_driver(cls) -> Any:
        root = Path(os.environ.get("ROCM_PATH") or "/opt/rocm") / "lib"
        names = [f"libamdhip64.so{suffix}" for suffix in ("", ".7", ".6", ".5")]
        driver = cdll([*names, *(str(root / name) for name in names)])
        if driver is None:
            raise cls.unavailable("KP-HIP-NOROCM", f"no ROCm library (libamdhip64.so not found, nor in {root})")
        if KFD.exists() and not os.access(KFD, os.R_OK | os.W_OK):
            raise cls.unavailable("KP-HIP-NOPERMISSION", f"no permission to open {KFD}")
        count = ctypes.c_int(0)
        status = driver.hipGetDeviceCount(ctypes.byref(count)) if KFD.exists() else None
        if status != 0 or count.value == 0:
            message = (
                f"{KFD} does not exist"
                if status is None
                else f"hipGetDeviceCount returned {status}, {count.value} devices, {cls._visibility()}"
            )
            raise cls.unavailable("KP-HIP-NODEVICE", f"no HIP device ({message})")
        return driver

    @classmethod
    def _probe_library(cls, cupy: Any) -> None:
        if not cupy.cuda.runtime.is_hip:
            raise cls._other_cupy("CUDA")

    @staticmethod
    def _version(number: int) -> str:
        """``60342134`` as HIP counts it: ``6.3``."""
        return f"{number // 10_000_000}.{number // 100_000 % 100}"

    def _arch(self) -> str:
        """The target with its feature flags, as in ``gfx90a:sramecc+:xnack-``: code for other flags does not load."""
        name = self.properties["gcnArchName"]
        return name.decode() if isinstance(name, bytes) else str(name)

    def _target(self) -> str:
        return self.arch

    def _options(self) -> tuple[str, ...]:
        """No fast-math; ``-ffp-contract=on`` fuses within an expression only. wave32 or wave64 is the target's own."""
        return (f"--offload-arch={self.arch}", "-std=c++17", "-O3", "-ffp-contract=on")

    def _binary(self, nvrtc: Any, program: Any) -> bytes:
        return bytes(nvrtc.getPTX(program))  # CuPy's name for hiprtcGetCode

    def _identity(self) -> str:
        """HIP's UUID is no identity on every card: the PCI address is."""
        return f"pci {self.device.pci_bus_id}"

    @staticmethod
    def _release() -> str:
        with suppress(OSError):  # the driver that comes with the Linux kernel has no version of its own
            return Path("/sys/module/amdgpu/version").read_text(encoding="utf-8").strip()
        return ""
