"""The one GPU text of each op, read as text: its ABI is the specification's, and nothing in it belongs to one API.

What compilers say of it is in ``test_compile.py``, what it computes in ``test_ops.py`` and ``test_waves.py``.
"""

import re
import subprocess
from collections.abc import Mapping

import pytest

from kparity import ops
from kparity.mutate import native
from kparity.ops.assemble import gpu_source, kernel_text, prelude_text, uses
from kparity.ops.spec import Op
from tools.toolchains import numbered, variants


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def preprocessed(text: str, defines: Mapping[str, int | float]) -> str:
    """What a C preprocessor leaves of the text."""
    compiler = native.compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler (c++, g++ or clang++), whose preprocessor is used")
    macros = [f"-D{name}={value}" for name, value in defines.items()]
    command = [compiler, "-E", "-P", "-w", "-x", "c", *macros, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("op", ops.every(), ids=lambda op: op.name)
def test_signature_is_the_abi(op: Op) -> None:
    """In every variant, each stage has the arguments of the ABI and the scratch in order, and what is only read is
    ``const``."""
    for case in variants(op.name):
        text = preprocessed(kernel_text(f"{op.name}/{op.name}.cu"), op.defines(case))
        stages, scratch = op.stages(case, "gpu"), op.scratch(case, "gpu")
        for stage in stages:
            found = re.search(rf"^\s*KERNEL\s+{stage.entry}\((.*?)\)\s*{{", text, flags=re.DOTALL | re.MULTILINE)
            assert found, f"{case.id}: no entry point named {stage.entry}"
            given = [("const" in part, part.split()[-1]) for part in found[1].split(",")]
            args = [*op.args(case), *scratch]
            assert [name for _, name in given] == [arg.name for arg in args], f"{case.id}: {stage.entry}"
            for (const, name), arg in zip(given, args, strict=True):
                only_read = arg.role == "in" and arg not in scratch
                # A stage of several may leave an output or scratch alone, and then says so.
                assert const or not only_read, f"{case.id}: {stage.entry} may write its input {name}"
                assert not const or only_read or len(stages) > 1, f"{case.id}: {stage.entry} cannot write {name}"


# What belongs to one API, and literal wavefronts, are found by ``test_house.py``.
SHARED = sorted({path for op in ops.every() for path in uses(kernel_text(f"{op.name}/{op.name}.cu"), "cu")})


@pytest.mark.parametrize("path", [*(f"{name}/{name}.cu" for name in ops.NAMES), *SHARED])
def test_text_is_ascii(path: str) -> None:
    assert kernel_text(path).isascii(), "some OpenCL compilers take ASCII only"
    assert "#include" not in kernel_text(path)


def test_a_shared_text_stands_once_between_the_prelude_and_the_own_text() -> None:
    op = ops.get("rope")
    source = gpu_source(op, op.cases()[0], "opencl")
    own, shared = kernel_text("rope/rope.cu"), kernel_text("prelude/angle.cu")
    assert SHARED and source.text.endswith(prelude_text("opencl") + shared + own)
    assert source.text.count("\n") == source.first_line + own.count("\n"), "lines of errors are lines of the file"
    last = ("kernels/prelude/angle.cu", shared.count("\n"))
    assert [source.place(source.first_line + at) for at in (0, 1)] == [last, ("kernels/rope/rope.cu", 1)]
    assert source.place(source.constants + 1) == ("kernels/prelude/opencl.h", 1)
    numbered_text = numbered(source)
    for path in ("prelude/opencl.h", "prelude/angle.cu", "rope/rope.cu"):
        assert f'#line 1 "kernels/{path}"\n{kernel_text(path)}' in numbered_text


@pytest.mark.parametrize("prelude", ["cuda", "hip", "opencl"])
def test_preludes_offer_the_same(prelude: str) -> None:
    """A macro that one prelude has and another lacks would make a text work on one API only."""
    pattern = re.compile(r"^#define (\w+)|^INLINE \w+ (\w+)\(", re.MULTILINE)
    texts = {each: prelude_text(each) for each in ("cuda", "hip", "opencl")}
    found = {each: pattern.findall(text) for each, text in texts.items()}
    offered = {each: {macro or function for macro, function in names} for each, names in found.items()}
    private = {"f16_to_f32", "f32_to_f16", "unpack_f16x2", "dot_bytes", "SHUFFLE_XOR"}
    # What a prelude alone uses ends with an underscore there.
    offered = {each: {name for name in found - private if not name.endswith("_")} for each, found in offered.items()}
    assert offered[prelude] == offered["cuda"]
