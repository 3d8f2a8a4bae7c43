"""What this machine has for each backend: packages, driver libraries, manifests, device nodes, and what is missing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from kparity.codes import REASONS
from kparity.fingerprint import version
from kparity.probe import runner
from kparity.probe.runner import Request

SHELLS = ("sh", "fish", "pwsh")


@dataclass(frozen=True)
class Needs:
    """Where a backend's parts are looked for."""

    packages: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


NEEDS = {
    "cuda": Needs(
        ("cupy-cuda13x", "cupy-cuda12x"),
        ("libcuda.so.1", "libnvrtc.so"),
        (),
        ("/dev/nvidia0", "/dev/nvidiactl"),
        ("CUDA_VISIBLE_DEVICES",),
    ),
    "hip": Needs(
        ("cupy-rocm-7-0",),
        ("libamdhip64.so", "libhiprtc.so"),
        (),
        ("/dev/kfd", "/dev/dri"),
        ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    ),
    "wgpu": Needs(
        ("wgpu",),
        ("libvulkan.so.1",),
        ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"),
        ("/dev/dri",),
        ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"),
    ),
    "opencl": Needs(
        ("pyopencl", "pocl-binary-distribution"),
        ("libOpenCL.so.1",),
        ("/etc/OpenCL/vendors",),
        ("/dev/dri",),
        ("OCL_ICD_VENDORS",),
    ),
    "torch": Needs(("torch",)),
    "cpu": Needs(),
    "numpy": Needs(("numpy",)),
}


@dataclass(frozen=True)
class Remedy:
    """One way out: a command, or a variable to set; ``text`` where neither helps."""

    text: str
    command: tuple[str, ...] = ()
    variable: tuple[str, str] | None = None

    def line(self, shell: str) -> str:
        """The remedy as one line of sh, fish or pwsh."""
        if self.variable:
            name, value = self.variable
            quoted = _quote(value, shell)
            return {
                "sh": f"export {name}={quoted}",
                "fish": f"set -gx {name} {quoted}",
                "pwsh": f"$env:{name} = {quoted}",
            }[shell]
        if self.command:
            return " ".join(_quote(part, shell) for part in self.command)
        return f"# {self.text}"


def _quote(word: str, shell: str) -> str:
    if shell == "sh":
        return shlex.quote(word)
    if word and all(letter.isalnum() or letter in "-_./=:,+" for letter in word):
        return word
    doubled = word.replace("'", "''") if shell == "pwsh" else word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{doubled}'"


def _pip(extra: str) -> Remedy:
    return Remedy(
        f"install the Python packages of the {extra} extra", ("python", "-m", "pip", "install", f"kparity[{extra}]")
    )


REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "KP-CUDA-NOLIB": (_pip("cuda"),),
    "KP-CUDA-NODRIVER": (
        Remedy("install the NVIDIA driver", ("sudo", "apt-get", "install", "nvidia-driver")),
        Remedy(
            "if the driver is installed, show the linker its folder",
            variable=("LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu/nvidia/current"),
        ),
    ),
    "KP-CUDA-NODEVICE": (
        Remedy("show the first device to this process", variable=("CUDA_VISIBLE_DEVICES", "0")),
        Remedy("list the devices", ("nvidia-smi", "-L")),
    ),
    "KP-HIP-NOLIB": (_pip("rocm"),),
    "KP-HIP-NOROCM": (
        Remedy("install the ROCm runtime", ("sudo", "apt-get", "install", "hip-runtime-amd")),
        Remedy("if it is installed, show the linker its folder", variable=("LD_LIBRARY_PATH", "/opt/rocm/lib")),
    ),
    "KP-HIP-NOPERMISSION": (
        Remedy(
            "join the groups that may use the device, then log in again",
            ("sudo", "usermod", "-aG", "render,video", os.environ.get("USER", "root")),
        ),
    ),
    "KP-HIP-NODEVICE": (
        Remedy("list the agents", ("rocminfo",)),
        Remedy("show the first device to this process", variable=("HIP_VISIBLE_DEVICES", "0")),
    ),
    "KP-WGPU-NOLIB": (_pip("vulkan"),),
    "KP-WGPU-NODEVICE": (
        Remedy(
            "install a software Vulkan device (a GPU needs its vendor's driver)",
            ("sudo", "apt-get", "install", "mesa-vulkan-drivers"),
        ),
        Remedy(
            "if a driver is installed, name its manifest",
            variable=("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"),
        ),
    ),
    "KP-OPENCL-NOLIB": (_pip("opencl"),),
    "KP-OPENCL-NOPLATFORM": (
        Remedy("install a CPU device", ("python", "-m", "pip", "install", "pocl-binary-distribution")),
        Remedy(
            "if a driver is installed, name the folder of its manifest",
            variable=("OCL_ICD_VENDORS", "/etc/OpenCL/vendors"),
        ),
    ),
    "KP-OPENCL-NODEVICE": (Remedy("list platforms and devices", ("clinfo", "-l")),),
    "KP-TORCH-NOLIB": (_pip("torch"),),
    "KP-CPU-NONATIVE": (
        Remedy(
            "install again, with a C++17 compiler and CMake present",
            ("python", "-m", "pip", "install", "--force-reinstall", "kparity"),
        ),
    ),
}


