"""The interpreter of PTX: how threads part and meet, what lanes exchange, what memory holds, and what is a fault. The
arithmetic is in ``test_ptx_arithmetic.py``, whole kernels in ``test_ptx_kernels.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

from kparity.errors import CompileFailed
from kparity.ptx import machine, text
from kparity.ptx.memory import Fault
from kparity.ptx.translate import translate
from tests.ptx_texts import entry, launch, signed

RNG = np.random.default_rng(7)


def test_an_instruction_that_is_not_known_is_refused_with_its_line() -> None:
    ptx = entry("wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r1, %r2}, [%rd0];", 1)
    row = ptx[: ptx.index("wmma")].count("\n") + 1
    with pytest.raises(CompileFailed, match=f"PTX:{row}: the instruction wmma.load.a.*not known here"):
        translate(*text.read(ptx).values())
    for wrong in ("fma.rn.f64 %fd1, %fd2, %fd3, %fd4;", "add.sat.s32 %r1, %r1, %r1;", "bar.sync 1, 64;"):
        with pytest.raises(CompileFailed):
            translate(*text.read(entry(wrong, 1)).values())
    for wrong in ("call (%r1), f, (%r2);", "add.s32 %r1, %nope, 1;", "add.f32 %f1, %f1, 1;", "bra nowhere;"):
        with pytest.raises(CompileFailed):
            translate(*text.read(entry(wrong, 1)).values())
    with pytest.raises(CompileFailed, match="no end"):
        text.read(".visible .entry k()\n{\nret;")


STORE = "mad.wide.u32 %rd9, %r0, 4, %rd0; st.global.u32 [%rd9], %r5;"


def diverging(body: str, threads: int = 64) -> list[int]:
    return launch(entry(f"{body}\n{STORE}", 1), [np.full(threads, 999, np.uint32)], (threads, 1, 1))[0].tolist()


def test_nested_branches() -> None:
    got = diverging("""
and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; @%p1 bra EVEN;
setp.lt.u32 %p2, %r0, 20; @!%p2 bra HIGH; mov.u32 %r5, 1; bra DONE;
HIGH: mov.u32 %r5, 2; bra DONE;
EVEN: setp.gt.u32 %p3, %r0, 40; mov.u32 %r5, 3; @%p3 bra MORE; bra DONE;
MORE: mov.u32 %r5, 4;
DONE:""")
    assert got == [(4 if t > 40 else 3) if t % 2 == 0 else (1 if t < 20 else 2) for t in range(64)]


def test_loops_with_break_and_continue() -> None:
    got = diverging("""
mov.u32 %r1, 0; mov.u32 %r5, 0;
LOOP: add.u32 %r1, %r1, 1; setp.gt.u32 %p1, %r1, %r0; @%p1 bra END;
and.b32 %r2, %r1, 1; setp.eq.u32 %p2, %r2, 0; @%p2 bra LOOP;
add.u32 %r5, %r5, %r1; setp.gt.u32 %p3, %r5, 100; @%p3 bra END; bra LOOP;
END:""")

    def twin(t: int) -> int:
        total = 0
        for i in range(1, t + 1):
            if i % 2:
                total += i
                if total > 100:
                    break
        return total

    assert got == [twin(t) for t in range(64)]


def test_early_return_and_guards() -> None:
    got = diverging("""
setp.gt.u32 %p1, %r0, 30; @%p1 ret; mov.u32 %r5, %r0; setp.lt.u32 %p2, %r0, 9; @%p2 mov.u32 %r5, 7;""")
    assert got == [7] * 9 + list(range(9, 31)) + [999] * 33


def test_a_value_from_before_a_loop_survives_in_the_threads_that_left_it() -> None:
    got = diverging("""
mov.u32 %r1, %r0; mov.u32 %r5, 0;
LOOP: setp.eq.u32 %p1, %r1, 0; @%p1 bra END; mov.u32 %r5, %r1; sub.u32 %r1, %r1, 1;
setp.eq.u32 %p2, %r1, 5; @%p2 bra END; bra LOOP;
END:""")
    assert got == [0] + [1] * 5 + [6] * 58


def test_predicates_are_joined() -> None:
    got = diverging(
        """
