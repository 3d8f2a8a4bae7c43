"""Compile gates: CUDA's and AMD's compilers take every text without a warning, and tgemv and attention without a spill.

No device is needed, and nothing here says that a kernel computes anything. A compiler that is not installed is a skip,
and a failure where ``KPARITY_REQUIRE`` names it: ``nvcc`` (nvcc and NVRTC), ``clang``, ``hiprtc``.
"""

import json
import struct
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest

from kparity import ops
from kparity.backends.cuda import CudaBackend
from kparity.backends.hip import HipBackend
from kparity.errors import Unavailable, WrongInput
from kparity.ops.assemble import Source, gpu_source, kernel_text
from tests.conftest import COMPILED, absent
from tools import compile_table
from tools.toolchains import (
    Outcome,
    Resources,
    Target,
    Toolchain,
    compilers,
    conditions,
    examine,
    refusals,
    served,
    summary,
    sweep,
    variants,
)  # fmt: skip

pytestmark = pytest.mark.compile

CUDA_TARGETS = [Target(f"sm_{arch}") for arch in compilers.ARCHS]
HIP_TARGETS = [Target(arch, wave) for arch, waves in compilers.WAVES.items() for wave in waves]
ADD = ops.get("add").cases()[0]


@cache
def opened(kind: type[Toolchain]) -> Toolchain | Unavailable:
    """The compiler, or what prevented it from opening."""
    try:
        return kind()
    except Unavailable as missing:
        return missing


def toolchain(kind: type[Toolchain], label: str) -> Toolchain:
    """The compiler; a skip where it is missing, a failure where ``label`` is required."""
    found = opened(kind)
    if not isinstance(found, Toolchain):
        absent(f"{label}: [{found.code}] {found}", label)
    return found


def check(compiler: Toolchain, target: Target) -> None:
    """Every op; the reasons of all texts that are refused. What each op takes is shown at the end of the run."""
    outcomes = sweep(compiler, target)
    COMPILED.append(summary(compiler, target, outcomes))
    assert {outcome.case.op for outcome in outcomes} == set(ops.BUILTIN)
    refused = [reason for outcome in outcomes for reason in outcome.refusals]
    assert not refused, f"{compiler.version}, {target.name}: {len(refused)} refused:\n" + "\n".join(refused)


def test_a_summary_shows_registers_and_spills() -> None:
    case = ops.get("tgemv").cases()[0]
    clean, spilled = Resources("a", 40, None, 0, 0, 0), Resources("b", 255, None, 0, 8, 16)
    line = summary(SimpleNamespace(version="X 1"), Target("sm_90"), [Outcome(case, "", (clean, spilled), ())])
    assert line.startswith("X 1, sm_90: 1 texts, registers at most: tgemv 255; tgemv[")
    assert line.endswith("spills 16, scratch 8")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("target", CUDA_TARGETS, ids=lambda target: target.name)
def test_nvrtc(target: Target) -> None:
    compiler = toolchain(compilers.Nvrtc, "nvcc")
    if target not in compiler.targets():
        pytest.skip(f"{compiler.version} does not know {target.name}")
    check(compiler, target)


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_nvcc(which: str) -> None:
    compiler = toolchain(compilers.Nvcc, "nvcc")
    check(compiler, compiler.targets()[0 if which == "oldest" else -1])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("target", HIP_TARGETS, ids=lambda target: target.name)
def test_clang(target: Target) -> None:
    check(toolchain(compilers.Clang, "clang"), target)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("target", [Target("gfx90a", 64), Target("gfx1030", 32)], ids=lambda target: target.name)
def test_hiprtc(target: Target) -> None:
    check(toolchain(compilers.Hiprtc, "hiprtc"), target)


# The gates prove nothing unless they refuse what is wrong.

KINDS = [
    pytest.param(compilers.Nvrtc, "nvcc", Target("sm_90"), id="nvrtc"),
    pytest.param(compilers.Nvcc, "nvcc", Target("sm_90"), id="nvcc"),
    pytest.param(compilers.Clang, "clang", Target("gfx90a", 64), id="clang"),
]
SPILLING = """
KERNEL attention(GLOBAL const float* a, GLOBAL const i32* at, GLOBAL float* y)
{
    float kept[64];
    for (u32 i = 0; i < 64; ++i) {
        kept[i] = a[i * BLOCK + LANE];
    }
    kept[at[LANE] & 15] = 1.0f; /* an index that only the device knows: registers have no addresses */
    for (u32 i = 0; i < 64; ++i) {
        y[i * BLOCK + LANE] = kept[at[i] & 15];
    }
}
"""


def text_of(compiler: Toolchain, target: Target, name: str, old: str, new: str) -> Source:
    """The text of ``add`` under the name of another op, with a part of it replaced."""
    source = compiler.source(ADD, target)
    own = kernel_text("add/add.cu")
    assert old in own
    return replace(source, op=name, text=source.text.replace(own, own.replace(old, new)))


