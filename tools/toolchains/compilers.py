"""The compilers: nvcc and a bare clang on PATH; NVRTC and hipRTC, which the cuda and hip backends use, as libraries.

None needs a driver. CUDA's archs are asked of the compiler, and resources are those that ``ptxas -v`` tells, stack
frames and spills among them. AMD's come from the metadata that the loader of a device reads, and occupancy from
clang's remarks in the assembly.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from kparity.errors import CompileFailed, Unavailable, WrongInput
from kparity.host import install
from kparity.ops.assemble import Source
from tools.toolchains import Resources, Target, Toolchain, failed, numbered, output, runtime_compile, runtime_version

ARCHS = (75, 80, 86, 89, 90, 100, 120)
CUDA_FLAGS = ("--fmad=true", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
"""What the cuda backend gives NVRTC: no fast-math."""

_ENTRY = re.compile(
    r"Compiling entry function '(?P<entry>\w+)' for '\w+'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_TOLD = re.compile(r"^ptxas (?:info\b|\s*\.)[^\n]*\n?|^ +\d+ bytes stack frame[^\n]*\n?", re.MULTILINE)


def judged(source: Source, status: int, log: str) -> list[Resources]:
    """The resources of every entry point that ``ptxas -v`` tells; whatever else stands in a log is a warning."""
    rest = _TOLD.sub("", log)
    if status or rest.strip():
        raise failed(source, rest)
    entries = []
    for entry in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        spilled = int(entry["stores"]) + int(entry["loads"])
        kept = int(shared[1]) if shared else 0
        entries.append(Resources(entry["entry"], int(entry["registers"]), None, kept, int(entry["stack"]), spilled))
    return entries


class Nvcc(Toolchain):
    """The offline compiler. Slow to start: it takes the oldest arch and the newest; NVRTC takes all."""

    name = "nvcc"
    prelude = "cuda"
    brief = True

    def __init__(self) -> None:
        path = shutil.which("nvcc")
        if path is None:
            raise Unavailable("nvcc is not on PATH", "install the CUDA toolkit", "KP-COMPILE-NVCC")
        release = re.search(r"release .*", output(path, "--version"))
        self.path, self.version = path, f"nvcc {release[0]}" if release else "nvcc"

    def targets(self) -> list[Target]:
        listed = output(self.path, "--list-gpu-arch").split()
        known = [arch for arch in ARCHS if f"compute_{arch}" in listed]
        return [Target(f"sm_{arch}") for arch in sorted({known[0], known[-1]})] if known else []

    def compile(self, source: Source, target: Target) -> list[Resources]:
        with tempfile.TemporaryDirectory() as folder:
            return self._cubin(source, target, Path(folder) / f"{source.op}.cu")

    def machine_code(self, source: Source, target: Target) -> tuple[list[Resources], str]:
        """The resources, and the listing of the SASS with its encoding; raises Unavailable without nvdisasm."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{source.op}.cu"
            found = self._cubin(source, target, file)
            return found, output(nvdisasm(), "-c", "-hex", f"{file}.cubin")

    def _cubin(self, source: Source, target: Target, file: Path) -> list[Resources]:
        file.write_text(numbered(source), encoding="utf-8")
        options = ["-cubin", f"-arch={target.arch}", "-std=c++17", "-Xptxas", "-v", "-Werror=all-warnings"]
        command = [self.path, *options, *CUDA_FLAGS, "-o", f"{file}.cubin", str(file)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return judged(source, run.returncode, run.stdout + run.stderr)


def nvdisasm() -> str:
    """The disassembler, of a toolkit or of its wheel; raises Unavailable."""
    wheels = sorted((Path(sysconfig.get_path("purelib")) / "nvidia").glob("*/bin/nvdisasm"))
    path = shutil.which("nvdisasm") or next((str(each) for each in wheels), None)
    if path is None:
        raise Unavailable("nvdisasm was not found", install.pip("nvidia-cuda-nvdisasm"), "KP-COMPILE-NVDISASM")
    return path


class Nvrtc(Toolchain):
    """The runtime compiler, with the options of the cuda backend."""

    name = "nvrtc"
    prelude = "cuda"

    def __init__(self) -> None:
        wheels = Path(sysconfig.get_path("purelib")) / "nvidia"  # of nvidia-cuda-nvrtc
        installed = sorted(wheels.glob("*/lib/libnvrtc.so.[0-9]*"), reverse=True)
        for name in ("libnvrtc.so.13", "libnvrtc.so.12", *(path for path in installed if ".alt." not in path.name)):
            with suppress(OSError):
                self.library = ctypes.CDLL(str(name))
                self.version = f"NVRTC {runtime_version(self.library, 'nvrtc')}"
                return
        raise Unavailable("libnvrtc was not found", install.pip("nvidia-cuda-nvrtc"), "KP-COMPILE-NVRTC")

    def targets(self) -> list[Target]:
        count = ctypes.c_int()
        self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self.library.nvrtcGetSupportedArchs(known)
        return [Target(f"sm_{arch}") for arch in ARCHS if arch in list(known)]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        options = [f"--gpu-architecture={target.arch}", "--std=c++17", "--ptxas-options=-v", *CUDA_FLAGS]
        status, log, _ = runtime_compile(self.library, "nvrtc", source, options)
        return judged(source, status, log)


_PT_NOTE, _NT_AMDGPU_METADATA = 4, 32

WAVES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("gfx90a", "gfx942"), (64,)),
    **dict.fromkeys(("gfx1030", "gfx1100", "gfx1151", "gfx1201"), (32, 64)),
}
"""Architectures and the wavefronts that each has."""
HIP_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=on")
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
    """What the instructions betray: a call, a value of a lane that the hardware does not reach, or products of single
    bytes where the arch has a dot product of four.
    """
    if "s_swappc" in assembly:
        return "a call: something was not inlined, or comes from a device library"
    if "s_trap" in assembly:
        return "a value of a lane beyond those that ds_bpermute reaches"
    if op == "tgemv" and not re.search(r"\bv_(?:dot4|mfma|wmma)", assembly):
        return "the arch has a dot product of bytes, and the text does not use it"
    return None


