"""Source assembly: the text that a device compiles is prelude + constants + the op's own text, and nothing else.

An op of another package has its text there (``Op.texts``) and shares the preludes.

The GPU text (``kernels/<op>/<op>.cu``) is one for CUDA, HIP and OpenCL; ``kernels/prelude/<dialect>.h`` holds what
differs. In it and in WGSL, ``//#use name``, alone on its line, puts ``kernels/prelude/name.cu`` or ``name.wgsl`` before
the text: functions that several ops share; in a prelude, ``name.h`` behind the prelude. WGSL has no preprocessor:
constants become module-scope ``const`` declarations, and another directive does what declarations cannot:

* ``//#if NAME == 2`` … ``//#else`` … ``//#endif`` keeps the lines of one side, by a constant of the case (``NAME`` or
  ``NAME % 8``, then ``==``, ``!=``, ``<`` or ``>``, then a whole number; blocks do not nest). It is for bindings, whose
  number and type a case may change, and for whatever names them; everything else is a plain ``if`` over constants.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from kparity.errors import CompileFailed
from kparity.ops import JOINED
from kparity.ops.spec import Case, Op

KERNELS = Op.texts
"""The package of the built-in texts and of the preludes."""

TEXTS: Mapping[str, str] = {
    "gpu": "{op}.cu",
    "wgsl": "{op}.wgsl",
    "native": "{op}.h",
    "torch": "{op}_torch.py",
    "numpy": "__init__.py",
}
"""Dialect → the file of ``kernels/<op>/`` that holds an op's text; that of numpy is the specification itself."""

USE = re.compile(r"^//#use (\w+)$", re.MULTILINE)
CONDITION = re.compile(r"//#if (\w+)(?: % ([1-9]\d*))? (==|!=|<|>) (\d+)")
COMPARE = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Source:
    """A text ready for a compiler, with what is needed to name and find it again."""

    op: str
    path: str
    """The op's own file, as it is called in error messages."""
    text: str
    first_line: int
    """Lines that stand before the op's own text: subtract from a compiler's line number."""
    before: tuple[tuple[str, int], ...] = ()
    """The files that stand before it, behind the constants, and the lines of each."""

    @property
    def sha256(self) -> str:
        """Digest of everything that the compiler sees."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def place(self, row: int) -> tuple[str, int]:
        """The file that a line of the text is in, and its number there; 0 for none."""
        if row > self.first_line or not self.before or not row:
            return self.path, max(row - self.first_line, 0)
        end = self.first_line
        for path, lines in reversed(self.before):
            end -= lines
            if row > end:
                return path, row - end
        return self.before[0][0], 0

    @property
    def constants(self) -> int:
        """The lines of the constants, with which the text begins."""
        return self.first_line - sum(lines for _, lines in self.before)

    def failed(self, row: int, log: str) -> CompileFailed:
        """A compiler's error at a line of the text, 0 for none, by the line count of the file that it is in."""
        return CompileFailed(*self.place(row), log)


@cache
def kernel_text(relative: str) -> str:
    """The text of a file under ``kernels/``; raises FileNotFoundError for a dialect that an op does not have."""
    return resources.files(KERNELS).joinpath(relative).read_text(encoding="utf-8")


def package_text(package: str, relative: str) -> str:
    """The same of the package that brings an op."""
    return resources.files(package).joinpath(relative).read_text(encoding="utf-8")


def file_of(op: str, dialect: str) -> str:
    """The file of an op's text below ``kernels/``, or below the package that brings the op."""
    op = JOINED.get(op, op) if dialect == "gpu" else op
    return f"{op}/{TEXTS[dialect].format(op=op)}"


def place(op: Op, dialect: str) -> str:
    """What people are told is the file of an op's text."""
    if op.texts != KERNELS and dialect == "numpy":
        return f"{type(op).__module__.replace('.', '/')}.py"
    return f"{'kernels' if op.texts == KERNELS else op.texts}/{file_of(op.name, dialect)}"