@pytest.mark.parametrize(("kind", "label", "target"), KINDS)
def test_memory_behind_registers_is_refused(kind: type[Toolchain], label: str, target: Target) -> None:
    compiler = toolchain(kind, label)
    source = compiler.source(ADD, target)
    text = source.text[: -len(kernel_text("add/add.cu"))] + SPILLING
    found = compiler.compile(replace(source, text=text), target)
    assert [each.entry for each in found] == ["attention"] and found[0].scratch >= 64
    assert found[0].registers > 0 and found[0].shared == 0
    assert "spills" in refusals("attention", found)[0] and "spills" in refusals("tgemv", found)[0]
    assert refusals("rope", found) == []
    (longer, *_), shape = variants("norm_tgemv"), served("norm_tgemv")[0]
    assert refusals("norm_tgemv", found, longer) == [] != refusals("norm_tgemv", found, shape)


@pytest.mark.parametrize(("kind", "label", "target"), KINDS)
def test_a_warning_and_an_error_are_refused_with_file_and_line(
    kind: type[Toolchain], label: str, target: Target
) -> None:
    compiler = toolchain(kind, label)
    lines = kernel_text("add/add.cu").splitlines()
    for wrong in ("u32 forgotten;", "u32 broken = ;"):
        outcome = examine(compiler, target, ADD, text_of(compiler, target, "add", "\n{\n", f"\n{{\n    {wrong}\n"))
        assert outcome.resources == () and ("forgotten" in outcome.refusals[0] or "broken" in wrong)
        assert outcome.refusals[0].startswith(f"kernels/add/add.cu:{lines.index('{') + 2}: ")
    prelude, source = kernel_text(f"prelude/{compiler.prelude}.h").splitlines(), compiler.source(ADD, target)
    broken = replace(source, text=source.text.replace("typedef int i32;", "typedef int i32 i33;"))
    reason = examine(compiler, target, ADD, broken).refusals[0]
    assert reason.startswith(f"kernels/prelude/{compiler.prelude}.h:{prelude.index('typedef int i32;') + 1}: ")


@pytest.mark.parametrize(("kind", "label", "target"), KINDS)
def test_a_missing_entry_point_is_refused(kind: type[Toolchain], label: str, target: Target) -> None:
    compiler = toolchain(kind, label)
    source = text_of(compiler, target, "add", "KERNEL add(", "KERNEL plus(")
    assert examine(compiler, target, ADD, source).refusals[0].endswith("no entry point add")
    assert refusals("add", []) == ["add: the compiler reports no entry point"]


@pytest.mark.parametrize("arch", ["gfx1030", "gfx1100", "gfx1151"])
def test_a_lane_of_the_other_half_of_a_wavefront_is_refused(arch: str) -> None:
    """``ds_bpermute`` does not reach it there: a text that joins 64 lanes at once was right to the compiler."""
    compiler, target, case = toolchain(compilers.Clang, "clang"), Target(arch, 64), variants("rmsnorm")[0]
    source = compiler.source(case, target)
    whole = replace(source, text=source.text.replace("#undef WAVE\n#define WAVE 32\n", ""))
    assert "#define WAVE 64" in whole.text and whole.text != source.text
    assert "beyond those that ds_bpermute reaches" in examine(compiler, target, case, whole).refusals[0]
    assert not examine(compiler, target, case, source).refusals


def test_code_is_read_for_what_it_betrays() -> None:
    assert "ds_bpermute" in (compilers.bad_code("add", "s_trap 2") or "")
    assert "call" in (compilers.bad_code("glu", "s_swappc_b64 s[30:31], s[4:5]") or "")
    assert "dot product" in (compilers.bad_code("tgemv", "v_mad_i32_i24 v0, v1, v2, v3") or "")
    assert compilers.bad_code("tgemv", "v_dot4_i32_i8 v0, v1, v2, v3") is None
    assert compilers.bad_code("glu", "v_add_f32") is None