class Clang(Toolchain):
    """A clang without ROCm: assembly is enough, so that no linker is needed."""

    name = "clang"
    prelude = "hip"

    def __init__(self) -> None:
        path = next(filter(None, map(shutil.which, CLANGS)), None)
        if path is None:
            missing = f"none of {', '.join(CLANGS)} is on PATH"
            raise Unavailable(missing, "apt-get install clang-19", "KP-COMPILE-CLANG")
        self.path, self.version = path, output(path, "--version").splitlines()[0]

    def targets(self) -> list[Target]:
        return [Target(arch, wave) for arch, waves in WAVES.items() for wave in waves]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        return self.machine_code(source, target)[0]

    def machine_code(self, source: Source, target: Target) -> tuple[list[Resources], str]:
        """The resources, and the assembly."""
        bare = ["-x", "hip", "--cuda-device-only", "-nogpulib", "-nogpuinc", f"--offload-arch={target.arch}"]
        wave = "-mwavefrontsize64" if target.wave == 64 else "-mno-wavefrontsize64"
        # A variant need not read every buffer of its ABI.
        warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
        run = subprocess.run(
            [self.path, *bare, wave, *warnings, *HIP_FLAGS, "-S", "-o", "-", "-"],
            input=numbered(source), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if run.returncode or run.stderr.strip():
            raise failed(source, run.stderr)
        if reason := bad_code(source.op, run.stdout):
            raise CompileFailed(source.path, 0, f"{target.name}: {reason}")
        return self._read(run.stdout), run.stdout

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

    def __init__(self) -> None:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            version = child.submit(_version).result()
        if version is None:
            packages = "apt-get install libamdhip64-5 libhiprtc-builtins5"
            raise Unavailable(f"none of {', '.join(LIBRARIES)} has hipRTC", packages, "KP-COMPILE-HIPRTC")
        self.version = version

    def targets(self) -> list[Target]:
        return [Target("gfx90a", 64), Target("gfx1030", 32)]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        options = [f"--offload-arch={target.arch}", *HIP_FLAGS]
        library, _ = _loaded()
        status, log, code = runtime_compile(library, "hiprtc", source, options, code=True)
        if status or log.strip():
            raise failed(source, log)
        return resources(metadata(code)["amdhsa.kernels"])
