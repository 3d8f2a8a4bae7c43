"""cuda-ptx: the adapter of cuda over an interpreter of PTX. It executes the CUDA texts where there is no GPU.

NVRTC compiles the very text with the very options of cuda, and lines beside them (``-lineinfo``); ``kparity.ptx`` runs
what comes out on the host. It is no GPU, is tried only where it is named, and its kernel ids say ``ptx``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kparity.backends._cupy import CupyKernel
from kparity.backends.cuda import CudaBackend
from kparity.device.adapter import DeviceInfo
from kparity.device.remedies import Reason, missing_package
from kparity.ops.assemble import Source
from kparity.ops.spec import Case, Op

if TYPE_CHECKING:
    from kparity.ptx.text import Place


class CudaPtxBackend(CudaBackend):
    """The interpreter as one device. ``sanitize`` and ``perturb``: see ``kparity.ptx.blocks.Options``."""

    name = "cuda-ptx"
    api = "PTX"
    place: ClassVar[int | None] = None
    slow = True
    id_dialects = ("ptx",)
    drives_gpu = False
    packages = ("nvidia-cuda-nvrtc",)
    extra = "ptx"
    libraries: ClassVar[tuple[str, ...]] = ()
    nodes: ClassVar[tuple[str, ...]] = ()
    driver_files = ()
    environment = ()
    software = ("ptx interpreter",)
    options = ("sanitize", "perturb")
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-CUDA-PTX-NOLIB": missing_package(packages[0], extra),
        "KP-CUDA-PTX-NODEVICE": Reason(
            "the PTX interpreter is one device",
            "An index above 0 was asked for; PTX is interpreted on the machine that it is asked on.",
            "use index 0",
        ),
        "KP-CUDA-PTX-NOARCH": Reason(
            "no code for this interpreter",
            "The installed NVRTC does not compile for the compute capability that is interpreted.",
            "install another nvidia-cuda-nvrtc (12 or 13)",
        ),
    }
    tag: ClassVar[str] = f"{CudaBackend.tag}-PTX"
    hint: ClassVar[str] = ""
    visible: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def open(cls, index: int = 0, sanitize: bool = False, perturb: bool = False) -> CudaPtxBackend:
        if index != 0:
            raise cls.unavailable("KP-CUDA-PTX-NODEVICE", f"there is no PTX interpreter {index}")
        # Whoever asks what backends there are must not wait for an interpreter.
        from kparity.ptx import nvrtc
        from kparity.ptx.blocks import Options
        from kparity.ptx.device import cupy

        library = nvrtc.library()
        if library is None:
            raise cls.unavailable("KP-CUDA-PTX-NOLIB", "NVRTC was not found, nor the wheel that brings it")
        return cls(cupy(library, Options(sanitize, perturb)), index)

    def _arch(self) -> str:
        return super()._arch().replace("sm_", "compute_")

    def _options(self) -> tuple[str, ...]:
        return (*super()._options(), "-lineinfo")

    def _describe(self) -> DeviceInfo:
        properties = self.properties
        return DeviceInfo(
            backend=self.name, device=properties["name"], kind="software", api=self.api, driver="",
            library=f"numpy {np.__version__}, NVRTC {'.'.join(map(str, self.cupy.cuda.nvrtc.getVersion()))}",
            max_binding=properties["totalGlobalMem"], max_threads=properties["maxThreadsPerBlock"],
            subgroup=properties["warpSize"], detail=f"compute capability {properties['major']}.{properties['minor']}",
        )  # fmt: skip

    def _module(self, source: Source) -> Any:
        def where(place: Place) -> str:
            path, line = source.place(place.line)
            called = f" (called at line {source.place(place.caller)[1]})" if place.caller else ""
            return f"{path}:{line}{called}"

        module = super()._module(source)
        module.where = where
        return module

    def build(self, op: Op, case: Case) -> CupyKernel:
        kernel = super().build(op, case)
        arguments = [(arg.name, arg.role) for arg in op.args(case)]
        arguments += [(arg.name, arg.role) for arg in op.scratch(case, self.dialect)]
        for at, function in enumerate(kernel.functions):
            function.arguments, function.first = arguments, at == 0
        return kernel