setp.lt.u32 %p1, %r0, 10; setp.gt.and.u32 %p2|%p3, %r0, 3, %p1; not.pred %p4, %p2; xor.pred %p5, %p4, %p1;
selp.u32 %r1, 1, 0, %p2; selp.u32 %r2, 2, 0, %p5; add.u32 %r5, %r1, %r2;""".replace("|%p3", "")
    )
    assert got == [(1 if 3 < t < 10 else 0) + (2 if (not 3 < t < 10) != (t < 10) else 0) for t in range(64)]


def test_blocks_of_three_dimensions_and_many_blocks() -> None:
    body = """
mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ctaid.y; mov.u32 %r6, %ntid.x;
mad.lo.u32 %r5, %r2, 100, %r1; mad.lo.u32 %r5, %r5, 100, %r0; mad.lo.u32 %r5, %r3, 100000, %r5;
mad.lo.u32 %r5, %r4, 10000000, %r5; mov.u32 %r7, %nctaid.x; mad.lo.u32 %r8, %r4, %r7, %r3;
mad.lo.u32 %r9, %r8, 3, %r2; mad.lo.u32 %r9, %r9, 5, %r1; mad.lo.u32 %r9, %r9, %r6, %r0;
mad.wide.u32 %rd9, %r9, 4, %rd0; st.global.u32 [%rd9], %r5;"""
    out = np.zeros((6, 400, 3, 5, 7), np.uint32)
    got = launch(entry(body, 1), [out], (7, 5, 3), (400, 6, 1))[0]
    y, x, tz, ty, tx = np.indices(got.shape)
    assert (got == y * 10000000 + x * 100000 + tz * 10000 + ty * 100 + tx).all()


# Lanes.


def shuffled(kind: str, amount: str, clamp: int, threads: int = 64) -> np.ndarray:
    body = f"""
mul.lo.u32 %r1, %r0, 10; {amount} shfl.sync.{kind}.b32 %r5|%p1, %r1, %r2, {clamp}, -1;
selp.u32 %r6, 1, 0, %p1; mad.wide.u32 %rd9, %r0, 8, %rd0; st.global.v2.u32 [%rd9], {{%r5, %r6}};"""
    return launch(entry(body, 1), [np.zeros((threads, 2), np.uint32)], (threads, 1, 1))[0]


@pytest.mark.parametrize("kind", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("amount", ["mov.u32 %r2, 3;", "and.b32 %r2, %r0, 7;"])
def test_shuffles(kind: str, width: int, amount: str) -> None:
    clamp = (32 - width) << 8 | (0 if kind == "up" else 31)
    got = shuffled(kind, amount, clamp)
    for t, (value, valid) in enumerate(got.tolist()):
        lane, by = t % 32, 3 if "3;" in amount else t & 7
        first, last = lane // width * width, lane // width * width + width - 1
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first + by % width}[kind]
        inside = source >= first if kind == "up" else source <= last
        assert valid == inside and value == 10 * (t - lane + (source if inside else lane)), t


def test_votes_and_reductions() -> None:
    got = diverging("""
