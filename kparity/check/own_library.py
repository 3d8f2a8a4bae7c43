"""A function of somebody's shared library in the place of an op's kernel: ``kparity check --lib FILE --symbol f``.

Without a mapping it has the pointers of the op's buffers in the order of the ABI, then the parameters that every case
has (``Op.required``) as ``int64_t``, and is judged at the cases whose options are the op's defaults. What it returns is
not looked at.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kparity import ops
from kparity.check.own import TYPES, Call, Own, read_map
from kparity.check.own_host import OwnHost, OwnHostKernel
from kparity.errors import Unavailable, WrongInput
from kparity.host import files
from kparity.ops.spec import Array, Case, Op

NAME = "library"
PASSED: Mapping[Any, Any] = {
    TYPES["i32"]: ctypes.c_int32, TYPES["u32"]: ctypes.c_uint32, TYPES["i64"]: ctypes.c_int64,
    TYPES["u64"]: ctypes.c_uint64, TYPES["f32"]: ctypes.c_float, TYPES["f64"]: ctypes.c_double,
}  # fmt: skip
LARGEST = 4 << 30


class OwnLibrary(Own, frozen=True, kw_only=True, tag="library"):
    """A function with C's calling convention."""

    building: ClassVar[str] = "loading it"
    missing: ClassVar[str] = "KP-IMPORT"

    @property
    def content(self) -> bytes:
        return files.read(self.path, "a shared library", LARGEST)

    @property
    def words(self) -> tuple[str, ...]:
        return ("--lib", self.path, "--symbol", self.kernel, *(("--map", self.map_path) if self.map_path else ()))

    def adapter(self, name: str) -> type[OwnHost]:
        adapter: type[OwnHost] = type("OwnLibraryBackend", (OwnLibraryBackend,), {"own": self})
        return adapter

    def takes(self, case: Case) -> bool:
        if self.map is not None:
            return super().takes(case)
        defaults = ops.get(self.op).defaults
        return all(case[name] == value for name, value in defaults.items())

    def arguments(self, case: Case) -> list[tuple[str, Any]]:
        if self.map is not None:
            return super().arguments(case)
        op = ops.get(self.op)
        return [(arg.name, None) for arg in op.args(case)] + [(n, TYPES["i64"](case[n])) for n in op.required]


def read(path: str, symbol: str, op: str, map_path: str | None) -> OwnLibrary:
    """The library and the mapping; raises WrongInput where one cannot be read."""
    files.opened(path, "a shared library").close()
    mapping = read_map(map_path, Call, "docs/own-kernels.md")
    return OwnLibrary(path=path, kernel=symbol, op=op, map_path=map_path or "", map=mapping)


class OwnLibraryKernel(OwnHostKernel):
    """The function with its arguments at a case; what is no buffer is fixed."""

    def __init__(self, backend: OwnLibraryBackend, op: Op, case: Case) -> None:
        super().__init__(backend, op, case)
        self.function = backend.function
        given = backend.own.arguments(case)
        self.given = [(name, None if value is None else PASSED[type(value)](value.item())) for name, value in given]

    def call(self, arrays: Mapping[str, Array]) -> None:
        self.function(*(arrays[name].ctypes.data_as(ctypes.c_void_p) if v is None else v for name, v in self.given))


class OwnLibraryBackend(OwnHost):
    """What calls a function of a shared library."""

    own: ClassVar[OwnLibrary]
    name = NAME

    def __init__(self) -> None:
        super().__init__()
        try:
            library = ctypes.CDLL(str(Path(self.own.path).resolve()))  # a bare name would be looked for elsewhere
        except OSError as problem:
            raise Unavailable(f"it cannot be loaded: {problem}", "", "KP-IMPORT") from problem
        try:
            self.function = library[self.own.kernel]
        except AttributeError as problem:
            advice = f'nm -D {self.own.path} lists what is (a name of C++ needs extern "C")'
            raise WrongInput(f"{self.own.path}: {self.own.kernel} is not among its symbols; {advice}") from problem
        self.function.restype = None

    def supports(self, op: Op, case: Case) -> str | None:
        if self.own.map is None and not self.own.takes(case):
            return f"an option is not {self.own.op}'s default; --map passes it, or leaves it out"
        return super().supports(op, case)

    def build(self, op: Op, case: Case) -> OwnLibraryKernel:
        return OwnLibraryKernel(self, op, case)
