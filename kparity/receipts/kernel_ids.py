"""Kernel ids ``<op>_<dialect>_<variant>``: which dialect they name, whether that is one of GPUs, and the digest of
the text behind them.
"""

from __future__ import annotations

from functools import cache

from kparity import ops
from kparity.device import fingerprint, registry
from kparity.errors import WrongInput


@cache
def of_builtin(gpu: bool) -> frozenset[str]:
    """The dialects of this package's backends that drive GPUs, or of those that do not, with the names of these."""
    found: set[str] = set()
    for name, each in registry.builtin().items():
        if each.drives_gpu == gpu:
            found |= {*each.kernel_dialects(), *([] if gpu else [name])}
    return frozenset(found)


def dialects(backend: str) -> tuple[str, ...] | None:
    """The dialects that the kernels of a backend can have; None for one of another package that declares none."""
    found = registry.declared(backend)
    if found is None or not (found.id_dialects or backend in registry.BUILTIN):
        return None
    return found.kernel_dialects()


def _gpu_dialects(backend: str) -> frozenset[str]:
    """Dialects of GPUs, those of a backend of another package among them: none that a processor of ours has."""
    own = registry.declared(backend)
    more = own.kernel_dialects() if own is not None and own.drives_gpu else ()
    return of_builtin(gpu=True) | (frozenset(more) - of_builtin(gpu=False))


def dialect_of(kernel_id: str, backend: str = "") -> str:
    """The dialect that an id names; empty where it names none, or several of which each could be meant.

    After the name of a known op stands its dialect. In the id of an unknown op exactly one word may be a dialect, so
    that ``gemm_cpu_cuda`` is nobody's GPU kernel. ``backend`` may be one of another package, with dialects of its own.
    """
    known = of_builtin(gpu=True) | of_builtin(gpu=False) | frozenset(dialects(backend) or ())
    for name in sorted(ops.names(), key=len, reverse=True):
        if kernel_id.startswith(f"{name}_"):
            first, _, variant = kernel_id[len(name) + 1 :].partition("_")
            if first in known:
                return first if variant else ""
    named = [word for word in kernel_id.split("_")[1:-1] if word in known]
    others = [word for word in kernel_id.split("_") if word in known]
    return named[0] if len(named) == len(others) == 1 else ""


def is_gpu_kernel(kernel_id: str, backend: str = "") -> bool:
    """Whether an id names a dialect of GPUs; what device ran it is another question."""
    return dialect_of(kernel_id, backend) in _gpu_dialects(backend)


def sha256_of(kernel_id: str, backend: str = "") -> str:
    """SHA-256 of the text of a kernel of this installation.

    A backend of another package may name its kernels as it likes: for an id of no known op and dialect the digest is
    that of the package. Raises WrongInput where neither is known.
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
