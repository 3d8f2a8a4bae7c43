"""The tiles of AMD's matrix cores, executed on PoCL: each lane's registers meet as the instruction lets them meet.

No AMD device is needed, and none is here: that the compilers emit the instruction is read from the machine code in
``tests/test_machine.py``, and what it computes is written below, element by element, from where the AMD Matrix
Instruction Calculator says that each stands ("AMD Instinct MI300 Instruction Set Architecture", 2025, section 7; "RDNA3
Instruction Set Architecture", 2023, section 7.9; "RDNA4 Instruction Set Architecture", 2025, section 7.12). The text of
the tile (``prelude/ternary_mma.cu``) says the same the other way round: what a lane has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from kparity import ops
from kparity.backends.opencl import OpenclBackend
from kparity.errors import Unavailable
from kparity.ops import assemble
from kparity.ops.spec import Case
from tests.test_ops import check_case
from tests.test_waves import open_runtime

TILE = "prelude/ternary_mma.cu"


@dataclass(frozen=True)
class Instruction:
    """D[i][j] += Σ_k A[i][k] B[k][j] of 16 × 16 sums by the lanes of a wave; byte k % 4 of a register has column k."""

    lanes: int
    columns: int
    lane: str
    """Of A[i][k]; B[k][j] stands where A[j][k] would. ``twin``: where two lanes must have the same, either is asked."""
    register: str
    sum_lane: str
    sum_register: str


MFMA = ("j + 16 * (i / 4)", "i % 4")
INSTRUCTIONS = {
    "MFMA_K16": Instruction(64, 16, "i + 16 * (k / 4)", "0", *MFMA),
    "MFMA_K32": Instruction(64, 32, "i + 16 * (k / 8)", "k / 4 % 2", *MFMA),
    "WMMA": Instruction(32, 16, "i + 16 * twin", "k / 4", "j + 16 * (i % 2)", "i / 2"),
    "WMMA_GFX12": Instruction(32, 16, "i + 16 * (k / 8)", "k / 4 % 2", "j + 16 * (i / 8)", "i % 8"),
}
EMULATION = """
#define MATRIX {name}
#define MATRIX_EMULATED emulated
INLINE i32 element(LOCAL const u32* registers, u32 i, u32 k, u32 twin)
{{
    return (i8)(registers[({lane}) * {depth} + ({register})] >> 8 * (k % 4));
}}

INLINE void emulated(i32* sum, const u32* a, const u32* b, LOCAL i32* share)
{{
    LOCAL u32* left = (LOCAL u32*)share;
    LOCAL u32* right = left + {lanes} * {depth};
    const u32 lane = LANE % {lanes};
    for (u32 i = 0; i < {depth}; ++i) {{
        left[lane * {depth} + i] = a[i];
        right[lane * {depth} + i] = b[i];
    }}
    BARRIER();
    for (u32 at = 0; at < 256; ++at) {{
        const u32 i = at / 16, j = at % 16;
        if (({sum_lane}) == lane) {{
            for (u32 k = 0; k < {columns}; ++k) {{
                sum[{sum_register}] += element(left, i, k, k / 4 % 2) * element(right, j, k, 1 - k / 4 % 2);
            }}
        }}
    }}
    BARRIER();
}}
"""


def emulation(name: str) -> str:
    """OpenCL that says what the instruction computes, in front of the tile."""
    what = INSTRUCTIONS[name]
    return EMULATION.format(
        name=name, depth=what.columns * 16 // what.lanes // 4 if name != "WMMA" else 4, **vars(what)
    )


@pytest.fixture(scope="module")
def pocl() -> Iterator[OpenclBackend]:
    try:
        opened = open_runtime("pocl", 32)
    except Unavailable as missing:
        pytest.skip(str(missing))
    yield opened
    opened.close()


@pytest.fixture
def tiled(pocl: OpenclBackend, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Holds a case against its bounds on the tile of an instruction, a part of whose text may be replaced."""
    original = assemble.kernel_text

    def run(name: str, case: Case, old: str = "", new: str = "") -> None:
        assert old in original(TILE), "the tile has changed: break it in another place"
        texts = {TILE: emulation(name) + original(TILE).replace(old, new)}
        monkeypatch.setattr(assemble, "kernel_text", lambda path: texts.get(path) or original(path))
        check_case(pocl, case)

    return run


SMALL, TAILED = {"M": 16, "N": 3, "K": 40}, {"M": 33, "N": 45, "K": 1100}
"""One fragment, mostly past its end; and more than a tile of rows, tokens and blocks of K, each with a tail."""


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_the_tile_of_each_instruction(name: str, tiled: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its waves share K, and where each has rows of its own."""
    op = ops.get("tgemv")
    share, own = op.case(**SMALL, ascale="block256", out="i32"), op.case(**TAILED, wscale="row")
    assert op.gpu_tile(share)[:3] == op.gpu_tile(own)[:3] == (128, 8, 2)
    tiled(name, share)
    monkeypatch.setattr("kparity.kernels.tgemv.GPU_GROUPS", 1)
    assert op.gpu_tile(own)[:3] == (128, 4, 4)
    tiled(name, own)


# Nothing of this is worth anything unless a wrong place of a lane is told.

SWAPPED = {
    "rows of lanes exchanged": ("#define LANE_ROW(lane) ((lane) % 16)", "#define LANE_ROW(lane) ((lane) % 16 ^ 1)"),
    "sums of lanes exchanged": (
        "#define SUM_TOKEN(lane, at) ((lane) % 16)",
        "#define SUM_TOKEN(lane, at) (~(lane) % 16)",
    ),
    "sums of gfx12 on gfx11": ("MATRIX == WMMA ? 2 * (at) + (lane) / 16 :", ""),
    "registers exchanged": ("word_of(tokens[at][n], first + i)", "word_of(tokens[at][n], first + (i ^ DEPTH - 1))"),
}
"""What is wrong → the text of the tile, and the wrong one."""


@pytest.mark.parametrize(("name", "what"), [*zip(("MFMA_K32", "MFMA_K16", "WMMA", "WMMA_GFX12"), SWAPPED, strict=True)])
def test_a_lane_in_a_wrong_place_is_told(name: str, what: str, tiled: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="outside their limit"):
        tiled(name, ops.get("tgemv").case(**SMALL, out="i32"), *SWAPPED[what])