setp.gt.u32 %p1, %r0, 40; vote.sync.ballot.b32 %r1, %p1, -1; vote.sync.any.pred %p2, %p1, -1;
vote.sync.all.pred %p3, %p1, -1; selp.u32 %r2, 1, 0, %p2; selp.u32 %r3, 2, 0, %p3;
redux.sync.add.u32 %r4, %r0, -1; add.u32 %r5, %r1, %r2; add.u32 %r5, %r5, %r3; add.u32 %r5, %r5, %r4;""")
    ballot = sum(1 << t - 32 for t in range(41, 64))
    assert got == [sum(range(32))] * 32 + [(ballot + 1 + sum(range(32, 64))) % 2**32] * 32


def test_lanes_that_are_missing() -> None:
    half = "setp.gt.u32 %p1, %r0, 15; @%p1 bra END; shfl.sync.bfly.b32 %r5, %r0, {}, 31, {}; END:"
    assert diverging(half.format(1, 0xFFFF), 32)[:16] == [t ^ 1 for t in range(16)]
    with pytest.raises(Fault, match=r"a shuffle without a lane that its member mask names at .*thread 16 of block"):
        diverging(half.format(1, -1), 32)
    with pytest.raises(Fault, match="a shuffle reads a lane that is not there"):
        diverging(half.format(16, 0xFFFF), 32)
    with pytest.raises(Fault, match="by a lane that its member mask does not name"):
        diverging(half.format(1, 0xFF), 32)
    left = "setp.gt.u32 %p1, %r0, 15; @%p1 ret; shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1;"  # who has ended need not come
    assert diverging(left, 32)[:16] == [t ^ 1 for t in range(16)]


# Memory.

SHARED = ".shared .align 16 .b8 pot[256];"


def shared(body: str, threads: int = 64, sanitize: bool = True) -> list[int]:
    ptx = entry(f"mov.u32 %r9, pot; mad.lo.u32 %r1, %r0, 4, %r9;\n{body}\n{STORE}", 1, SHARED)
    return launch(ptx, [np.zeros(threads, np.uint32)], (threads, 1, 1), sanitize=sanitize)[0].tolist()


NEIGHBOUR = "xor.b32 %r2, %r0, 33; mad.lo.u32 %r3, %r2, 4, %r9; ld.shared.u32 %r5, [%r3];"


def test_shared_memory_and_barriers() -> None:
    store = "st.shared.u32 [%r1], %r0;"
    assert shared(f"{store} bar.sync 0; {NEIGHBOUR}") == [t ^ 33 for t in range(64)]
    with pytest.raises(Fault, match=r"race on pot\[byte 132\]: read after write, no barrier .*: thread 0 .* thread 33"):
        shared(f"{store} {NEIGHBOUR}")
    with pytest.raises(Fault, match=r"race on pot.*write after read"):
        shared(f"{store} bar.sync 0; {NEIGHBOUR} {store}")
    with pytest.raises(Fault, match=r"race on pot\[byte 0\]: write after write"):
        shared("st.shared.u32 [%r9], %r0; mov.u32 %r5, 0;")
    assert shared(f"{store} {NEIGHBOUR}", sanitize=False)  # a device may do as well


def test_a_warp_barrier_orders_a_warp_alone() -> None:
    store, near = "st.shared.u32 [%r1], %r0;", NEIGHBOUR.replace("33", "1")
    assert shared(f"{store} bar.warp.sync -1; {near}") == [t ^ 1 for t in range(64)]
    for wrong in (f"{store} {near}", f"{store} bar.warp.sync -1; {NEIGHBOUR}"):
        with pytest.raises(Fault, match="race on pot"):
            shared(wrong)


def test_atomics_do_not_race_with_each_other() -> None:
    zero = "mov.u32 %r2, 0; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [%r9], %r2; bar.sync 0;"
    add = "atom.shared.add.u32 %r5, [%r9], 2;"
    assert shared(f"{zero} {add}") == [2 * t for t in range(64)]
    with pytest.raises(Fault, match=r"race on pot.*an atomic"):
        shared(f"{zero} {add} ld.shared.u32 %r5, [%r9];")
    for name, twin in (("min.u32", min), ("max.u32", max), ("exch.b32", lambda a, b: b), ("or.b32", int.__or__)):
        body = f"atom.global.{name} %r5, [%rd0], %r0;"
        got = launch(entry(body, 1), [np.array([5], np.uint32)], (8, 1, 1))[0]
        value = 5
        for t in range(8):
            value = twin(value, t)
        assert got.tolist() == [value], name
    body = "atom.global.cas.b32 %r5, [%rd0], %r0, 77;"
    assert launch(entry(body, 1), [np.array([3], np.uint32)], (8, 1, 1))[0].tolist() == [77]
    body = "mov.f32 %f1, 0f3F800000; red.global.add.f32 [%rd0], %f1;"
    assert launch(entry(body, 1), [np.zeros(1, np.float32)], (100, 1, 1))[0].tolist() == [100.0]


MEET = """mad.lo.u32 %r1, %r8, 64, %r0; mad.wide.u32 %rd9, %r1, 4, %rd0; mov.u32 %r5, 7; st.global.u32 [%rd9], %r5;
{mine} bar.sync 0; setp.eq.u32 %p1, %r0, 0; mov.u32 %r2, 0; {one} @%p1 atom{order}.global.add.u32 %r2, [%rd1], 1; {two}
@%p1 st.shared.u32 [%r9], %r2; bar.sync 0; ld.shared.u32 %r2, [%r9]; {theirs}
setp.eq.u32 %p2, %r2, {last}; xor.b32 %r3, %r1, 64; mad.wide.u32 %rd8, %r3, 4, %rd0; @%p2 ld.global.u32 %r5, [%rd8];"""


@pytest.mark.parametrize(
    ("shown", "pieces"),
    [
        (True, {"mine": "membar.gl;", "theirs": "fence.acq_rel.gpu;"}),
        (True, {"one": "membar.gl;", "two": "membar.gl;"}),  # by the thread that counts: barriers hand it on
        (True, {"order": ".acq_rel.gpu"}),
        (False, {"mine": "membar.gl;"}),
        (False, {"theirs": "membar.gl;"}),
        (False, {"mine": "membar.cta;", "theirs": "membar.cta;"}),
        (False, {"order": ".release.gpu"}),
        (False, {"mine": "membar.gl;", "theirs": "membar.gl;", "last": "0"}),  # the first block reads the second's
    ],
)
def test_what_another_block_wrote_is_read_behind_two_fences_and_an_atomic(shown: bool, pieces: dict[str, str]) -> None:
    empty = dict.fromkeys(("mine", "one", "order", "two", "theirs"), "")
    body = "mov.u32 %r8, %ctaid.x; mov.u32 %r9, pot;" + MEET.format(**{**empty, "last": "1", **pieces})
    given = [np.zeros(128, np.uint32), np.zeros(1, np.uint32)]
    if shown:
        launch(entry(body, 2, SHARED), given, (64, 1, 1), (2, 1, 1), sanitize=True)
        return
    with pytest.raises(Fault, match=r"read of a0 that another block wrote, and no fence and count say when"):
        launch(entry(body, 2, SHARED), given, (64, 1, 1), (2, 1, 1), sanitize=True)


def test_barriers_that_some_threads_do_not_reach() -> None:
    with pytest.raises(Fault, match=r"barrier divergence: thread \d+ of block \(0, 0, 0\) waits at"):
        shared("setp.gt.u32 %p1, %r0, 9; @%p1 bra OTHER; bar.sync 0; bra END; OTHER: bar.sync 0; END: mov.u32 %r5, 0;")
    ended = "setp.gt.u32 %p1, %r0, 9; @%p1 ret; bar.sync 0; mov.u32 %r5, 1;"  # those that have ended are not waited for
    assert shared(ended) == [1] * 10 + [0] * 54


def test_bounds_and_alignment_name_the_argument() -> None:
    with pytest.raises(Fault, match=r"write of 4 bytes at byte 40 of a0, which has 40 at line 0, thread 10 of block"):
        launch(entry("mov.u32 %r5, 1;" + STORE, 1), [np.zeros(10, np.uint32)], (16, 1, 1))
    with pytest.raises(Fault, match=r"read of 4 bytes at byte -4 of a0"):
        launch(entry("ld.global.u32 %r5, [%rd0+-4];", 1), [np.zeros(10, np.uint32)], (1, 1, 1))
    with pytest.raises(Fault, match="misaligned read of 4 bytes in a0"):
        launch(entry("ld.global.u32 %r5, [%rd0+2];", 1), [np.zeros(10, np.uint32)], (1, 1, 1))
    with pytest.raises(Fault, match="in no argument"):
        launch(entry("mov.u64 %rd5, 64; ld.global.u32 %r5, [%rd5];", 1), [np.zeros(10, np.uint32)], (1, 1, 1))
    with pytest.raises(Fault, match=r"write of 4 bytes at byte 256 of pot"):
        shared("mad.lo.u32 %r3, %r0, 8, %r9; st.shared.u32 [%r3], %r0; mov.u32 %r5, 0;")
    guarded = "setp.lt.u32 %p1, %r0, 10; mov.u32 %r5, 3; " + STORE.replace("st.", "@%p1 st.")
    assert launch(entry(guarded, 1), [np.zeros(10, np.uint32)], (16, 1, 1))[0].tolist() == [3] * 10


def test_memory_that_nobody_wrote() -> None:
    copy = "mad.wide.u32 %rd8, %r0, 4, %rd1; ld.global.u32 %r5, [%rd8];" + STORE
    arrays = [np.zeros(8, np.uint32), np.arange(8, dtype=np.uint32)]
    assert launch(entry(copy, 2), arrays, (8, 1, 1), sanitize=True)[0].tolist() == list(range(8))
    with pytest.raises(Fault, match="read of a1 that nobody wrote"):
        launch(entry(copy, 2), arrays, (8, 1, 1), sanitize=True, hidden=[1])
    wrote = STORE.replace("%r5", "%r0") + " ld.global.u32 %r5, [%rd9];"
    launch(entry(wrote, 1), [np.zeros(8, np.uint32)], (8, 1, 1), sanitize=True, hidden=[0])
    with pytest.raises(Fault, match="depend on shared memory that nobody wrote, read at line 0"):
        shared("ld.shared.u32 %r5, [%r1];")
    assert shared("ld.shared.u32 %r5, [%r1]; and.b32 %r5, %r5, 0;") == [0] * 64  # read, and dropped


def test_local_memory_vectors_and_windows() -> None:
    ptx = entry(
        """
