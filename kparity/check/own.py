"""Somebody's own CUDA kernel in the place of an op's: ``kparity check --cuda my.cu --kernel my_gemv --op tgemv``.

The backend's class is extended by what builds that one kernel, so that cases, bounds, sentinels, dumps and reports are
those of any other. A mapping (YAML) says which buffer or number each of its arguments is, its grid and its block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from kparity import ops
from kparity.backends._cupy import Call, CupyBound, CupyKernel
from kparity.backends.cuda import CudaBackend
from kparity.check.formula import calculated, number
from kparity.contracts.plain_yaml import parse
from kparity.device import registry
from kparity.device.adapter import Buffer, Kernel, Launch
from kparity.errors import DeviceFault, Unavailable, UnknownName, WrongInput
from kparity.host import files
from kparity.ops.assemble import Source
from kparity.ops.spec import Case, Op
from kparity.process import Child, Failed, Family, Link, failure
from kparity.process.messages import Message

Formula = int | float | str
Type = Literal["i32", "u32", "i64", "u64", "f32", "f64"]
TYPES: Mapping[str, Any] = {
    "i32": np.int32, "u32": np.uint32, "i64": np.int64, "u64": np.uint64, "f32": np.float32, "f64": np.float64,
}  # fmt: skip
SILENT_SECONDS = 120.0
"""What opening a device and compiling one kernel may take on a busy machine."""


class Map(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a kernel is called: formulas are of the case's parameters and of the op's defines (``kparity ops OP``)."""

    arguments: list[Formula | dict[Type, Formula]]
    """In order: the name of a buffer of the op, or a formula: an int, a float where it is none, or ``{i64: N * K}``."""
    grid: Formula | list[Formula]
    block: Formula | list[Formula]
    defines: dict[Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")], Formula] = {}
    """``#define`` lines before the text."""
    cases: str = ""
    """The condition under which it supports a case; empty for always."""


class Plan(msgspec.Struct, frozen=True):
    """One launch: blocks, threads of a block, and per argument its name in messages and its value (None: a buffer)."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: list[tuple[str, Any]]


class Own(msgspec.Struct, frozen=True):
    """A kernel's text and how it is called; without a mapping as the op's ABI says."""

    path: str
    text: str
    kernel: str
    op: str
    map_path: str = ""
    map: Map | None = None

    @property
    def sha256(self) -> str:
        """Digest of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def words(self) -> tuple[str, ...]:
        """The options that name it."""
        return ("--cuda", self.path, "--kernel", self.kernel, *(("--map", self.map_path) if self.map_path else ()))

    def names(self, case: Case) -> dict[str, Any]:
        """What formulas may name."""
        return {**ops.get(self.op).defines(case), **dict(case.params)}

    def takes(self, case: Case) -> bool:
        """Whether the mapping's condition holds."""
        if self.map is None or not self.map.cases:
            return True
        with self._naming("cases"):
            return bool(calculated(self.map.cases, self.names(case)))

    def plan(self, case: Case) -> Plan:
        """How it is launched at a case; raises WrongInput for a mapping that does not fit the op."""
        op = ops.get(self.op)
        buffers = [arg.name for arg in op.args(case)]
        if self.map is None:
            launch = op.launch(case)
            return Plan(launch.groups, (launch.block, 1, 1), [(name, None) for name in buffers])
        values = self.names(case)
        arguments = [self._argument(at, each, buffers, values) for at, each in enumerate(self.map.arguments)]
        named = {name for name, value in arguments if value is None}
        for arg in op.outputs_of(case):
            if arg.name not in named:
                raise WrongInput(f"{self.map_path}: {arg.name}, which {self.op} writes, is none of the arguments")
        return Plan(self._three("grid", self.map.grid, values), self._three("block", self.map.block, values), arguments)

    def _argument(self, at: int, given: Any, buffers: Sequence[str], values: Mapping[str, Any]) -> tuple[str, Any]:
        if given in buffers:
            return str(given), None
        kind, formula = next(iter(given.items())) if isinstance(given, dict) and len(given) == 1 else ("", given)
        if isinstance(formula, dict):
            raise WrongInput(f"{self.map_path}: argument {at} has {len(formula)} types; give one, as in {{i64: N * K}}")
        try:
            found = number(formula, values)
            kind = kind or ("f32" if isinstance(found, float) else "i32")
            if isinstance(found, float) and kind[0] != "f":
                raise WrongInput(f"{formula} is {found}, no {kind}")
            made = TYPES[kind](found)
        except OverflowError as problem:
            raise WrongInput(
                f"{self.map_path}: argument {at}: {formula} is {found}, too large for its type"
            ) from problem
        except (WrongInput, UnknownName) as problem:
            known = ", ".join(buffers)
            raise WrongInput(
                f"{self.map_path}: argument {at} is no buffer of {self.op} ({known}): {problem}"
            ) from problem
        return str(formula), made

    def _three(self, what: str, given: Any, values: Mapping[str, Any]) -> tuple[int, int, int]:
        every = given if isinstance(given, list) else [given]
        with self._naming(what):
            found = [number(each, values) for each in every]
        whole = [each for each in found if isinstance(each, int) and each >= 1]
        if not 1 <= len(whole) <= 3 or whole != found:
            raise WrongInput(f"{self.map_path}: {what} is {found}, expected 1 to 3 whole numbers of at least 1")
        x, y, z = (*whole, 1, 1)[:3]
        return x, y, z

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """What is wrong in a part of the mapping is told with its name."""
        try:
            yield
        except (WrongInput, UnknownName) as problem:
            raise WrongInput(f"{self.map_path}: {what}: {problem}") from problem

    def source(self, case: Case) -> Source:
        """The text behind its defines: those of the mapping, or of the op where there is none."""
        if self.map is None:
            values = ops.get(self.op).defines(case)
        else:
            names, values = self.names(case), {}
            for key, formula in self.map.defines.items():
                with self._naming(f"defines, {key}"):
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


def read(path: str, kernel: str, op: str, map_path: str | None) -> Own:
    """Read the text and the mapping; raises WrongInput where one cannot be read."""
    text, mapping = files.read_text(path, "a CUDA text"), None
    if map_path:
        try:
            content = parse(files.read_text(map_path, "a mapping (YAML)"), map_path, "mapping")
            mapping = msgspec.convert(content, Map)
        except msgspec.ValidationError as problem:
            raise WrongInput(f"{map_path}: {problem}; docs/ptx.md says what a mapping has") from problem
    return Own(path, text, kernel, op, map_path or "", mapping)


class OwnBound(CupyBound):
    """The launch, its argument list in the kernel's own order."""

    def __init__(self, kernel: OwnKernel, buffers: Sequence[Buffer]) -> None:
        Launch.__init__(self, kernel, buffers)
        handles = {arg.name: buffer.handle for arg, buffer in zip(kernel.args, buffers, strict=True)}
        given = tuple(handles[name] if value is None else value for name, value in kernel.plan.arguments)
        where = f"{kernel.entry} ({kernel.case.id}, grid {kernel.plan.grid}, block {kernel.plan.block})"
        self.calls = [Call(kernel.functions[0], kernel.plan.grid, kernel.plan.block, given, where)]


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

    own: ClassVar[Own]

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


class Trial(msgspec.Struct, frozen=True):
    """Which kernel to build on the first of these backends that opens; at no case, only open."""

    own: Own
    order: list[str]
    index: int
    options: tuple[str, ...]
    case: Case | None


class Built(Message, frozen=True, tag="built"):
    """It was built on this backend."""

    backend: str


def tried(trial: Trial) -> str:
    """The backend on which a child built it; raises Unavailable where none opens, WrongInput otherwise."""
    with Family() as family, closing(Child[Any](family, __name__, Built | Failed)) as child:
        child.send(trial)
        said = child.receive(SILENT_SECONDS)
        if isinstance(said, Built):
            return said.backend
        if isinstance(said, Failed) and said.status == "unavailable":
            raise Unavailable(f"{trial.own.path}: {said.reason.removeprefix('unavailable: ')}", "", said.code)
        if isinstance(said, Failed):
            raise WrongInput(said.reason)
        reason = child.ended("its compilation") or f"its compilation takes longer than {SILENT_SECONDS:g} s"
    raise WrongInput(f"{trial.own.path}: {reason}")


def main(link: Link) -> int:
    """The child of ``tried``."""
    trial = link.request(Trial)
    closed = []
    try:
        for name in trial.order:
            try:
                device = trial.own.adapter(name).open(trial.index, **dict.fromkeys(trial.options, True))
            except (Unavailable, ImportError) as problem:
                closed.append(f"{name}: {problem}")
                continue
            if trial.case is not None:
                device.build(ops.get(trial.own.op), trial.case)
            link.send(Built(name))
            device.close()
            return 0
        raise Unavailable(f"nothing here executes it ({'; '.join(closed)})", "", "KP-CUDA-PTX-NOLIB")
    except Exception as error:  # the boundary: whatever it is, the parent tells it
        link.send(failure(error))
    return 0
