"""What an op is: its arguments, its truth, its compile-time constants and its launch geometry.

An op is specified once, in ``kernels/<op>/__init__.py``, and implemented once per dialect beside it. The rules that
all of them share:

* The ABI is buffers only: inputs first, then outputs (an ``inout`` counts as an output); WGSL binding *i* is argument
  *i*.
* Shapes and options are compile-time constants (``Op.defines``); whatever changes from step to step (positions, token
  ids) is
  in a small i32 buffer.
* Buffers are C-contiguous. Element types: ``f32``, ``f16``, ``i32``, ``u32``, ``i8``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, product
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from kparity.errors import UnknownName, WrongInput

Array = npt.NDArray[Any]
Value = int | float | str
Role = Literal["in", "out", "inout"]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "i32": np.dtype(np.int32),
    "u32": np.dtype(np.uint32),
    "i8": np.dtype(np.int8),
}
ROUNDOFF: Mapping[str, float] = {"f16": 2.0**-11, "f32": 2.0**-24, "f64": 2.0**-53}
"""Unit roundoff of the floating types."""

MAX_GROUPS = 65535  # work-groups per grid dimension that every API grants (WebGPU's default limit is the smallest)


@dataclass(frozen=True)
class Arg:
    """One buffer of an op's ABI: name, element type, shape in elements, and the side that writes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: Role = "in"

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return int(np.prod(self.shape)) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Case:
    """An op at given shapes, dtypes and options; hashable, printable, and the seed of its own inputs."""

    op: str
    params: tuple[tuple[str, Value], ...]

    @classmethod
    def make(cls, op: str, /, **params: Value) -> Case:
        """Build a case; the order in which parameters are given does not matter."""
        return cls(op, tuple(sorted(params.items())))

    def __getitem__(self, name: str) -> Any:
        for key, value in self.params:
            if key == name:
                return value
        raise UnknownName(f"parameter of {self.op}", name, [key for key, _ in self.params])

    @property
    def id(self) -> str:
        """A stable name, for example ``tgemv[K=256,M=1,N=3]``."""
        return f"{self.op}[{','.join(f'{key}={value}' for key, value in self.params)}]"

    def seed(self, base: int = 0) -> int:
        """A seed that depends on the case's name and on ``base`` alone, so that a case is reproducible by itself."""
        digest = hashlib.sha256(f"{base}:{self.id}".encode()).digest()
        return int.from_bytes(digest[:8], "little")


@dataclass(frozen=True)
class Grid:
    """How a GPU or WGSL kernel is started: work-groups per dimension and work-items per group (one dimension)."""

    groups: tuple[int, int, int]
    block: int


@dataclass(frozen=True)
class Stage:
    """One launch of a kernel text. Most ops have one; a split reduction has a second that merges."""

    entry: str
    launch: Grid


@dataclass(frozen=True)
class ErrorBound:
    """The largest error that one output of an op may have, element by element, against fp64 truth.

    ``limit`` is an array of the output's shape, or ``None`` for bit equality. ``derivation`` names the terms (n, u,
    |A||x|).
    """

    limit: Array | None
    derivation: str
    stepped: bool = False
    """Whether the output was rounded to a coarser type: it is right, or a step of that type away beside a tie."""


@dataclass(frozen=True)
class Work:
    """What one launch moves and computes at least: the roofline's two numbers."""

    bytes: int
    flops: int


