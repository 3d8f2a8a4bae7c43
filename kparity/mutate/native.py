"""Compiles the native module with patched kernel headers: one instruction set anew, the other objects once for all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from kparity.errors import CompileFailed, Unavailable
from kparity.host import cachedir, install
from kparity.host.revision import checkout

COMMON = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-w")
"""Beside ``csrc/flags.txt``, which CMake reads too: optimised less, since a mutant runs for a second."""
USES_AMX = "-DKPARITY_HAS_AMX"
"""What CMakeLists.txt tells cpu.cpp where the compiler knows AMX."""
SOURCE_OF_ISA = {
    "scalar": "isa_scalar", "avx2": "isa_avx2", "avx512vnni": "isa_avx512", "amx": "isa_amx", "neon": "isa_neon",
}  # fmt: skip


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    if checkout() is None:
        return "native mutants are compiled, and this is no checkout (csrc/ is not here)"
    if compiler() is None:
        return "native mutants are compiled, and there is no C++ compiler (c++, g++ or clang++)"
    try:
        import pybind11  # noqa: F401
    except ImportError:
        return f"native mutants are compiled, and pybind11 is not installed; run {install.extra('tests')}"
    try:
        cachedir.folder("native")
    except OSError as error:
        return f"native mutants are compiled into the cache, and {error}"
    return None


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, else the first of c++, g++ and clang++ on the path."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@lru_cache(maxsize=1)
def best_isa() -> str:
    """The stem of the source of the best instruction set of this machine, or of ``KPARITY_CPU_ISA``; asks the real
    module in a process of its own, because this one is about to load another.
    """
    code = (
        "import os, sys; sys.path = [p for p in sys.path if p]; "
        "from kparity.backends.cpu import choose_isa; print(choose_isa(os.environ.get('KPARITY_CPU_ISA')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return SOURCE_OF_ISA[done.stdout.strip()]


@lru_cache(maxsize=1)
def _tool() -> tuple[Path, str, tuple[str, ...]]:
    """Checkout, compiler and the flags that find Python's and pybind11's headers; raises Unavailable."""
    reason = missing()
    root, tool = checkout(), compiler()
    if reason or root is None or tool is None:
        raise Unavailable(reason or "no compiler", "use a checkout with a C++ compiler", "KP-CPU-NONATIVE")
    import pybind11

    return root, tool, (f"-I{sysconfig.get_paths()['include']}", f"-I{pybind11.get_include()}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _run(source: str, *arguments: str | Path) -> None:
    """The compiler; raises CompileFailed with its own words."""
    done = subprocess.run([_tool()[1], *arguments], capture_output=True, text=True)
    if done.returncode:
        words = (line for line in done.stderr.splitlines() if "error:" in line or "undefined" in line)
        raise CompileFailed(source, 0, next(words, done.stderr[:200]))


def _compile(source: Path, target: Path, *options: str) -> None:
    """One object, atomically; raises CompileFailed."""
    with cachedir.scratch(target.parent) as folder:
        made = folder / target.name
        _run(source.name, *COMMON, *_tool()[2], *flags(source.stem), *options, "-c", source, "-o", made)
        cachedir.seal(made, target)


@lru_cache(maxsize=1)
def _shared_digest() -> str:
    """Of every source that is not a mutant's: the objects of another checkout or compiler are others."""
    root, tool, includes = _tool()
    paths = sorted([*(root / "csrc").glob("*"), *(root / "kernels").glob("*/*.h")])
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    texts = (f"{path.name}\0{path.read_text()}" for path in paths if path.is_file())
    return _digest(best_isa(), version, *COMMON, *includes, *texts)


def _sources(root: Path, isa: str) -> list[str]:
    """Stems of the sources of the module, the patched instruction set left out, and AMX unless it is patched: not every
    compiler knows it.
    """
    found = sorted(path.stem for path in (root / "csrc").glob("*.cpp"))
    others = {"isa_avx2", "isa_avx512"} if isa == "isa_neon" else {"isa_neon"}
    return [stem for stem in found if stem not in {*others, "isa_amx", isa}]


def flags(stem: str) -> list[str]:
    """The flags of a source in ``csrc/flags.txt``."""
    lines = (_tool()[0] / "csrc" / "flags.txt").read_text(encoding="utf-8").splitlines()
    named = [line.partition(": ") for line in lines if not line.startswith("#")]
    return [flag for stems, _, found in named if {"all", stem} & set(stems.split()) for flag in found.split()]


def prepare() -> None:
    """Compile what every mutant shares; raises Unavailable or CompileFailed."""
    import fcntl

    root = _tool()[0]
    isa, folder = best_isa(), cachedir.folder(f"native/{_shared_digest()}")
    with (folder / "lock").open("w") as lock:  # the others wait for the first instead of doing its work again
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stem in _sources(root, isa):
            if not cachedir.intact(folder / f"{stem}.o"):
                amx = [USES_AMX] if stem == "cpu" and isa == "isa_amx" else []
                _compile(root / "csrc" / f"{stem}.cpp", folder / f"{stem}.o", *amx)


def build(patched: Mapping[str, str]) -> Path:
    """The native module with patched headers (path below ``kernels/`` → text); raises CompileFailed."""
    root = _tool()[0]
    prepare()
    isa, shared = best_isa(), cachedir.folder(f"native/{_shared_digest()}")
    name = _digest(isa, *(f"{path}\0{text}" for path, text in sorted(patched.items())))
    module = shared / f"{name}.so"
    if cachedir.intact(module):
        return module
    with cachedir.scratch(shared) as tree:
        others = shutil.ignore_patterns("*.py", "__pycache__", "*.cu", "*.wgsl")
        for part in ("csrc", "kernels"):  # headers name each other by relative paths
            shutil.copytree(root / part, tree / part, ignore=others)
        for path, text in patched.items():
            (tree / "kernels" / path).write_text(text, encoding="utf-8")
        _compile(tree / "csrc" / f"{isa}.cpp", tree / "isa.o")
        objects = [shared / f"{stem}.o" for stem in _sources(root, isa)]
        made = tree / "module.so"
        _run(f"{isa}.cpp", "-shared", *objects, tree / "isa.o", "-lpthread", "-o", made)
        cachedir.seal(made, module)
    return module
