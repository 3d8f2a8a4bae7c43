"""Source assembly: the text that a device compiles is prelude + constants + the op's own text, and nothing else.

The GPU text (``kernels/<op>/<op>.cu``) is one for CUDA, HIP and OpenCL; ``kernels/prelude/<dialect>.h`` holds what
differs. WGSL has no preprocessor: constants become module-scope ``const`` declarations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from kparity.spec import Case, Op


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


def wgsl_source(op: Op, case: Case) -> Source:
    """The WGSL text at one case."""
    head = _wgsl_constants(op.defines(case))
    path = f"{op.name}/{op.name}.wgsl"
    return Source(op.name, f"kernels/{path}", head + kernel_text(path), head.count("\n"))
