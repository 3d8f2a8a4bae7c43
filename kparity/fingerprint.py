"""What a verdict depends on: digests of kernels, models and of the host's drivers, cheap enough to take before every
answer.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from kparity.errors import WrongInput

ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "VK_ICD_FILENAMES",
    "VK_DRIVER_FILES",
    "VK_LOADER_DRIVERS_SELECT",
    "OCL_ICD_VENDORS",
    "OCL_ICD_FILENAMES",
    "LD_LIBRARY_PATH",
    "WGPU_BACKEND_TYPE",
    "KPARITY_CPU_ISA",
    "KPARITY_THREADS",
    "POCL_DEVICES",
)
"""Variables that choose another device or another driver."""

DRIVER_FILES = (
    "/usr/share/vulkan/icd.d/*.json",
    "/etc/vulkan/icd.d/*.json",
    "/etc/OpenCL/vendors/*.icd",
    "/proc/driver/nvidia/version",
    "/proc/driver/nvidia/gpus/*/information",
    "/sys/module/amdgpu/version",
    "/sys/module/nvidia/version",
    "/usr/lib/x86_64-linux-gnu/libvulkan*.so*",
    "/usr/lib/x86_64-linux-gnu/libcuda.so*",
    "/usr/lib/x86_64-linux-gnu/libOpenCL.so*",
    "/usr/lib/x86_64-linux-gnu/libLLVM-*.so*",
    "/usr/lib/aarch64-linux-gnu/libvulkan*.so*",
    "/usr/lib/aarch64-linux-gnu/libcuda.so*",
    "/opt/rocm/lib/libamdhip64.so*",
)

LIBRARIES = (
    "numpy",
    "wgpu",
    "pyopencl",
    "pocl-binary-distribution",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "cupy-rocm-7-0",
    "torch",
)


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _identity(path: Path) -> str:
    """Path, target, size and time of change; the content too where the kernel makes it up."""
    if str(path).startswith(("/proc", "/sys")):
        return f"{path}={path.read_text(errors='replace')}"
    status = path.stat()
    return f"{path}={path.resolve()}:{status.st_size}:{status.st_mtime_ns}"


def _named_libraries(manifest: Path) -> list[str]:
    """Libraries that an ICD manifest names, by their identity: a driver update changes them and not the manifest."""
    found = []
    for name in re.findall(r"[\w./+-]+\.so[\w.]*", manifest.read_text(errors="replace")):
        for folder in ("", "/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib64/"):
            library = Path(folder + name)
            if library.is_absolute() and library.exists():
                found.append(_identity(library))
                break
    return found


def host() -> str:
    """Digest of the devices and drivers of this machine, without opening any of them.

    PCI devices, driver files with their times, ICD manifests and the libraries that they name, the variables that
    choose between them, and the versions of the Python libraries that drive them.
    """
    parts = [f"{name}={os.environ.get(name, '')}" for name in ENVIRONMENT]
    for pattern in DRIVER_FILES:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            parts.append(_identity(path))
            if path.suffix in (".json", ".icd"):
                parts += _named_libraries(path)
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        parts.append(":".join(_first_line(device / name) for name in ("vendor", "device", "class")) + f"@{device.name}")
    parts += [_cpu_model(), *(f"{name}={version(name)}" for name in LIBRARIES)]
    return _digest(parts)


def _first_line(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _cpu_model() -> str:
    text = _first_line(Path("/proc/cpuinfo"))
    keep = ("model name", "flags", "microcode", "Features")
    return "\n".join(dict.fromkeys(line for line in text.splitlines() if line.startswith(keep)))


def version(package: str) -> str:
    """Version of an installed distribution, or an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def sources() -> list[Path]:
    """Every file of the package that takes part in a computation."""
    found: set[Path] = set()
    for package in ("kparity", "kparity.kernels", "kparity.backends"):
        # The file of a package, not its path: an editable install has several folders in the path of one package.
        spec = find_spec(package)
        if spec is not None and spec.origin:
            found |= {path.resolve() for path in Path(spec.origin).parent.rglob("*")}
    return sorted(path for path in found if path.suffix in (".py", ".cu", ".wgsl", ".h", ".yaml"))


@lru_cache(maxsize=1)
def kernels() -> str:
    """Digest of everything that computes: kernel texts, adapters, graph, gates and the native module."""
    parts = [f"{path.name}={hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sources()]
    native = find_spec("kparity._native")
    if native is not None and native.origin:
        parts.append(hashlib.sha256(Path(native.origin).read_bytes()).hexdigest())
    return _digest(parts)


def adapter(target: str) -> str:
    """Digest of the file of an adapter that another package brings (``module:Class``)."""
    spec = find_spec(target.partition(":")[0])
    if spec is None or not spec.origin or not Path(spec.origin).exists():
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


ENDINGS = {"cuda": ".cu", "hip": ".cu", "opencl": ".cu", "wgsl": ".wgsl", "torch": "_torch.py", "numpy": ""}
"""Dialect of a kernel id -> how the name of its text ends; numpy runs the reference of the specification."""


@lru_cache(maxsize=256)
def text_sha256(op_name: str, dialect: str, package: str = "kparity.kernels") -> str:
    """SHA-256 of the files that a kernel of an op is made from, in the dialect of its id (``cuda``, ``wgsl``,
    ``avx2``, …).

    GPU texts are taken with their prelude, WGSL with the functions that it uses, native kernels with the headers that
    theirs includes and with the native module, which is what runs. ``package`` holds the texts. Raises WrongInput
    where the op has no text in the dialect.
    """
    native = dialect not in ENDINGS
    name = "__init__.py" if dialect == "numpy" else op_name + ENDINGS.get(dialect, ".h")
    own = _origin(package).parent / op_name / name
    if not own.is_file():
        raise WrongInput(f"{op_name} has no text in the dialect {dialect}: {own} is not there; check the kernel's id")
    preludes = _origin("kparity.kernels").parent / "prelude"
    files = [preludes / f"{dialect}.h"] if ENDINGS.get(dialect) == ".cu" else []
    files += [*_with_parts(own, preludes), *([_origin("kparity._native")] if native else [])]
    return _digest([f"{path.name}={hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files])


def _origin(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or not spec.origin:
        raise WrongInput(f"{module} is not installed; install the package that brings it")
    return Path(spec.origin)


def _with_parts(text: Path, preludes: Path) -> list[Path]:
    """A text with what it includes (``#include "…"``) and uses (``//#use …``), each once."""
    found = [text]
    for each in found:
        content = each.read_text(encoding="utf-8")
        named = [each.parent / name for name in re.findall(r'^#include "(.+)"$', content, re.MULTILINE)]
        named += [preludes / f"{name}.wgsl" for name in re.findall(r"^//#use (\w+)$", content, re.MULTILINE)]
        found += [path for path in named if path.is_file() and path not in found]
    return found
