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

from kparity.errors import CompileFailed, Unavailable
from kparity.ops.assemble import Source
from tools.toolchains import Resources, Target, Toolchain, failed, numbered

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


def resources(log: str) -> list[Resources]:
    """What ``ptxas -v`` says of every entry point."""
    found = []
    for entry in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        spilled = int(entry["stores"]) + int(entry["loads"])
        found.append(
            Resources(entry["entry"], int(entry["registers"]), None, int(shared[1]) if shared else 0,
                      int(entry["stack"]), spilled)
        )  # fmt: skip
    return found


def judged(source: Source, log: str) -> list[Resources]:
    """The resources in a log in which nothing else stands; anything else is a warning."""
    if _TOLD.sub("", log).strip():
        raise failed(source, _TOLD.sub("", log))
    return resources(log)


class Nvcc(Toolchain):
    """The offline compiler. Slow to start: it takes the oldest arch and the newest; NVRTC takes all."""

    name = "nvcc"
    prelude = "cuda"
    brief = True

    def __init__(self, path: str) -> None:
        self.path = path
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        release = re.search(r"release .*", said)
        self.version = f"nvcc {release[0]}" if release else said.strip()

    @classmethod
    def open(cls) -> Nvcc:
        path = shutil.which("nvcc")
        if path is None:
            raise Unavailable("nvcc is not on PATH", "install the CUDA toolkit", "KP-COMPILE-NVCC")
        return cls(path)

    def targets(self) -> list[Target]:
        said = subprocess.run([self.path, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        known = [arch for arch in ARCHS if f"compute_{arch}" in said.split()]
        return [Target(f"sm_{arch}") for arch in sorted({known[0], known[-1]})] if known else []

    def compile(self, source: Source, target: Target) -> list[Resources]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{source.op}.cu"
            file.write_text(numbered(source, self.prelude), encoding="utf-8")
            options = ["-cubin", f"-arch={target.arch}", "-std=c++17", "-Xptxas", "-v", "-Werror=all-warnings", *FLAGS]
            command = [self.path, *options, "-o", f"{file}.cubin", str(file)]
            run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        log = run.stdout + run.stderr
        if run.returncode:
            raise failed(source, _TOLD.sub("", log))
        return judged(source, log)


def _libraries() -> list[str]:
    """Where NVRTC may be: the loader's own places, then the wheel ``nvidia-cuda-nvrtc``."""
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = sorted(wheels.glob("*/lib/libnvrtc.so.[0-9]*"), reverse=True)
    return ["libnvrtc.so.13", "libnvrtc.so.12", *(str(path) for path in found if ".alt." not in path.name)]


class Nvrtc(Toolchain):
    """The runtime compiler, with the options of the cuda backend."""

    name = "nvrtc"
    prelude = "cuda"

    def __init__(self, library: Any) -> None:
        self.library = library
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"NVRTC {major.value}.{minor.value}"

    @classmethod
    def open(cls) -> Nvrtc:
        for name in _libraries():
            with suppress(OSError):
                return cls(ctypes.CDLL(name))
        raise Unavailable("libnvrtc was not found", "pip install nvidia-cuda-nvrtc", "KP-COMPILE-NVRTC")

    def targets(self) -> list[Target]:
        count = ctypes.c_int()
        self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self.library.nvrtcGetSupportedArchs(known)
        return [Target(f"sm_{arch}") for arch in ARCHS if arch in list(known)]

    def compile(self, source: Source, target: Target) -> list[Resources]:
        library, program = self.library, ctypes.c_void_p()
        text = numbered(source, self.prelude).encode()
        options = [f"--gpu-architecture={target.arch}", "--std=c++17", "--ptxas-options=-v", *FLAGS]
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCreateProgram(ctypes.byref(program), text, source.path.encode(), 0, None, None):
            raise CompileFailed(source.path, 0, "nvrtcCreateProgram failed")
        try:
            status = library.nvrtcCompileProgram(program, len(options), encoded)
            size = ctypes.c_size_t()
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value + 1)
            library.nvrtcGetProgramLog(program, log)
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))
        said = log.value.decode(errors="replace")
        if status:
            raise failed(source, _TOLD.sub("", said))
        return judged(source, said)