def test_ptxas_reports_are_read() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_90'
ptxas info    : Function properties for a
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 256 bytes smem
ptxas info    : Compiling entry function 'b' for 'sm_90'
ptxas info    : Function properties for b
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 400 bytes cmem[0]
"""
    source = gpu_source(ops.get("add"), ADD, "cuda")
    a, b = compilers.judged(source, 0, log)
    assert (a.entry, a.registers, a.shared, a.scratch, a.spills) == ("a", 40, 256, 8, 16)
    assert (b.entry, b.registers, b.shared, b.scratch, b.spills) == ("b", 16, 0, 0, 0)
    with pytest.raises(Exception, match=r"kernels/add/add\.cu:0: warning : something"):
        compilers.judged(source, 0, log + "warning : something\n")


def test_damaged_code_objects_are_refused() -> None:
    def code(note: bytes) -> bytes:
        head = b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<QQIHHH", 64, 0, 0, 64, 56, 1) + bytes(6)
        return head + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), 0, 0) + note

    packed = b"\x82\xa1a\x92\x01\xcd\x01\x00\xa1b\xc3"  # {"a": [1, 256], "b": true}
    good = code(struct.pack("<III", 7, len(packed), 32) + b"AMDGPU\0\0" + packed)
    assert compilers.metadata(good) == {"a": [1, 256], "b": True}
    for bad in (b"", b"\x7fELF\x01\x01", good[:60], good[:100], good[:-4], code(b""), good.replace(b"AMD", b"IBM"),
                good.replace(b"\xc3", b"\xc1")):  # fmt: skip
        with pytest.raises(WrongInput, match="code object"):
            compilers.metadata(bad)


# What is compiled is what a device would compile, and nothing is left out.


def test_flags_are_those_of_the_adapters() -> None:
    backend = SimpleNamespace(arch="sm_90")
    given = set(CudaBackend._options(backend))  # type: ignore[arg-type]
    assert given == {"--gpu-architecture=sm_90", "--std=c++17", *compilers.CUDA_FLAGS}
    given = set(HipBackend._options(SimpleNamespace(arch="gfx90a")))  # type: ignore[arg-type]
    assert given == {"--offload-arch=gfx90a", *compilers.HIP_FLAGS}


def test_every_option_is_compiled() -> None:
    for op in ops.every():
        chosen = set(variants(op.name))
        assert {op.variant(case) for case in chosen} == {op.variant(case) for case in op.cases()}
        for name, values in op.choices.items():
            assert {case[name] for case in chosen} == set(values), f"{op.name}: {name}"
    shapes = {(case["M"], case["N"], case["K"]) for case in variants("tgemv")}
    assert {(1, 2560, 2560), (1, 2560, 6912)} <= shapes, "what a served model launches"


def test_conditions_are_followed_through_macros() -> None:
    text = "#define BOTH (FIRST && !SECOND)\n#define NEVER UNUSED\n/* #if IGNORED */\n"
    text += "  #if BOTH || TILE == 1\n#elif F(LAST)\n#endif"
    assert conditions(text) == {"BOTH", "FIRST", "SECOND", "TILE", "F", "LAST"}


# The receipt and the table of docs/support.md.


def test_the_support_table_is_that_of_the_receipt() -> None:
    receipt = json.loads(compile_table.RECEIPT.read_text(encoding="utf-8"))
    page = compile_table.PAGE.read_text(encoding="utf-8")
    assert compile_table.with_support(page, receipt) == page, "python -m tools.compile_table --write"
    executed = [name for name, each in receipt["executed"].items() if each["kind"] == "gpu"]
    assert (compile_table.NO_GPU in page) == (not executed)
    for name in ("cuda", "hip"):
        assert (name in receipt["executed"]) == (name in executed)
    assert receipt["executed"]["cuda-ptx"]["failed"] == []


def test_the_receipt_is_complete() -> None:
    receipt = json.loads(compile_table.RECEIPT.read_text(encoding="utf-8"))
    assert receipt["schema"] == compile_table.SCHEMA and len(receipt["commit"]) == 40 and receipt["missing"] == {}
    assert set(receipt["compilers"]) == set(compile_table.TOOLCHAINS)
    targets = {(each["toolchain"], each["target"]) for each in receipt["targets"]}
    assert targets >= {("nvrtc", target.name) for target in CUDA_TARGETS}
    assert targets >= {("clang", target.name) for target in HIP_TARGETS}
    assert targets >= {("hiprtc", "gfx90a/wave64"), ("hiprtc", "gfx1030/wave32")}
    for each in receipt["targets"]:
        assert all(len(row) == len(receipt["columns"]) for row in each["rows"])
        assert {receipt["texts"][row[0]]["op"] for row in each["rows"]} <= set(ops.BUILTIN)
    again = json.loads(compile_table.written(receipt))
    assert again == receipt


def test_the_table_tells_executed_from_compiled() -> None:
    receipt = {
        "commit": "0" * 40, "dirty": False, "refused": [], "compilers": {"nvrtc": "NVRTC 13.0"},
        "texts": [{"op": "add", "case": "add[…]"}],
        "targets": [{"toolchain": "nvrtc", "target": "sm_90", "rows": [[0]]}],
        "executed": {"cpu": {"kind": "cpu", "devices": ["a CPU"], "cases": {"add": 4}}},
    }  # fmt: skip
    table = compile_table.support(receipt)
    assert compile_table.NO_GPU in table and "| `add` | ✓ 4 | – | – | *c* 1 | – | – | – |" in table
    assert "| `cuda` | `.cu` | NVRTC 13.0: sm_90 | nothing yet |" in table
    receipt["executed"]["cuda-ptx"] = {"kind": "software", "devices": ["no GPU"], "cases": {"add": 41}}
    table = compile_table.support(receipt)
    assert compile_table.NO_GPU in table and "| `add` | ✓ 4 | – | – | *p* 41 | – | – | – |" in table
    assert "| `cuda` | `.cu` | NVRTC 13.0: sm_90 | PTX level (interpreter); no GPU yet |" in table
    receipt["executed"]["cuda"] = {"kind": "gpu", "devices": ["a GPU"], "cases": {"add": 4}}
    table = compile_table.support(receipt)
    assert compile_table.NO_GPU not in table and "Executed on a GPU: `cuda`." in table
    assert "| `add` | ✓ 4 | – | – | ✓ 4 | – | – | – |" in table
