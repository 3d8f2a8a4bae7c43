"""hip: the CUDA adapter on CuPy for ROCm, with hipRTC, its own prelude and its own probes.

CuPy has no stream capture on ROCm so far: then kernels are launched one by one, and the log and ``info`` say so.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from kparity.backends._cupy import cdll
from kparity.backends.cuda import CudaBackend
from kparity.errors import Unavailable

KFD = Path("/dev/kfd")
"""The kernel driver's device file: who may not open it sees no GPU."""


class HipBackend(CudaBackend):
    """One AMD device. A wavefront has 32 or 64 lanes, as the device says."""

    name = "hip"
    prelude: ClassVar[str] = "hip"
    api: ClassVar[str] = "HIP"
    compiler_name: ClassVar[str] = "hipRTC"
    tag: ClassVar[str] = "KP-HIP"
    package: ClassVar[str] = 'pip install "kparity[rocm]"'
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
            raise Unavailable(
                f"no ROCm library (libamdhip64.so not found, nor in {root})",
                "install ROCm, or set ROCM_PATH",
                "KP-HIP-NOROCM",
            )
        if KFD.exists() and not os.access(KFD, os.R_OK | os.W_OK):
            raise Unavailable(
                f"no permission to open {KFD}",
                "add the user to the groups render and video (in a container: --device /dev/kfd --device /dev/dri)",
                "KP-HIP-NOPERMISSION",
            )
        count = ctypes.c_int(0)
        status = driver.hipGetDeviceCount(ctypes.byref(count)) if KFD.exists() else None
        if status != 0 or count.value == 0:
            told = (
                f"{KFD} does not exist"
                if status is None
                else f"hipGetDeviceCount returned {status}, {count.value} devices, {cls._visibility()}"
            )
            raise Unavailable(
                f"no HIP device ({told})",
                "check rocminfo, HIP_VISIBLE_DEVICES and the amdgpu driver",
                "KP-HIP-NODEVICE",
            )
        return driver

    @classmethod
    def _probe_library(cls, cupy: Any) -> None:
        if not cupy.cuda.runtime.is_hip:
            raise Unavailable(
                "the installed CuPy is built for CUDA", f"pip uninstall it, then {cls.package}", "KP-HIP-NOLIB"
            )

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
