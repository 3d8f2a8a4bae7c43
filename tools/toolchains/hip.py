"""AMD's compilers: a bare clang, and hipRTC, which is what the hip backend uses, as a library. Neither needs a driver.

Resources come from the metadata that the loader of a device reads, and occupancy from clang's remarks in the assembly.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from kparity.errors import CompileFailed, Unavailable, WrongInput
from kparity.ops.assemble import Source
from tools.toolchains import Resources, Target, Toolchain, failed, numbered, output, runtime_compile, runtime_version

_PT_NOTE, _NT_AMDGPU_METADATA = 4, 32

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


def metadata(code: bytes) -> Mapping[str, Any]:
    """The metadata of a code object, an ELF file with a MessagePack map in a note ``AMDGPU``; else WrongInput."""
    try:
        if code[:6] != b"\x7fELF\x02\x01":
            raise WrongInput("code object: not a 64-bit little-endian ELF file")
        start, size, count = struct.unpack_from("<Q", code, 32)[0], *struct.unpack_from("<HH", code, 54)
        for header in range(start, start + size * count, size):
            kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", code, header)
            at = offset
            while kind == _PT_NOTE and at < offset + length:
                name, payload, note = struct.unpack_from("<III", code, at)
                body = at + 12 + (name + 3) // 4 * 4
                if note == _NT_AMDGPU_METADATA and code[at + 12 : at + 18] == b"AMDGPU":
                    return msgspec.msgpack.decode(code[body : body + payload], type=dict[str, Any])
                at = body + (payload + 3) // 4 * 4
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongInput(f"code object: cut off or damaged ({error})") from None
    raise WrongInput("code object: no AMDGPU metadata note")


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
        self.version = output(path, "--version").splitlines()[0]

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
        names = re.findall(r"\.amdhsa_kernel (\w+)", assembly)
        counts = [int(count) for count in re.findall(r"^; Occupancy: (\d+)", assembly, re.MULTILINE)]
        occupancy = dict(zip(names, counts, strict=True)) if len(names) == len(counts) else {}
        return resources(yaml.safe_load(note[1])["amdhsa.kernels"], occupancy)


LIBRARIES = tuple(f"lib{name}.so.{major}" for major in (7, 6, 5) for name in ("hiprtc", "amdhip64"))
"""hipRTC was a part of libamdhip64 up to ROCm 5."""


@cache
def _loaded() -> tuple[Any, str | None]:
    """The first library that has hipRTC, and its version, with the name of the file, as the process's map tells it."""
    for name in LIBRARIES:
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            version = runtime_version(library, "hiprtc")
            maps = Path("/proc/self/maps").read_text(encoding="utf-8")
            file = re.search(rf"/({re.escape(name.partition('.so')[0])}\.so\S*)$", maps, re.MULTILINE)
            return library, f"hipRTC {version} ({file[1] if file else name})"
    return None, None


def _version() -> str | None:
    return _loaded()[1]


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

    def targets(self) -> list[Target]:
        return [Target("gfx90a", 64), Target("gfx1030", 32)]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        options = [f"--offload-arch={target.arch}", *FLAGS]
        library, _ = _loaded()
        status, log, code = runtime_compile(library, "hiprtc", source, self.prelude, options, code=True)
        if status or log.strip():
            raise failed(source, log)
        return resources(metadata(code)["amdhsa.kernels"])
