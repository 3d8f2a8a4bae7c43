"""``mma.sync`` of the interpreter against sums of whole numbers, by the layout of fragments in the PTX ISA."""

from __future__ import annotations

import numpy as np
import pytest

from kparity.errors import CompileFailed
from kparity.ptx.memory import Fault
from tests.ptx_texts import RNG, entry, launch

MMA = (
    "mma.sync.aligned.m16n8k32.row.col{}.s32.{}.{}.s32 {{%r1, %r2, %r3, %r4}}, {{%r5, %r6, %r7, %r8}}, "
    "{{%r9, %r10}}, {{%r11, %r12, %r13, %r14}};"
)


def text(signs: tuple[str, str] = ("s8", "s8"), satfinite: str = "", before: str = "") -> str:
    """Each lane reads ten registers of a row of the first array, and writes four of the second."""
    loads = "\n".join(f"ld.global.b32 %r{5 + at}, [%rd5+{4 * at}];" for at in range(10))
    stores = "\n".join(f"st.global.b32 [%rd6+{4 * at}], %r{1 + at};" for at in range(4))
    head = "mad.wide.u32 %rd5, %r0, 40, %rd0; mad.wide.u32 %rd6, %r0, 16, %rd1;"
    return entry(f"{head}\n{loads}\n{before}\n{MMA.format(satfinite, *signs)}\n{stores}\nEND:", 2)


def byte(registers: np.ndarray, register: int, at: int, sign: str) -> int:
    value = int(registers[register]) >> 8 * at & 0xFF
    return value - 256 if sign == "s8" and value > 127 else value


def product(lanes: np.ndarray, signs: tuple[str, str]) -> np.ndarray:
    """PTX ISA, "Matrix Fragments for mma.m16n8k32": element i of a lane's fragment → row and column, one by one."""
    a, b, c = np.zeros((16, 32), object), np.zeros((32, 8), object), np.zeros((16, 8), object)
    for lane in range(32):
        group, member = lane >> 2, lane % 4
        for i in range(16):
            row = group if i < 4 or 8 <= i < 12 else group + 8
            a[row, member * 4 + (i & 3) + (0 if i < 8 else 16)] = byte(lanes[lane], i // 4, i % 4, signs[0])
        for i in range(8):
            b[member * 4 + (i & 3) + (0 if i < 4 else 16), group] = byte(lanes[lane], 4 + i // 4, i % 4, signs[1])
        for i in range(4):
            c[group if i < 2 else group + 8, member * 2 + (i & 1)] = int(lanes[lane][6 + i])
    total = c + a.dot(b)
    found = [[total[(lane >> 2) + i // 2 * 8, lane % 4 * 2 + (i & 1)] % 2**32 for i in range(4)] for lane in range(32)]
    return np.array(found, np.uint32)


@pytest.mark.parametrize("left", ["s8", "u8"])
@pytest.mark.parametrize("right", ["s8", "u8"])
def test_products_of_fragments(left: str, right: str) -> None:
    given = RNG.integers(0, 2**32, (96, 10), np.uint32)
    given[32:64, :6] = 0x80808080  # the largest products, and sums that wrap around
    given[32:64, 6:] = 0x7FFFFFFF
    got = launch(text((left, right)), [given, np.zeros((96, 4), np.uint32)], (96, 1, 1))[1]
    for warp in range(0, 96, 32):
        assert (got[warp : warp + 32] == product(given[warp : warp + 32], (left, right))).all()


def test_what_is_no_product_of_a_warp_is_refused() -> None:
    arrays = [np.zeros((64, 10), np.uint32), np.zeros((64, 4), np.uint32)]
    with pytest.raises(Fault, match="a matrix product without a lane"):
        launch(text(before="setp.eq.u32 %p1, %r0, 3; @%p1 bra END;"), arrays, (64, 1, 1))
    with pytest.raises(Fault, match="a matrix product in a warp that is not full"):
        launch(text(), arrays, (48, 1, 1))
    with pytest.raises(CompileFailed, match="saturate"):
        launch(text(satfinite=".satfinite"), arrays, (64, 1, 1))
    with pytest.raises(CompileFailed, match=r"of \[4, 4, 1, 4\] registers"):
        launch(text().replace("{%r9, %r10}", "{%r9}"), arrays, (64, 1, 1))
    with pytest.raises(CompileFailed, match="is not known here"):
        launch(text().replace("m16n8k32", "m16n8k16"), arrays, (64, 1, 1))


def test_lanes_that_have_ended_are_missed() -> None:
    arrays = [np.zeros((64, 10), np.uint32), np.zeros((64, 4), np.uint32)]
    with pytest.raises(Fault, match="a matrix product"):
        launch(text(before="setp.eq.u32 %p1, %r0, 3; @%p1 ret;"), arrays, (64, 1, 1))
