"""Somebody's own CUDA kernel in the place of an op's: ``kparity check --cuda my.cu --kernel my_gemv --op tgemv``.

A mapping (YAML) says which buffer or number each of its arguments is, its grid and its block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from kparity import ops
from kparity.backends._cupy import Call as DeviceCall
from kparity.backends._cupy import CupyBound, CupyKernel
from kparity.backends.cuda import CudaBackend
from kparity.check.formula import number
from kparity.check.own import Call, Formula, Own, read_map
from kparity.device import registry
from kparity.device.adapter import Buffer, Kernel, Launch
from kparity.errors import DeviceFault, UnknownName, WrongInput
from kparity.host import files
from kparity.ops.assemble import Source
from kparity.ops.spec import Case, Op

Macro = Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]


class Map(Call, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a CUDA kernel is launched."""

    grid: Formula | list[Formula]
    block: Formula | list[Formula]
    defines: dict[Macro, Formula] = msgspec.field(default_factory=dict)
    """``#define`` lines before the text."""


class Plan(msgspec.Struct, frozen=True):
    """One launch: blocks, threads of a block, and per argument its name in messages and its value (None: a buffer)."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: list[tuple[str, Any]]


class OwnCuda(Own, frozen=True, kw_only=True, tag="cuda"):
    """A kernel of a CUDA text."""

    building: ClassVar[str] = "its compilation"
    missing: ClassVar[str] = "KP-CUDA-PTX-NOLIB"
    text: str
    map: Map | None = None

    @property
    def content(self) -> bytes:
        return self.text.encode()

    @property
    def words(self) -> tuple[str, ...]:
        return ("--cuda", self.path, "--kernel", self.kernel, *(("--map", self.map_path) if self.map_path else ()))

    def plan(self, case: Case) -> Plan:
        """How it is launched at a case; raises WrongInput for a mapping that does not fit the op."""
        op = ops.get(self.op)
        buffers = [arg.name for arg in op.args(case)]
        if self.map is None:
            launch = op.launch(case)
            return Plan(launch.groups, (launch.block, 1, 1), [(name, None) for name in buffers])
        values, arguments = self.names(case), self.arguments(case)
        return Plan(self._three("grid", self.map.grid, values), self._three("block", self.map.block, values), arguments)

    def _three(self, what: str, given: Any, values: Mapping[str, Any]) -> tuple[int, int, int]:
        every = given if isinstance(given, list) else [given]
        with self.naming(what):
            found = [number(each, values) for each in every]
        whole = [each for each in found if isinstance(each, int) and each >= 1]
        if not 1 <= len(whole) <= 3 or whole != found:
            raise WrongInput(f"{self.map_path}: {what} is {found}, expected 1 to 3 whole numbers of at least 1")
        x, y, z = (*whole, 1, 1)[:3]
        return x, y, z

    def source(self, case: Case) -> Source:
        """The text behind its defines: those of the mapping, or of the op where there is none."""
        if self.map is None:
            values = ops.get(self.op).defines(case)
        else:
            names, values = self.names(case), {}
            for key, formula in self.map.defines.items():
                with self.naming(f"defines, {key}"):
                    values[key] = number(formula, names)
        head = "".join(
            f"#define {key} {each if isinstance(each, int) else f'{each!r}f'}\n" for key, each in values.items()
        )
        return Source(self.op, self.path, head + self.text, head.count("\n"))

    def adapter(self, name: str) -> type[CudaBackend]:
        """The class of a backend that takes CUDA C++, with this kernel for the op's; raises WrongInput for another."""
        if name not in backends():
            raise WrongInput(f"--cuda judges a CUDA text, which {name} does not take; use {' or '.join(backends())}")
        base = registry.backend_class(name)
        adapter: type[CudaBackend] = type(f"Own{base.__name__}", (OwnBackend, base), {"own": self})
        return adapter


def backends() -> list[str]:
    """The backends that take CUDA C++, a GPU first."""
    return [name for name, each in registry.builtin().items() if getattr(each, "prelude", "") == CudaBackend.prelude]


