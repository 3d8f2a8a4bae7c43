"""Somebody's Python function in the place of an op's kernel: ``kparity check my.py:gemv --op tgemv``.

It takes what its parameters name: a buffer of the op (a numpy array; outputs too), a parameter or define of the case (a
number or a word), or ``case`` (a dict of the parameters). What it returns are the outputs; where it returns None, it
wrote them into its arguments. ``NotImplementedError`` says that it does not take a case.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from kparity.check.own import Own
from kparity.check.own_host import OwnHost, OwnHostKernel
from kparity.errors import DeviceFault, UnknownName, WrongInput
from kparity.host import files
from kparity.ops.assemble import Source
from kparity.ops.spec import DTYPES, Array, Case, Op
from kparity.watch import on_host

NAME = "python"


class OwnFunction(Own, frozen=True, kw_only=True, tag="function"):
    """A function of a file of Python."""

    building: ClassVar[str] = "its import"
    missing: ClassVar[str] = "KP-IMPORT"
    text: str

    @property
    def content(self) -> bytes:
        return self.text.encode()

    @property
    def words(self) -> tuple[str, ...]:
        return (f"{self.path}:{self.kernel}",)

    def adapter(self, name: str) -> type[OwnHost]:
        adapter: type[OwnHost] = type("OwnFunctionBackend", (OwnFunctionBackend,), {"own": self})
        return adapter

    def function(self) -> Callable[..., Any]:
        """The function of the text that was read, executed as a module of its file; in a child alone."""
        path = Path(self.path).resolve()
        sys.path.insert(0, str(path.parent))  # for what lies beside it
        name = path.stem if path.stem not in sys.modules else f"own_{path.stem}"
        spec = spec_from_file_location(name, path)
        assert spec is not None
        sys.modules[name] = module = module_from_spec(spec)
        exec(compile(self.text, str(path), "exec"), vars(module))
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("__")]
        if self.kernel not in known:
            raise UnknownName(f"function of {self.path}", self.kernel, known)
        return cast("Callable[..., Any]", getattr(module, self.kernel))


def read(target: str, op: str) -> OwnFunction:
    """What ``FILE.py:FUNCTION`` names; raises WrongInput where the file cannot be read."""
    path, _, kernel = target.rpartition(":")
    return OwnFunction(path=path, text=files.read_text(path, "a file of Python"), kernel=kernel, op=op)


class OwnFunctionKernel(OwnHostKernel):
    """The function with what it takes at a case."""

    backend: OwnFunctionBackend

    def __init__(self, backend: OwnFunctionBackend, op: Op, case: Case) -> None:
        super().__init__(backend, op, case)
        self.function, self.values = backend.function, {**backend.own.names(case), "case": dict(case.params)}
        self.inputs = [arg.name for arg in op.inputs_of(case)]
        self.by_place, self.by_name = self._taken()

    def _taken(self) -> tuple[list[str], list[str]]:
        """The names of what it is given, in order and by keyword; raises WrongInput for a parameter without a value.

        What has no name (``*arrays``, what stands before a ``/``, a function that tells no signature) gets the inputs
        in the order of the ABI.
        """
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):
            return self.inputs, []
        placed, named, known = 0, list[str](), [arg.name for arg in self.args] + [*self.values]
        for each in parameters:
            if each.kind is each.VAR_POSITIONAL:
                placed = len(self.inputs)
            elif each.kind is each.POSITIONAL_ONLY and placed < len(self.inputs):
                placed += 1
            elif each.kind is each.VAR_KEYWORD:
                named += [name for name in (*self.inputs[placed:], *self.values) if name not in named]
            elif each.name in known and each.kind is not each.POSITIONAL_ONLY:
                named.append(each.name)
            elif each.default is each.empty:
                raise WrongInput(
                    f"{self.backend.own.path}: {self.backend.own.kernel} takes {each.name!r}, which is no buffer of "
                    f"{self.op.name} and no parameter of its cases; there are {', '.join(dict.fromkeys(known))}"
                )
        return self.inputs[:placed], [name for name in named if name not in self.inputs[:placed]]

    def call(self, arrays: Mapping[str, Array]) -> None:
        values = {**self.values, **arrays}
        try:
            found = self.function(*(values[name] for name in self.by_place), **{n: values[n] for n in self.by_name})
        except Exception as problem:
            raise DeviceFault(self._told(problem)) from problem
        outputs = [arg for arg in self.args if arg.role != "in"]
        if found is None:
            if not {arg.name for arg in outputs} & {*self.by_place, *self.by_name}:
                raise DeviceFault(f"it returns None, and takes no {outputs[0].name} to write into; return the result")
            return
        every = list(found) if isinstance(found, (list, tuple)) else [found]
        if len(every) != len(outputs):
            raise DeviceFault(f"it returns {len(every)} results; {', '.join(arg.name for arg in outputs)} are due")
        for arg, value in zip(outputs, every, strict=True):
            target = arrays[arg.name]
            if value is not target:
                target[...] = _fitting(arg.name, value, target)

    def _told(self, problem: Exception) -> str:
        """An exception with the line of the file at which it came."""
        own, name = Path(self.backend.own.path).resolve(), self.backend.own.path
        lines = [each.lineno for each in traceback.extract_tb(problem.__traceback__) if each.filename == str(own)]
        return f"{type(problem).__name__}: {problem}" + (f" ({name}:{lines[-1]})" if lines else "")


def _fitting(name: str, value: Any, target: Array) -> Array:
    """A result as its buffer takes it; raises DeviceFault for another shape, kind of number, or a number too large."""
    try:
        array = np.asarray(on_host(value, copy=False))
    except Exception as problem:  # whatever it returned
        raise DeviceFault(f"{name} is a {type(value).__name__}, which numpy does not read ({problem})") from problem
    due = f"{target.dtype}{list(target.shape)}"
    if array.shape != target.shape or not np.can_cast(array.dtype, target.dtype, "same_kind"):
        raise DeviceFault(f"{name} comes as {array.dtype}{list(array.shape)}, {due} is due")
    with np.errstate(all="ignore"):  # what is too large for f32 becomes infinite, and is judged
        cast_ = array.astype(target.dtype)
    if array.dtype.kind in "iu" and not np.array_equal(cast_, array):
        raise DeviceFault(f"{name} has numbers that {target.dtype} does not hold")
    return cast_


class OwnFunctionBackend(OwnHost):
    """What calls a function of Python."""

    own: ClassVar[OwnFunction]
    name = NAME

    def __init__(self) -> None:
        super().__init__()
        self.function = self.own.function()

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source | None:
        return Source(op.name, cls.own.path, cls.own.text, 0)

    def build(self, op: Op, case: Case) -> OwnFunctionKernel:
        return OwnFunctionKernel(self, op, case)

    def supports(self, op: Op, case: Case) -> str | None:
        """None, or what the function's own NotImplementedError says, of a call with random inputs."""
        inputs: Sequence[Array] = op.inputs(case, np.random.default_rng(case.seed()))
        given = {arg.name: array for arg, array in zip(op.inputs_of(case), inputs, strict=True)}
        arrays = {arg.name: given.get(arg.name, np.zeros(arg.shape, DTYPES[arg.dtype])) for arg in op.args(case)}
        try:
            OwnFunctionKernel(self, op, case).call(arrays)
        except DeviceFault as problem:
            if isinstance(problem.__cause__, NotImplementedError):
                return f"{self.own.path}: {self.own.kernel} does not take it: {problem.__cause__}"
        return None