mul.lo.u32 %r2, %r0, 3; st.local.u32 [depot+4], %r2; st.local.v2.u32 [depot+8], {%r0, %r2};
mov.u64 %rd5, depot; cvta.local.u64 %rd6, %rd5; ld.u32 %r3, [%rd6+4]; ld.local.u32 %r4, [depot+12];
add.u32 %r5, %r3, %r4; mov.b64 %rd7, {%r5, %r0}; mov.b64 {%r6, %r7}, %rd7; add.u32 %r5, %r6, %r7;"""
        + STORE, 1, ".local .align 16 .b8 depot[16];",
    )  # fmt: skip
    assert launch(ptx, [np.zeros(40, np.uint32)], (40, 1, 1))[0].tolist() == [7 * t for t in range(40)]
    wide = "mad.wide.u32 %rd8, %r0, 16, %rd1; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd8]; " \
           "mad.wide.u32 %rd9, %r0, 16, %rd0; st.global.v4.f32 [%rd9], {%f4, %f3, %f2, %f1};"  # fmt: skip
    source = RNG.standard_normal((8, 4)).astype(np.float32)
    got = launch(entry(wide, 2), [np.zeros((8, 4), np.float32), source], (8, 1, 1))[0]
    assert (got == source[:, ::-1]).all()


def test_narrow_loads_are_extended() -> None:
    body = (
        """
mad.wide.u32 %rd8, %r0, 1, %rd1; ld.global.s8 %r1, [%rd8]; ld.global.u8 %rs2, [%rd8]; cvt.u32.u16 %r2, %rs2;
shl.b32 %r2, %r2, 16; and.b32 %r1, %r1, 0xffff; or.b32 %r5, %r1, %r2;"""
        + STORE
    )
    source = np.array([0, 1, 127, 128, 255], np.uint8)
    got = launch(entry(body, 2), [np.zeros(5, np.uint32), source], (5, 1, 1))[0]
    assert got.tolist() == [int(v) << 16 | signed(int(v), 8) % 2**16 for v in source]


def test_a_kernel_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "STEPS", 100)
    with pytest.raises(Fault, match="k does not end: 100 basic blocks"):
        diverging("LOOP: bra LOOP;")


def test_a_register_that_nobody_wrote() -> None:
    with pytest.raises(Fault, match="a register is read before it is written"):
        diverging("add.u32 %r5, %r7, 1;")