def read(path: str, kernel: str, op: str, map_path: str | None) -> OwnCuda:
    """Read the text and the mapping; raises WrongInput where one cannot be read."""
    text, mapping = files.read_text(path, "a CUDA text"), read_map(map_path, Map, "docs/ptx.md")
    return OwnCuda(path=path, text=text, kernel=kernel, op=op, map_path=map_path or "", map=mapping)


class OwnBound(CupyBound):
    """The launch, its argument list in the kernel's own order."""

    def __init__(self, kernel: OwnKernel, buffers: Sequence[Buffer]) -> None:
        Launch.__init__(self, kernel, buffers)
        handles = {arg.name: buffer.handle for arg, buffer in zip(kernel.args, buffers, strict=True)}
        given = tuple(handles[name] if value is None else value for name, value in kernel.plan.arguments)
        where = f"{kernel.entry} ({kernel.case.id}, grid {kernel.plan.grid}, block {kernel.plan.block})"
        self.calls = [DeviceCall(kernel.functions[0], kernel.plan.grid, kernel.plan.block, given, where)]


class OwnKernel(CupyKernel):
    """The function of a loaded text, with the plan of its launch."""

    backend: OwnBackend

    def __init__(self, backend: OwnBackend, module: Any, op: Op, case: Case) -> None:
        Kernel.__init__(self, backend, op, case)
        self.id = f"{op.name}_{backend.id_dialect}_own_{op.variant(case)}"
        self.entry, self.plan, self.scratch = backend.own.kernel, backend.own.plan(case), []
        self.functions = [_function(backend, module, self.entry)]
        roles = {arg.name: arg.role for arg in self.args}
        function, arguments = self.functions[0], self.plan.arguments
        program = getattr(function, "program", None)
        if program is not None:  # the interpreter knows the parameters, and tells them by name
            _refuse_other(self, program.kernel.params)
            function.arguments = [(name, "in" if value is not None else roles[name]) for name, value in arguments]

    def bind(self, *buffers: Buffer) -> OwnBound:
        self.check(buffers)
        return OwnBound(self, buffers)


def _function(backend: OwnBackend, module: Any, entry: str) -> Any:
    path, known = backend.own.path, getattr(module, "programs", None)
    if known is not None and entry not in known:
        raise UnknownName(f"kernel of {path}", entry, known)
    try:
        with backend.guarded("loading it"):
            return module.get_function(entry)
    except DeviceFault as problem:
        raise WrongInput(f'{path}: kernel {entry} ({problem}); is it there, as extern "C"?') from problem


def _refuse_other(kernel: OwnKernel, params: Mapping[str, tuple[str, int]]) -> None:
    """Raise WrongInput where the kernel's parameters are not as many, or not as large, as the arguments."""
    given = kernel.plan.arguments
    if len(params) != len(given):
        listed = ", ".join(name for name, _ in given)
        raise WrongInput(f"{kernel.entry} has {len(params)} parameters, {len(given)} arguments are given: {listed}")
    for at, ((name, value), (_, size)) in enumerate(zip(given, params.values(), strict=True)):
        have, what = (8, "a buffer") if value is None else (value.nbytes, f"{value.dtype}")
        if have != size:
            raise WrongInput(f"{kernel.entry}: parameter {at} has {size} bytes, {name} ({what}) has {have}")


class OwnBackend(CudaBackend):
    """What ``Own.adapter`` puts before a backend's class."""

    own: ClassVar[OwnCuda]

    def supports(self, op: Op, case: Case) -> str | None:
        if op.name != self.own.op or not self.own.takes(case):
            return f"left out by the condition of {self.own.map_path}"
        plan = self.own.plan(case)
        threads = int(np.prod(plan.block))
        if threads > self.info.max_threads:
            return f"blocks of {threads} threads, this device has {self.info.max_threads}"
        if any(asked > limit for asked, limit in zip(plan.grid, self.grid, strict=True)):
            return f"a grid of {plan.grid} blocks, this device has {self.grid}"
        return super().supports(op, case)

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source:
        return cls.own.source(case)

    def build(self, op: Op, case: Case) -> CupyKernel:
        return OwnKernel(self, self._module(self.own.source(case)), op, case)
