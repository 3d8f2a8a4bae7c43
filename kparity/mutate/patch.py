"""Puts patched sources in the place of the real ones, in this process only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from kparity import ops
from kparity.device.adapter import Backend
from kparity.errors import CompileFailed
from kparity.ops import assemble
from kparity.ops.spec import Case, Op

USED = set[str]()
"""Patched texts that something was taken from since they were put in place: where it stays empty nothing was wrong."""


class Watched(ModuleType):
    """A patched module, whose use is noted."""

    def __getattribute__(self, name: str) -> Any:
        """Any name but those of the import machinery."""
        if not name.startswith("__"):
            USED.add(ModuleType.__getattribute__(self, "__name__"))
        return super().__getattribute__(name)


def apply_texts(patched: Mapping[str, str]) -> None:
    """GPU and WGSL: whatever is assembled from now on is made of the patched texts."""
    real, theirs = assemble.kernel_text, assemble.package_text

    def kernel_text(relative: str) -> str:
        if relative not in patched:
            return real(relative)
        USED.add(relative)
        return patched[relative]

    def package_text(package: str, relative: str) -> str:
        return kernel_text(relative) if relative in patched else theirs(package, relative)

    assemble.kernel_text, assemble.package_text = kernel_text, package_text  # type: ignore[assignment]


def module_name(path: str) -> str:
    """``rope/rope_torch.py`` → ``kparity.kernels.rope.rope_torch``; ``rope/__init__.py`` → ``kparity.kernels.rope``; of
    an op of another package the same there.
    """
    parts = [part for part in PurePosixPath(path).with_suffix("").parts if part != "__init__"]
    package = ops.get(parts[0]).texts if parts[0] in ops.targets() else assemble.KERNELS
    return ".".join((package, *parts))


def loaded(path: str, text: str) -> ModuleType:
    """A patched Python text as a module of its real name, which is not registered; raises CompileFailed."""
    name = module_name(path)
    module = ModuleType(name)
    module.__file__ = f"<mutant of kernels/{path}>"
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    module.__package__ = package
    module.__spec__ = ModuleSpec(name, None)  # find_spec refuses a module without one
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickles of the text look themselves up
    try:
        exec(compile(text, module.__file__, "exec"), module.__dict__)
    except Exception as problem:  # whatever a broken text raises while it is loaded
        line = int(getattr(problem, "lineno", 0) or 0)
        raise CompileFailed(f"kernels/{path}", line, f"{type(problem).__name__}: {problem}") from problem
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
    return module


def apply_torch(patched: Mapping[str, str]) -> None:
    """torch: the patched modules are what the backend imports from now on."""
    for path, text in patched.items():
        import_module(module_name(path))  # its package first, so that a later import finds the patched one
        sys.modules[module_name(path)] = module = loaded(path, text)
        module.__class__ = Watched


def apply_numpy(backend: Backend, patched: Mapping[str, str]) -> None:
    """numpy: this backend computes with the patched reference; truth, bounds and inputs remain those of the real op."""
    from kparity.backends.numpy import NumpyKernel

    wrong: dict[str, Op] = {}
    for path, text in patched.items():
        op: Op = loaded(path, text).OP
        wrong[op.name] = op
    real = backend.build

    def build(op: Op, case: Case) -> Any:
        kernel = real(op, case)
        if op.name in wrong and isinstance(kernel, NumpyKernel):
            kernel.op = wrong[op.name]
            USED.add(op.name)
        return kernel

    backend.build = build  # type: ignore[method-assign]


def apply_native(patched: Mapping[str, str]) -> None:
    """native: a module compiled from the patched headers is ``kparity._native``, before anything imports that."""
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    from kparity.mutate.native import SOURCE_OF_ISA, best_isa, build

    path = build(patched)
    spec = spec_from_file_location("kparity._native", path, loader=ExtensionFileLoader("kparity._native", str(path)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.CpuKernel

    def kernel(*arguments: Any) -> Any:
        USED.add("kparity._native")
        return made(*arguments)

    setattr(module, "CpuKernel", kernel)  # noqa: B010 - the type checker does not know what a module holds
    sys.modules["kparity._native"] = module
    import kparity

    setattr(kparity, "_native", module)  # noqa: B010 - the type checker does not know the compiled part
    from kparity.backends.cpu import choose_isa

    serves = SOURCE_OF_ISA[choose_isa(os.environ.get("KPARITY_CPU_ISA"))]
    if serves != best_isa():  # otherwise a mutant would be let through because nothing of it runs
        raise CompileFailed(f"{best_isa()}.cpp", 0, f"the module serves with {serves}, which is not patched")
