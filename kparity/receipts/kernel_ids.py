"""Kernel ids ``<op>_<dialect>_<variant>``: which dialect they name, whether that is one of GPUs, and the digest of
the text behind them.
"""

from __future__ import annotations

from kparity import fingerprint, ops, registry
from kparity.errors import WrongInput

GPU_DIALECTS = ("cuda", "hip", "opencl", "wgsl", "torch")
CPU_DIALECTS = ("numpy", "cpu", "scalar", "avx2", "avx512vnni", "amx", "neon")
DIALECTS = {
    "cuda": ("cuda",),
    "hip": ("hip",),
    "opencl": ("opencl",),
    "wgpu": ("wgsl",),
    "torch": ("torch",),
    "numpy": ("numpy",),
    "cpu": ("scalar", "avx2", "avx512vnni", "amx", "neon"),
}
"""Backend -> the dialects that its kernels can have; a backend of another package may have any."""
GPU_BACKENDS = tuple(name for name, dialects in DIALECTS.items() if set(dialects) & set(GPU_DIALECTS))
"""Backends whose API drives GPUs (and on some machines a CPU)."""


def dialect_of(kernel_id: str) -> str:
    """The dialect that an id names; empty where it names none, or several of which each could be meant.

    After the name of a known op stands its dialect. In the id of an unknown op exactly one word may be a dialect, so
    that ``gemm_cpu_cuda`` is nobody's GPU kernel.
    """
    known = [*GPU_DIALECTS, *CPU_DIALECTS]
    for name in sorted(ops.names(), key=len, reverse=True):
        if kernel_id.startswith(f"{name}_"):
            first, _, variant = kernel_id[len(name) + 1 :].partition("_")
            if first in known:
                return first if variant else ""
    named = [word for word in kernel_id.split("_")[1:-1] if word in known]
    others = [word for word in kernel_id.split("_") if word in known]
    return named[0] if len(named) == len(others) == 1 else ""


def is_gpu_kernel(kernel_id: str) -> bool:
    """Whether an id names a dialect of GPUs; what device ran it is another question."""
    return dialect_of(kernel_id) in GPU_DIALECTS


def sha256_of(kernel_id: str, backend: str = "") -> str:
    """SHA-256 of the text of a kernel of this installation.

    A backend of another package may name its kernels as it likes: for an id of no known op and dialect the digest is
    that of the backend's own file. Raises WrongInput where neither is known.
    """
    dialect = dialect_of(kernel_id)
    found = [name for name in ops.names() if dialect and kernel_id.startswith(f"{name}_{dialect}_")]
    if found:
        op = ops.get(max(found, key=len))
        return fingerprint.text_sha256(op.name, dialect, op.texts)
    target = registry.targets().get(backend, "") if backend not in registry.BUILTIN else ""
    adapter = fingerprint.adapter(target) if target else ""
    if not adapter:
        raise WrongInput(f"{kernel_id!r} names no known op and dialect; ids are <op>_<dialect>_<variant>")
    return adapter
