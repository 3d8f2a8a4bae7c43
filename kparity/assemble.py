"""Source assembly: the text that a device compiles is prelude + constants + the op's own text, and nothing else.

The GPU text (``kernels/<op>/<op>.cu``) is one for CUDA, HIP and OpenCL; ``kernels/prelude/<dialect>.h`` holds what
differs. WGSL has no preprocessor: constants become module-scope ``const`` declarations, and two directives, each alone
on its line, do what declarations cannot:

* ``//#if NAME == 2`` … ``//#else`` … ``//#endif`` keeps the lines of one side, by a constant of the case (``NAME`` or
  ``NAME % 8``, then ``==``, ``!=``, ``<`` or ``>``, then a whole number; blocks do not nest). It is for bindings, whose
  number and type a case may change, and for whatever names them; everything else is a plain ``if`` over constants.
* ``//#use name`` puts ``kernels/prelude/name.wgsl`` before the text: functions that several ops share.
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
from kparity.spec import Case, Op

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

    @property
    def sha256(self) -> str:
        """Digest of everything that the compiler sees."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def kernel_text(relative: str) -> str:
    """The text of a file under ``kernels/``; raises FileNotFoundError for a dialect that an op does not have."""
    return resources.files("kparity.kernels").joinpath(relative).read_text(encoding="utf-8")


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
    head = _c_defines({**op.defines(case), **(extra or {})}) + kernel_text(f"prelude/{prelude}.h")
    if not head.endswith("\n"):
        head += "\n"
    path = f"{op.name}/{op.name}.cu"
    return Source(op.name, f"kernels/{path}", head + kernel_text(path), head.count("\n"))


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
    path, values = f"{op.name}/{op.name}.wgsl", op.defines(case)
    text = kernel_text(path)
    head = _wgsl_constants(values)
    for name in re.findall(r"^//#use (\w+)$", text, re.MULTILINE):
        head += kernel_text(f"prelude/{name}.wgsl")
    text = re.sub(r"^//#use (\w+)$", "", text, flags=re.MULTILINE)
    return Source(op.name, f"kernels/{path}", head + _select(f"kernels/{path}", text, values), head.count("\n"))
