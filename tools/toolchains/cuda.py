"""CUDA's compilers: nvcc on PATH, and NVRTC, which is what the cuda backend uses, as a library. No driver is needed.

The archs are asked of the compiler. Resources are those that ``ptxas -v`` tells, stack frames and spills among them.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from kparity.errors import Unavailable
from kparity.ops.assemble import Source
from tools.toolchains import (
    Resources,
    Target,
    Toolchain,
    failed,
    numbered,
    output,
    runtime_compile,
    runtime_version,
)

ARCHS = (75, 80, 86, 89, 90, 100, 120)
FLAGS = ("--fmad=true", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
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

    def __init__(self, path: str) -> None:
        self.path = path
        release = re.search(r"release .*", output(path, "--version"))
        self.version = f"nvcc {release[0]}" if release else "nvcc"

    @classmethod
    def open(cls) -> Nvcc:
        path = shutil.which("nvcc")
        if path is None:
            raise Unavailable("nvcc is not on PATH", "install the CUDA toolkit", "KP-COMPILE-NVCC")
        return cls(path)

    def targets(self) -> list[Target]:
        listed = output(self.path, "--list-gpu-arch").split()
        known = [arch for arch in ARCHS if f"compute_{arch}" in listed]
        return [Target(f"sm_{arch}") for arch in sorted({known[0], known[-1]})] if known else []

    def compile(self, source: Source, target: Target) -> list[Resources]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{source.op}.cu"
            file.write_text(numbered(source, self.prelude), encoding="utf-8")
            options = ["-cubin", f"-arch={target.arch}", "-std=c++17", "-Xptxas", "-v", "-Werror=all-warnings", *FLAGS]
            command = [self.path, *options, "-o", f"{file}.cubin", str(file)]
            run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return judged(source, run.returncode, run.stdout + run.stderr)


class Nvrtc(Toolchain):
    """The runtime compiler, with the options of the cuda backend."""

    name = "nvrtc"
    prelude = "cuda"

    def __init__(self, library: Any) -> None:
        self.library = library
        self.version = f"NVRTC {runtime_version(library, 'nvrtc')}"

    @classmethod
    def open(cls) -> Nvrtc:
        wheels = Path(sysconfig.get_path("purelib")) / "nvidia"  # of nvidia-cuda-nvrtc
        installed = sorted(wheels.glob("*/lib/libnvrtc.so.[0-9]*"), reverse=True)
        for name in ("libnvrtc.so.13", "libnvrtc.so.12", *(path for path in installed if ".alt." not in path.name)):
            with suppress(OSError):
                return cls(ctypes.CDLL(str(name)))
        raise Unavailable("libnvrtc was not found", "pip install nvidia-cuda-nvrtc", "KP-COMPILE-NVRTC")

    def targets(self) -> list[Target]:
        count = ctypes.c_int()
        self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self.library.nvrtcGetSupportedArchs(known)
        return [Target(f"sm_{arch}") for arch in ARCHS if arch in list(known)]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        options = [f"--gpu-architecture={target.arch}", "--std=c++17", "--ptxas-options=-v", *FLAGS]
        status, log, _ = runtime_compile(self.library, "nvrtc", source, self.prelude, options)
        return judged(source, status, log)
