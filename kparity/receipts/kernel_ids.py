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
    backends = {name: each for name, each in registry.builtin().items() if each.drives_gpu == gpu}
    names = set() if gpu else set(backends)
    return frozenset(names.union(*(each.kernel_dialects() for each in backends.values())))


def dialects(backend: str) -> tuple[str, ...] | None:
    """The dialects that the kernels of a backend can have; None for one of another package that declares none."""
    declared = registry.declared(backend)
    if declared is None or not (declared.id_dialects or backend in registry.BUILTIN):
        return None
    return declared.kernel_dialects


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
    words = kernel_id.split("_")
    named = [word for word in words if word in known]
    return named[0] if len(named) == 1 and named[0] in words[1:-1] else ""


def is_gpu_kernel(kernel_id: str, backend: str = "") -> bool:
    """Whether an id names a dialect of GPUs, those of a backend of another package among them (none that a processor
    of ours has); what device ran it is another question.
    """
    declared = registry.declared(backend)
    more = declared.kernel_dialects if declared is not None and declared.drives_gpu else ()
    return dialect_of(kernel_id, backend) in of_builtin(gpu=True) | (frozenset(more) - of_builtin(gpu=False))


def sha256_of(kernel_id: str, backend: str = "") -> str:
    """SHA-256 of the text of a kernel of this installation.

    A backend of another package may name its kernels as it likes: for an id of no known op and dialect the digest is
    that of the package. Raises WrongInput where neither is known.
    """
    dialect = dialect_of(kernel_id)
    named = [name for name in ops.names() if dialect and kernel_id.startswith(f"{name}_{dialect}_")]
    if named:
        op = ops.get(max(named, key=len))
        return fingerprint.text_sha256(op.name, dialect, op.texts)
    target = registry.targets().get(backend, "") if backend not in registry.BUILTIN else ""
    adapter = fingerprint.adapter(target) if target else ""
    if not adapter:
        raise WrongInput(f"{kernel_id!r} names no known op and dialect; ids are <op>_<dialect>_<variant>")
    return adapter