def span(groups: int) -> tuple[int, int, int]:
    """Fold a grid into two dimensions where it exceeds the portable cap; kernels drop the excess groups."""
    if groups <= MAX_GROUPS:
        return (max(groups, 1), 1, 1)
    rows = -(-groups // 32768)
    return (32768, rows, 1)


def ceil_div(a: int, b: int) -> int:
    """The smallest integer that is not below a / b."""
    return -(-a // b)


def padded(k: int) -> int:
    """K rounded up to the 256 weights of a packed block."""
    return ceil_div(k, 256) * 256


ACTS: Mapping[str, int] = {"token": 0, "block256": 256, "block32": 32}
"""How activations are quantised → for how many of them a scale counts; 0: for a row."""


def act_spans(act: str, k: int) -> int:
    """Scales of a row of k activations."""
    return padded(k) // ACTS[act] if ACTS[act] else 1


class Op(ABC):
    """The specification of one operation. Stateless: everything follows from the case."""

    name: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    """The parameters that every case must give."""
    defaults: ClassVar[Mapping[str, Value]] = {}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    named_by: ClassVar[tuple[str, ...]] = ()
    """The parameters whose values make the variant."""
    texts: ClassVar[str] = "kparity.kernels"
    """The package whose folder ``<name>/`` holds the texts: ``<name>.cu``, ``<name>.wgsl``, ``<name>_torch.py``."""

    def case(self, **params: Value) -> Case:
        """A checked case: defaults filled in, unknown and missing parameters refused."""
        known = {*self.required, *self.defaults}
        for name in params:
            if name not in known:
                raise UnknownName(f"parameter of {self.name}", name, known)
        missing = [name for name in self.required if name not in params and name not in self.defaults]
        if missing:
            raise WrongInput(f"{self.name} needs {', '.join(missing)}")
        case = Case.make(self.name, **{**self.defaults, **params})
        for name, allowed in self.choices.items():
            if case[name] not in allowed:
                raise WrongInput(f"{self.name}: {name} is {case[name]!r}, expected one of {', '.join(allowed)}")
        for name, value in case.params:
            if isinstance(value, int) and name not in ("row0", "clamp") and value < 1:
                raise WrongInput(f"{self.name}: {name} is {value}, expected at least 1")
        self.check(case)
        return case

    def every(self, names: str, shapes: Iterable[Sequence[Value]], **options: Value | tuple[Value, ...]) -> list[Case]:
        """A case for each shape, which has the values of ``names``, with every combination of the options."""
        several = [value if isinstance(value, tuple) else (value,) for value in options.values()]
        return [
            self.case(**dict(zip(names.split(), shape, strict=True)), **dict(zip(options, chosen, strict=True)))
            for shape in shapes
            for chosen in product(*several)
        ]

    def in_turn(self, names: str, shapes: Iterable[Sequence[Value]], option: str, among: Sequence[Value]) -> list[Case]:
        """A case for each shape with one of the option's values, in turn: all with all would be more of the same."""
        return self.every(f"{names} {option}", ((*shape, value) for shape, value in zip(shapes, cycle(among))))

    def check(self, case: Case) -> None:  # noqa: B027 - most ops have nothing to check
        """Raise WrongInput where the parameters contradict each other."""

    @abstractmethod
    def args(self, case: Case) -> tuple[Arg, ...]:
        """The ABI, inputs first."""

    @abstractmethod
    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        """The truth: outputs (``out`` and ``inout``, in ABI order) from inputs (``in`` and ``inout``, in ABI order).

        All floating-point arithmetic is done in ``dtype``; floating outputs have that dtype, except f16 buffers,
        which are rounded to f16 because their bytes are part of the specification.
        """

    def constants(self, case: Case) -> dict[str, int | float]:
        """What ``defines`` has beside the required parameters and BLOCK."""
        return {}

    def defines(self, case: Case) -> dict[str, int | float]:
        """Compile-time constants of the case, the same for every GPU dialect."""
        needed = {name: case[name] for name in self.required}
        return {**needed, **self.constants(case), "BLOCK": self.launch(case).block}

    @abstractmethod
    def launch(self, case: Case) -> Grid:
        """The grid that the GPU text and the WGSL text of this op expect."""

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        """The launches of one run in a dialect (``gpu`` or ``wgsl``), in order; each gets the same buffers.

        The buffers are those of ``args`` and then those of ``scratch``.
        """
        return (Stage(self.name, self.launch(case)),)

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        """Buffers that the stages share and nobody else sees; an adapter allocates them once per kernel. An ``inout``
        is 0 before the first launch, and every launch must leave it so; the others hold anything.
        """
        return ()

    def variant(self, case: Case) -> str:
        """The last part of the kernel id, for example ``dp4a`` or ``neox``."""
        return "_".join(str(case[name]) for name in self.named_by) or "generic"

    @abstractmethod
    def cases(self) -> list[Case]:
        """The cases of the generic parity test: odd shapes, tails, every option."""

    def more(self) -> list[Case]:
        """What ``kparity check`` tries beside ``cases``: the shapes of real models, tails and lengths."""
        return []

    def sweep(self) -> list[Case]:
        """The cases of ``kparity check``, each once."""
        return list(dict.fromkeys([*self.cases(), *self.more()]))

    def kinds(self, case: Case) -> tuple[str, ...]:
        """The kinds of input that ``inputs`` makes for this case: ``random`` among them, first that which is timed."""
        return ("random",)

    @abstractmethod
    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        """Seeded inputs (``in`` and ``inout`` in ABI order); random ones have both signs, so that sums cancel."""

    @abstractmethod
    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        """The error bound of each output against fp64 truth, with its derivation."""

    @abstractmethod
    def work(self, case: Case) -> Work:
        """Bytes that must move and floating-point or integer operations that must be done."""

    def inputs_of(self, case: Case) -> list[Arg]:
        """Arguments that are read: ``in`` and ``inout``."""
        return [arg for arg in self.args(case) if arg.role != "out"]

    def outputs_of(self, case: Case) -> list[Arg]:
        """Arguments that are written: ``out`` and ``inout``."""
        return [arg for arg in self.args(case) if arg.role != "in"]


@dataclass
class Dispatches:
    """How often each kernel id was launched: part of the proof that a device did the work."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kernel_id: str, times: int = 1) -> None:
        """Count launches of one kernel."""
        self.counts[kernel_id] = self.counts.get(kernel_id, 0) + times

    @property
    def total(self) -> int:
        """All launches."""
        return sum(self.counts.values())