def _own_text(op: Op, dialect: str) -> tuple[str, str]:
    """What error messages call an op's text, and the text; an op of another package brings its own."""
    relative, path = file_of(op.name, dialect), place(op, dialect)
    if op.texts == KERNELS:
        return path, kernel_text(relative)
    return path, package_text(op.texts, relative)


@cache
def _has_text(package: str, op: str, dialect: str) -> bool:
    try:
        return resources.files(package).joinpath(file_of(op, dialect)).is_file()
    except ImportError:
        return False


def missing_text(op: Op, dialect: str) -> str | None:
    """Why an op cannot run in a dialect (it has no text in it), or None.

    Native kernels are compiled into kparity, so that an op of another package has none; the numpy text of an op is its
    reference, which every op has. A dialect that is none of ``TEXTS`` is its backend's own affair.
    """
    if dialect == "native" and op.texts != KERNELS:
        return f"{op.name} is an op of {op.texts}; native kernels are those of kparity only"
    if dialect in TEXTS and dialect != "numpy" and not _has_text(op.texts, op.name, dialect):
        return f"{op.name} has no {dialect} text in {op.texts}"
    return None


def uses(text: str, ending: str) -> list[str]:
    """The shared texts that a text uses, by their paths under ``kernels/``."""
    return [f"prelude/{name}.{ending}" for name in USE.findall(text)]


def prelude_text(name: str) -> str:
    """What stands before a GPU text for cuda, hip or opencl."""
    own = kernel_text(f"prelude/{name}.h")
    return "".join([own, *map(kernel_text, uses(own, "h"))])


def _c_defines(values: Mapping[str, int | float]) -> str:
    return "".join(
        f"#define {name} {value if isinstance(value, int) else f'{value!r}f'}\n" for name, value in values.items()
    )


def _wgsl_constants(values: Mapping[str, int | float]) -> str:
    return "".join(
        f"const {name}: u32 = {value}u;\n" if isinstance(value, int) else f"const {name}: f32 = {value}f;\n"
        for name, value in values.items()
    )


def gpu_source(op: Op, case: Case, prelude: str, extra: Mapping[str, int | float] | None = None) -> Source:
    """The GPU text for ``prelude`` (cuda, hip or opencl) at one case; ``extra`` adds adapter constants such as WAVE."""
    path, text = _own_text(op, "gpu")
    files = (f"prelude/{prelude}.h", *uses(kernel_text(f"prelude/{prelude}.h"), "h"), *uses(text, "cu"))
    shared = {each: kernel_text(each) for each in files}
    head = _c_defines({**op.defines(case), **(extra or {})}) + "".join(shared.values())
    before = tuple((f"kernels/{each}", content.count("\n")) for each, content in shared.items())
    return Source(op.name, path, head + text, head.count("\n"), before)


def _select(path: str, text: str, values: Mapping[str, int | float]) -> str:
    """The text with the lines that its ``//#if`` blocks leave out made empty, so that line numbers stay."""
    lines, keep, opened = text.splitlines(), True, 0  # `opened`: the line of an open block, negative behind its else
    for number, line in enumerate(lines, 1):
        directive = line.strip()
        condition = CONDITION.fullmatch(directive)
        value = values.get(condition[1]) if condition else None
        if condition and not opened and isinstance(value, int):
            value = value % int(condition[2]) if condition[2] else value
            keep, opened = COMPARE[condition[3]](value, int(condition[4])), number
        elif directive == "//#else" and opened > 0:
            keep, opened = not keep, -opened
        elif directive == "//#endif" and opened:
            keep, opened = True, 0
        elif directive.startswith("//#"):
            raise CompileFailed(path, number, f"misplaced or unknown directive: {directive}")
        elif keep:
            continue
        lines[number - 1] = ""
    if opened:
        raise CompileFailed(path, abs(opened), "//#if without //#endif")
    return "\n".join(lines) + "\n"


def wgsl_source(op: Op, case: Case) -> Source:
    """The WGSL text at one case."""
    (path, text), values = _own_text(op, "wgsl"), op.defines(case)
    head = _wgsl_constants(values) + "".join(map(kernel_text, uses(text, "wgsl")))
    return Source(op.name, path, head + _select(path, USE.sub("", text), values), head.count("\n"))