@dataclass
class Finding:
    """One backend on this machine."""

    backend: str
    available: bool
    label: str
    code: str
    reason: str
    device: dict[str, Any] | None
    packages: dict[str, str]
    libraries: dict[str, str]
    manifests: list[str]
    nodes: dict[str, str]
    environment: dict[str, str]
    searched: list[str]
    remedies: dict[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@lru_cache(maxsize=1)
def search_paths() -> list[str]:
    """Folders in which the dynamic linker looks for libraries, in its order, where they exist."""
    found = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    files = [Path("/etc/ld.so.conf"), *sorted(Path("/etc/ld.so.conf.d").glob("*.conf"))]
    for file in files:
        if file.exists():
            found += [
                line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip().startswith("/")
            ]
    found += [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
        "/opt/rocm/lib",
    ]
    return [path for path in dict.fromkeys(found) if Path(path).is_dir()]


def _library(name: str) -> str:
    """The path of a library, any version of it, or an empty string."""
    for folder in search_paths():
        exact = Path(folder) / name
        if exact.exists():
            return str(exact)
        hits = sorted(Path(folder).glob(f"{name}.*"))
        if hits:
            return str(hits[0])
    return ""


def _node(path: str) -> str:
    if not Path(path).exists():
        return "missing"
    return "accessible" if os.access(path, os.R_OK | os.W_OK) else "no permission"


def _manifests(folders: Sequence[str]) -> list[str]:
    return [str(path) for folder in folders for path in sorted(Path(folder).glob("*")) if path.is_file()]


def examine(backends: Sequence[str], timeout: float = 30.0) -> list[Finding]:
    """Open every backend in a process of its own and say what it found, or what it lacks."""
    findings = []
    with runner.probing(backends, Request(depth="open", timeout=timeout)) as rows:
        for row, _ in rows:
            needs = NEEDS.get(row.backend, Needs())
            findings.append(
                Finding(
                    backend=row.backend,
                    available=row.accepted,
                    label=row.label,
                    code=row.code,
                    reason=row.reason.removeprefix("unavailable: "),
                    device=row.device,
                    packages={name: version(name) for name in needs.packages},
                    libraries={name: _library(name) for name in needs.libraries},
                    manifests=_manifests(needs.manifests),
                    nodes={path: _node(path) for path in needs.nodes},
                    environment={name: os.environ[name] for name in needs.environment if name in os.environ},
                    searched=search_paths() if needs.libraries else [],
                    remedies={} if row.accepted else remedies(row.code),
                )
            )
    return findings


def remedies(code: str) -> dict[str, list[str]]:
    """Lines for sh, fish and pwsh that may make a backend available."""
    general = (Remedy(REASONS[code].remedy),) if code in REASONS else (Remedy("see the reason"),)
    return {shell: [remedy.line(shell) for remedy in REMEDIES.get(code, general)] for shell in SHELLS}
