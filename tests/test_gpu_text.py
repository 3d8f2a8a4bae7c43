"""The one GPU text of each op: its ABI is the specification's, and CUDA and HIP compilers take it without a warning.

No device is needed. A compiler that is not there is a skip, and a failure where ``KPARITY_REQUIRE`` names it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kparity import ops
from kparity.assemble import Source, gpu_source, kernel_text
from kparity.spec import Case, Op

CUDA_ARCHS = ("75", "90")
HIP_ARCHS = ("gfx90a", "gfx1100")  # wave64 with the signed dot product, wave32 with the mixed-sign one only
CLANGS = ("clang-19", "clang-20", "clang-21", "clang-18")


def tool(label: str, names: tuple[str, ...]) -> str:
    """Path of the first compiler that is installed."""
    for name in names:
        if found := shutil.which(name):
            return found
    reason = f"none of {', '.join(names)} is on PATH"
    if label in os.environ.get("KPARITY_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


def one_per_variant() -> list[tuple[Op, Case]]:
    """Of each variant of each op the case with the most rows: there, tiles of M are complete and tails exist."""
    found: dict[tuple[str, str], tuple[Op, Case]] = {}
    for op in ops.every():
        for case in op.cases():
            key = (op.name, op.variant(case))
            if key not in found or case["M"] > found[key][1]["M"]:
                found[key] = (op, case)
    return list(found.values())


VARIANTS = [pytest.param(op, case, id=case.id) for op, case in one_per_variant()]


def compile_text(source: Source, command: list[str], suffix: str, folder: Path) -> str:
    """Compile to ``out`` in ``folder`` and return it as text; whatever the compiler says is a failure."""
    file, out = folder / f"{source.op}{suffix}", folder / "out"
    file.write_text(source.text, encoding="utf-8")
    run = subprocess.run(
        [*command, "-o", str(out), str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    log = (run.stdout + run.stderr).strip()
    assert run.returncode == 0 and not log, f"{source.path} (its line 1 is line {source.first_line + 1}):\n{log}"
    return out.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize(("op", "case"), VARIANTS)
def test_nvcc(op: Op, case: Case, tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in CUDA_ARCHS]
    command = [tool("nvcc", ("nvcc",)), "-fatbin", "-std=c++17", "-Werror=all-warnings", *targets]
    compile_text(gpu_source(op, case, "cuda"), command, ".cu", tmp_path)


@pytest.mark.parametrize("arch", HIP_ARCHS)
@pytest.mark.parametrize(("op", "case"), VARIANTS)
def test_clang_hip(op: Op, case: Case, arch: str, tmp_path: Path) -> None:
    bare = ["-x", "hip", "--cuda-device-only", "-nogpulib", "-nogpuinc", f"--offload-arch={arch}"]
    warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]  # a variant need not read every buffer
    command = [tool("clang", CLANGS), *bare, *warnings, "-std=c++17", "-O3", "-S"]
    assembly = compile_text(gpu_source(op, case, "hip"), command, ".hip", tmp_path)
    if op.name == "tgemv":
        assert "v_dot4" in assembly, f"{arch} has a dot product of bytes, and the text does not use it"
    assert "s_swappc" not in assembly, "a call: something was not inlined, or comes from a device library"


@pytest.mark.parametrize("op", ops.every(), ids=lambda op: op.name)
def test_signature_is_the_abi(op: Op) -> None:
    """Argument names in order, and ``const`` on exactly those that the kernel only reads."""
    text = re.sub(r"/\*.*?\*/", "", kernel_text(f"{op.name}/{op.name}.cu"), flags=re.DOTALL)
    found = re.search(rf"^KERNEL {op.name}\((.*?)\)\s*(?:#else|{{)", text, flags=re.DOTALL | re.MULTILINE)
    assert found, f"no entry point named {op.name}"
    given = [("const" in part, part.split()[-1]) for part in found.group(1).replace("#if OUT_I32", "").split(",")]
    assert given == [(arg.role == "in", arg.name) for arg in op.args(op.cases()[0])]


@pytest.mark.parametrize("op", ops.every(), ids=lambda op: op.name)
def test_text_is_portable(op: Op) -> None:
    text = kernel_text(f"{op.name}/{op.name}.cu")
    assert text.isascii(), "some OpenCL compilers take ASCII only"
    for word in ("threadIdx", "get_local_id", "__shfl", "warpSize", "#include"):
        assert word not in text, f"{word} belongs to a prelude or to none"
    assert not re.search(r"[&%*/] *(?:32|64)u?\b", text), "the width of a wavefront must not be a literal"


@pytest.mark.parametrize("prelude", ["cuda", "hip", "opencl"])
def test_preludes_offer_the_same(prelude: str) -> None:
    """A macro that one prelude has and another lacks would make a text work on one API only."""
    names = {
        each: set(
            re.findall(r"^#define (\w+)|^INLINE \w+ (\w+)\(", kernel_text(f"prelude/{each}.h"), flags=re.MULTILINE)
        )
        for each in ("cuda", "hip", "opencl")
    }
    offered = {each: {macro or function for macro, function in found} for each, found in names.items()}
    private = {"f16_to_f32", "f32_to_f16", "unpack_f16x2", "dot_bytes"}
    assert offered[prelude] - private == offered["cuda"] - private
