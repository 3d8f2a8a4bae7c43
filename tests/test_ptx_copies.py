"""``cp.async`` and ``ldmatrix`` of the interpreter: what arrives, when, and who may touch it before."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kparity.errors import CompileFailed
from kparity.ptx.memory import Fault
from tests.ptx_texts import RNG, entry, launch

SHARED = ".shared .align 16 .b8 held[2048];"
HEAD = """
mov.u32 %r1, held; shl.b32 %r2, %r0, 4; add.u32 %r3, %r1, %r2;
mad.wide.u32 %rd2, %r0, 16, %rd0; mad.wide.u32 %rd3, %r0, 16, %rd1;
"""
COPY = "cp.async.cg.shared.global [%r3], [%rd2], 16;"
READ = "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r3]; st.global.v4.u32 [%rd3], {%r4, %r5, %r6, %r7};"
THREADS = 64


def run(body: str, sanitize: bool = True, rows: int = THREADS) -> tuple[np.ndarray, np.ndarray]:
    """What a kernel is given, 16 bytes a thread, and what it writes."""
    given = RNG.integers(0, 2**32, (rows, 4), np.uint32)
    found = launch(entry(HEAD + body, 2, SHARED), [given, np.zeros((THREADS, 4), np.uint32)], (THREADS, 1, 1),
                   sanitize=sanitize)  # fmt: skip
    return given, found[1]


@pytest.mark.parametrize("wait", ["cp.async.commit_group; cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_bytes_arrive_at_the_wait(wait: str) -> None:
    given, found = run(f"{COPY} {wait} {READ}")
    assert (found == given).all()


@pytest.mark.parametrize("sanitize", [False, True])
@pytest.mark.parametrize("wait", [
    "", "cp.async.commit_group;", "cp.async.commit_group; cp.async.wait_group 1;", "cp.async.wait_group 0;",
    "bar.sync 0;",
])  # fmt: skip
def test_a_wait_that_is_forgotten_or_too_early_names_the_lanes(wait: str, sanitize: bool) -> None:
    """A barrier does not wait for copies; a wait for groups not for those that are in none."""
    with pytest.raises(Fault, match=r"read of shared memory that the copy of thread 0 of block \(0, 0, 0\) at line \d+ "
                       r"is on its way to, and nobody waited for, at line \d+, thread 0"):  # fmt: skip
        run(f"{COPY} {wait} {READ}", sanitize)


def test_the_last_groups_may_be_under_way() -> None:
    """Two buffers in turn: the first group has arrived, the second has not."""
    second = COPY.replace("[%r3]", "[%r3+1024]")
    given, found = run(f"{COPY} cp.async.commit_group; {second} cp.async.commit_group; cp.async.wait_group 1; {READ}")
    assert (found == given).all()
    with pytest.raises(Fault, match="nobody waited for"):
        run(f"{COPY} cp.async.commit_group; {second} cp.async.commit_group; cp.async.wait_group 1; "
            f"{READ.replace('[%r3]', '[%r3+1024]')}")  # fmt: skip


def test_what_is_on_its_way_is_not_written_or_copied_to() -> None:
    for other, doing in (("st.shared.u32 [%r3+12], %r0;", "write"), (COPY, "copy")):
        with pytest.raises(Fault, match=f"{doing} of shared memory that the copy of thread 0 "):
            run(f"{COPY} {other} cp.async.wait_all;")
    with pytest.raises(Fault, match="several threads copy to the same bytes"):
        run(COPY.replace("%r3", "%r1") + "cp.async.wait_all;", sanitize=False)


def test_others_see_it_behind_a_barrier_after_the_wait() -> None:
    neighbour = "xor.b32 %r8, %r3, 16;" + READ.replace("[%r3]", "[%r8]")
    given, found = run(f"{COPY} cp.async.wait_all; bar.sync 0; {neighbour}")
    assert (found == given[np.arange(THREADS) ^ 1]).all()
    with pytest.raises(Fault, match="race on held"):
        run(f"{COPY} cp.async.wait_all; {neighbour}")
    with pytest.raises(Fault, match="nobody waited for"):
        run(f"{COPY} bar.sync 0; cp.async.wait_all; {neighbour.replace('%r8, %r3, 16', '%r8, %r3, 512')}"
            .replace("cp.async.wait_all", "setp.lt.u32 %p1, %r0, 32; @%p1 cp.async.wait_all"))  # fmt: skip


def test_bytes_that_are_not_given_are_zeros_and_not_read() -> None:
    part = COPY.replace("16;", "16, %r9;")
    ends = "min.u32 %r9, %r0, 1; shl.b32 %r9, %r9, 3;"  # thread 0 brings nothing, the others 8 bytes
    given, found = run(f"{ends} {part} cp.async.wait_all; {READ}")
    assert (found[1:, :2] == given[1:, :2]).all() and (found[:, 2:] == 0).all() and (found[0] == 0).all()
    with pytest.raises(Fault, match=r"read of 4 bytes at byte 512 of a0, which has 512"):
        run(f"{COPY} cp.async.wait_all;", rows=32)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_rows_of_matrices(count: int) -> None:
    """PTX ISA, ``ldmatrix``: thread 4r + c holds elements 2c and 2c + 1, of 16 bits, of row r of each matrix."""
    registers = ", ".join(f"%r{4 + at}" for at in range(count))
    stores = "".join(f"st.global.u32 [%rd3+{4 * at}], %r{4 + at};" for at in range(count))
    # the rows are asked for in reverse: row r of matrix i from the 16 bytes of lane 31 - (8i + r)
    where = (
        "and.b32 %r8, %r0, 31; sub.u32 %r8, 31, %r8; and.b32 %r9, %r0, 32; add.u32 %r8, %r8, %r9; shl.b32 %r8, %r8, 4;"
    )
    text = f"{COPY} cp.async.wait_all; bar.sync 0; {where} add.u32 %r8, %r8, %r1;"
    given, found = run(f"{text} ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {{{registers}}}, [%r8]; {stores}")
    for lane in range(THREADS):
        for at in range(count):
            row = lane // 32 * 32 + 31 - (8 * at + lane % 32 // 4)
            assert found[lane, at] == given[row, lane % 4]
    with pytest.raises(Fault, match="nobody waited for"):
        run(f"{text.replace('cp.async.wait_all;', '')} "
            f"ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {{{registers}}}, [%r8]; {stores}")  # fmt: skip


def test_what_is_not_known_is_refused() -> None:
    rows = "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r4, %r5}, [%r3];"
    for text, said in (
        (COPY.replace("16;", "8;"), "of Number"), (rows.replace("x2", "x4"), "of 2 registers"),
        (rows.replace("x2", "x2.trans"), "is not known here"), ("cp.async.wait_group %r0;", "of Register"),
    ):  # fmt: skip
        with pytest.raises(CompileFailed, match=re.escape(said)):
            run(text)
    with pytest.raises(Fault, match="a load of matrices without a lane"):
        run(f"setp.eq.u32 %p1, %r0, 3; @%p1 bra END; {rows} END:")
