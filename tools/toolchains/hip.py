"""AMD's compilers: a bare clang, and hipRTC, which is what the hip backend uses, as a library. Neither needs a driver.

Resources come from the metadata that the loader of a device reads, and occupancy from clang's remarks in the assembly.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kparity.errors import CompileFailed, Unavailable
from kparity.ops.assemble import Source
from tools.toolchains import Resources, Target, Toolchain, failed, numbered
from tools.toolchains.elf import metadata

WAVES: Mapping[str, tuple[int, ...]] = {
    "gfx90a": (64,),
    "gfx942": (64,),
    "gfx1030": (32, 64),
    "gfx1100": (32, 64),
    "gfx1151": (32, 64),
    "gfx1201": (32, 64),
}
"""Architectures and the wavefronts that each has."""
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=on")
"""What the hip backend gives hipRTC."""
CLANGS = ("clang-19", "clang-20", "clang-21")


def resources(kernels: list[Mapping[str, Any]], occupancy: Mapping[str, int] | None = None) -> list[Resources]:
    """What the metadata says of every entry point."""
    return [
        Resources(
            kernel[".name"], kernel[".vgpr_count"], kernel[".sgpr_count"],
            kernel[".group_segment_fixed_size"], kernel[".private_segment_fixed_size"],
            kernel.get(".vgpr_spill_count", 0) + kernel.get(".sgpr_spill_count", 0),
            (occupancy or {}).get(kernel[".name"]),
        )
        for kernel in kernels
    ]  # fmt: skip


def bad_code(op: str, assembly: str) -> str | None:
    """What the instructions betray: a call, or products of single bytes where the arch has a dot product of four."""
    if "s_swappc" in assembly:
        return "a call: something was not inlined, or comes from a device library"
    if op == "tgemv" and not re.search(r"\bv_(?:dot4|mfma|wmma)", assembly):
        return "the arch has a dot product of bytes, and the text does not use it"
    return None


class Clang(Toolchain):
    """A clang without ROCm: assembly is enough, so that no linker is needed."""

    name = "clang"
    prelude = "hip"

    def __init__(self, path: str) -> None:
        self.path = path
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        self.version = said.splitlines()[0]

    @classmethod
    def open(cls) -> Clang:
        for name in CLANGS:
            if path := shutil.which(name):
                return cls(path)
        raise Unavailable(f"none of {', '.join(CLANGS)} is on PATH", "apt-get install clang-19", "KP-COMPILE-CLANG")

    def targets(self) -> list[Target]:
        return [Target(arch, wave) for arch, waves in WAVES.items() for wave in waves]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        bare = ["-x", "hip", "--cuda-device-only", "-nogpulib", "-nogpuinc", f"--offload-arch={target.arch}"]
        wave = "-mwavefrontsize64" if target.wave == 64 else "-mno-wavefrontsize64"
        # A variant need not read every buffer of its ABI.
        warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
        run = subprocess.run(
            [self.path, *bare, wave, *warnings, *FLAGS, "-S", "-o", "-", "-"],
            input=numbered(source, self.prelude), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if run.returncode or run.stderr.strip():
            raise failed(source, run.stderr)
        if reason := bad_code(source.op, run.stdout):
            raise CompileFailed(source.path, 0, f"{target.name}: {reason}")
        return self._read(run.stdout)

    @staticmethod
    def _read(assembly: str) -> list[Resources]:
        """From the assembly: the metadata, and the occupancy that clang writes after each kernel."""
        import yaml

        note = re.search(r"\.amdgpu_metadata\n(.*?)^\s*\.end_amdgpu_metadata", assembly, re.DOTALL | re.MULTILINE)
        if not note:
            return []
        said = re.findall(r"\.amdhsa_kernel (\w+)|^; Occupancy: (\d+)", assembly, re.MULTILINE)
        names, counts = [name for name, _ in said if name], [int(count) for _, count in said if count]
        occupancy = dict(zip(names, counts, strict=True)) if len(names) == len(counts) else {}
        return resources(yaml.safe_load(note[1])["amdhsa.kernels"], occupancy)


LIBRARIES = tuple(f"lib{name}.so.{major}" for major in (7, 6, 5) for name in ("hiprtc", "amdhip64"))
"""hipRTC was a part of libamdhip64 up to ROCm 5."""


def _loaded() -> tuple[Any, str] | None:
    """The first library that has hipRTC, and its version."""
    for name in LIBRARIES:
        with suppress(OSError, AttributeError):
            library, major, minor = ctypes.CDLL(name), ctypes.c_int(), ctypes.c_int()
            library.hiprtcVersion(ctypes.byref(major), ctypes.byref(minor))
            return library, f"hipRTC {major.value}.{minor.value} ({_real_name(name)})"
    return None


def _version() -> str | None:
    found = _loaded()
    return found[1] if found else None


def _real_name(name: str) -> str:
    """The file behind a library's name, which has the whole version, as far as the process's map tells."""
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            if f"/{name.partition('.so')[0]}.so" in line:
                return line.rpartition("/")[2]
    return name


class Hiprtc(Toolchain):
    """The runtime compiler, with the options of the hip backend.

    Version 5 damages its heap where two threads compile, so it is loaded in child processes only.
    """

    name = "hiprtc"
    prelude = "hip"
    threads = False

    def __init__(self, version: str) -> None:
        self.version = version

    @classmethod
    def open(cls) -> Hiprtc:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            version = child.submit(_version).result()
        if version is None:
            raise Unavailable(
                f"none of {', '.join(LIBRARIES)} has hipRTC",
                "apt-get install libamdhip64-5 libhiprtc-builtins5",
                "KP-COMPILE-HIPRTC",
            )
        return cls(version)

    @cached_property
    def library(self) -> Any:
        """hipRTC, loaded into this process when it first compiles."""
        found = _loaded()
        assert found, "it was there when the toolchain was opened"
        return found[0]

    def targets(self) -> list[Target]:
        return [Target("gfx90a", 64), Target("gfx1030", 32)]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        library, program, size = self.library, ctypes.c_void_p(), ctypes.c_size_t()
        text, options = numbered(source, self.prelude).encode(), [f"--offload-arch={target.arch}", *FLAGS]
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.hiprtcCreateProgram(ctypes.byref(program), text, source.path.encode(), 0, None, None):
            raise CompileFailed(source.path, 0, "hiprtcCreateProgram failed")
        try:
            status = library.hiprtcCompileProgram(program, len(options), encoded)
            library.hiprtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value + 1)
            library.hiprtcGetProgramLog(program, log)
            said = log.value.decode(errors="replace")
            if status or said.strip():
                raise failed(source, said)
            library.hiprtcGetCodeSize(program, ctypes.byref(size))
            code = ctypes.create_string_buffer(size.value)
            library.hiprtcGetCode(program, code)
        finally:
            library.hiprtcDestroyProgram(ctypes.byref(program))
        return resources(metadata(code.raw)["amdhsa.kernels"])
