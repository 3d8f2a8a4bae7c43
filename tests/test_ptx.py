"""The interpreter of PTX, instruction by instruction, against twins that are computed another way: whole numbers and
fractions of Python. What whole kernels compute is in ``test_ptx_kernels.py``.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from kparity.errors import CompileFailed
from kparity.ptx import text
from kparity.ptx.arithmetic import ABSOLUTE, RELATIVE
from kparity.ptx.memory import Fault
from kparity.ptx.translate import translate
from tests.ptx_texts import applied, entry, exact, launch, rounded

RNG = np.random.default_rng(7)
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 1.5, 2.0**-149, -(2.0**-149), 2.0**-126, 2.0**-126 - 2.0**-149, 3.0e38, -3.0e38,
     3.4028235e38, 1 + 2.0**-23, 1 - 2.0**-24, math.pi, 2.0**-64, 2.0**64, np.inf, -np.inf, np.nan],
    np.float32,
)  # fmt: skip


def floats(count: int) -> np.ndarray:
    """Every kind of bit pattern; the special values among them."""
    found = RNG.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32).view(np.float32)
    found[: len(SPECIAL)] = SPECIAL
    return RNG.permutation(found)


def integers(count: int, bits: int) -> np.ndarray:
    found = RNG.integers(0, 2**64, count, dtype=np.uint64)
    found[:8] = [0, 1, 2, 3, 2**64 - 1, 2**64 - 2, 1 << (bits - 1), (1 << (bits - 1)) - 1]
    small = RNG.random(count) < 0.3
    found[small] &= np.uint64(63)
    return RNG.permutation(found).astype(f"u{bits // 8}")


def signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGERS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": lambda a, b: quotient(a, b) if b else -1,
    "rem": lambda a, b: a - b * quotient(a, b) if b else -1,
}


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_wrap_around(name: str, kind: str) -> None:
    bits = int(kind[1:])
    a, b = integers(300, bits), integers(300, bits)
    got = applied(f"{name}.{kind}", kind, [(kind, a), (kind, b)])
    read = (lambda v: signed(int(v), bits)) if kind[0] == "s" else int
    want = [INTEGERS[name](read(x), read(y)) % (1 << bits) for x, y in zip(a, b, strict=True)]
    assert got.tolist() == want


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_products_of_double_width(kind: str) -> None:
    bits = int(kind[1:])
    a, b, c = integers(300, bits), integers(300, bits), integers(300, bits)
    read = (lambda v: signed(int(v), bits)) if kind[0] == "s" else int
    products = [read(x) * read(y) for x, y in zip(a, b, strict=True)]
    high = applied(f"mul.hi.{kind}", kind, [(kind, a), (kind, b)])
    assert high.tolist() == [(p >> bits) % (1 << bits) for p in products]
    mad = applied(f"mad.lo.{kind}", kind, [(kind, a), (kind, b), (kind, c)])
    assert mad.tolist() == [(p + int(z)) % (1 << bits) for p, z in zip(products, c, strict=True)]
    if bits == 32:
        wide = f"{kind[0]}64"
        assert applied(f"mul.wide.{kind}", wide, [(kind, a), (kind, b)]).tolist() == [p % 2**64 for p in products]


@pytest.mark.parametrize("kind", ["b16", "b32", "b64", "s16", "u32", "s32", "s64"])
def test_shifts_beyond_the_width_give_zeros_or_the_sign(kind: str) -> None:
    bits = int(kind[1:])
    a, by = integers(300, bits), integers(300, 32)
    shift = [min(int(y), bits) for y in by]
    if kind[0] == "b":
        left = applied(f"shl.{kind}", kind, [(kind, a), ("u32", by)])
        assert left.tolist() == [(int(x) << s) % (1 << bits) for x, s in zip(a, shift, strict=True)]
    right = applied(f"shr.{kind}", kind, [(kind, a), ("u32", by)])
    read = (lambda v: signed(int(v), bits)) if kind[0] == "s" else int
    assert right.tolist() == [(read(x) >> s) % (1 << bits) for x, s in zip(a, shift, strict=True)]


def test_bits_are_counted_moved_and_joined() -> None:
    a, b, c, by = (integers(400, 32) for _ in range(4))
    each = [tuple(map(int, row)) for row in zip(a, b, c, by, strict=True)]
    one, two = [("b32", a)], [("b32", a), ("b32", b)]
    assert applied("popc.b32", "u32", one).tolist() == [bin(x).count("1") for x, *_ in each]
    assert applied("clz.b32", "u32", one).tolist() == [32 - x.bit_length() for x, *_ in each]
    assert applied("brev.b32", "b32", one).tolist() == [int(f"{x:032b}"[::-1], 2) for x, *_ in each]
    assert applied("not.b32", "b32", one).tolist() == [x ^ 0xFFFFFFFF for x, *_ in each]
    assert applied("xor.b32", "b32", two).tolist() == [x ^ y for x, y, *_ in each]
    got = applied("shf.l.wrap.b32", "b32", [*two, ("u32", by)])
    assert got.tolist() == [((y << 32 | x) << (s & 31) >> 32) & 0xFFFFFFFF for x, y, _, s in each]
    got = applied("shf.r.clamp.b32", "b32", [*two, ("u32", by)])
    assert got.tolist() == [((y << 32 | x) >> min(s, 32)) & 0xFFFFFFFF for x, y, _, s in each]
    got = applied("prmt.b32", "b32", [*two, ("b32", c)])
    assert got.tolist() == [permuted(x, y, z) for x, y, z, _ in each]


def permuted(a: int, b: int, selector: int) -> int:
    source = (b << 32 | a).to_bytes(8, "little")
    chosen = [selector >> 4 * at & 15 for at in range(4)]
    return int.from_bytes(
        bytes((0xFF if source[n & 7] >> 7 else 0) if n & 8 else source[n & 7] for n in chosen), "little"
    )


@pytest.mark.parametrize("bits", [32, 64])
def test_bit_fields(bits: int) -> None:
    a, b = integers(400, bits), integers(400, bits)
    at, count = (RNG.integers(0, 80, 400).astype(np.uint32) for _ in range(2))
    rows = [tuple(map(int, row)) for row in zip(a, b, at, count, strict=True)]
    got = applied(f"bfi.b{bits}", f"b{bits}", [(f"b{bits}", a), (f"b{bits}", b), ("u32", at), ("u32", count)])
    for (x, y, p, n), value in zip(rows, got.tolist(), strict=True):
        mask = ((1 << n) - 1) << p & ((1 << bits) - 1)
        assert value == (x << p & mask) | (y & ~mask)
    for kind in (f"u{bits}", f"s{bits}"):
        got = applied(f"bfe.{kind}", kind, [(kind, a), ("u32", at), ("u32", count)])
        for (x, _, p, n), value in zip(rows, got.tolist(), strict=True):
            assert value == extracted(x, p, n, bits, kind[0] == "s"), (hex(x), p, n)


def extracted(x: int, at: int, count: int, bits: int, keeps_sign: bool) -> int:
    """By the loop of PTX's own definition."""
    top = bits - 1
    sign = 0 if not keeps_sign or count == 0 else x >> min(at + count - 1, top) & 1
    found = 0
    for i in range(bits):
        found |= (x >> (at + i) & 1 if i < count and at + i <= top else sign) << i
    return found


def test_dp4a_has_four_signs() -> None:
    a, b, c = (integers(300, 32) for _ in range(3))
    for left in "us":
        for right in "us":
            got = applied(f"dp4a.{left}32.{right}32", "b32", [("b32", a), ("b32", b), ("b32", c)])
            for x, y, z, value in zip(a, b, c, got, strict=True):
                parts = [(int(x) >> s & 255, int(y) >> s & 255) for s in (0, 8, 16, 24)]
                read = {"u": int, "s": lambda v: signed(v, 8)}
                assert int(value) == (int(z) + sum(read[left](p) * read[right](q) for p, q in parts)) % 2**32


# Floating point.


def same(got: np.ndarray, want: list[float]) -> None:
    """Bit for bit; every NaN is the canonical one."""
    bits = np.array(want, np.float32).view(np.uint32)
    bits[np.isnan(np.array(want))] = 0x7FFFFFFF
    wrong = np.nonzero(got != bits)[0]
    assert not wrong.size, f"{wrong.size} wrong, first {wrong[0]}: {got[wrong[0]]:#x}, want {bits[wrong[0]]:#x}"


def finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def fused(a: float, b: float, c: float, mode: str) -> float:
    """The twin of fma."""
    a, b, c = float(a), float(b), float(c)
    if not finite(a, b, c):
        with np.errstate(all="ignore"):
            return float(np.float64(a) * np.float64(b) + np.float64(c))
    total = exact(a) * exact(b) + exact(c)
    if total:
        return rounded(total, mode)
    signs = math.copysign(1, a) * math.copysign(1, b), math.copysign(1, c)
    if signs[0] == signs[1] and (a == 0 or b == 0) and c == 0:
        return math.copysign(0.0, c)
    return -0.0 if mode == "rm" else 0.0


def triples(count: int) -> list[np.ndarray]:
    """Random and special, and such that the exact sum lies close to the middle between two f32."""
    a, b, c = floats(count), floats(count), floats(count)
    near = slice(0, count // 2)
    sizes = RNG.integers(-60, 60, count // 2)
    a[near] = (1 + RNG.integers(0, 2**23, count // 2) * 2.0**-23) * 2.0**sizes
    b[near] = 1 + RNG.integers(0, 8, count // 2) * 2.0**-23
    c[near] = a[near] * np.float32(2.0) ** RNG.integers(-50, 50, count // 2).astype(np.float32)
    tiny = slice(count // 2, 5 * count // 8)  # results among the subnormals
    a[tiny] = RNG.standard_normal(count // 8) * 2.0**-75
    b[tiny] = RNG.standard_normal(count // 8) * 2.0**-70
    c[tiny] = RNG.standard_normal(count // 8) * 2.0**-140
    return [a, b, c]


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_fma_rounds_once(mode: str) -> None:
    a, b, c = triples(1000)
    got = applied(f"fma.{mode}.f32", "f32", [("f32", a), ("f32", b), ("f32", c)])
    same(got, [fused(*row, mode) for row in zip(a, b, c, strict=True)])


def test_fma_of_a_double_rounding() -> None:
    """1 + 2^-24 + 2^-54 lies above a tie that f64 rounds to: two roundings give 1, one gives the neighbour above."""
    a = np.array([1 + 2.0**-23, 2.0**-24, 2.0**-27], np.float32)
    b = np.array([1.0, 1 + 2.0**-23, 2.0**-27], np.float32)
    c = np.array([2.0**-54 + 0.0, 1.0, 1 + 2.0**-23], np.float32)
    got = applied("fma.rn.f32", "f32", [("f32", a), ("f32", b), ("f32", c)])
    same(got, [fused(*row, "rn") for row in zip(a, b, c, strict=True)])
    tie = applied("fma.rn.f32", "f32", [("f32", np.array([x], np.float32)) for x in (2.0**-24 + 2.0**-47, 1.0, 1.0)])
    product = np.float64(np.float32(2.0**-24 + 2.0**-47))
    assert tie[0] == np.array([rounded(exact(product) + 1, "rn")], np.float32).view(np.uint32)[0]


@pytest.mark.parametrize("mode", ["", ".rn", ".rz", ".rm", ".rp"])
@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_sums_and_products_in_every_direction(name: str, mode: str) -> None:
    a, b, _ = triples(1000)
    got = applied(f"{name}{mode}.f32", "f32", [("f32", a), ("f32", b)])
    one = np.float32(1)
    mode = mode[1:] or "rn"
    want = {"add": lambda x, y: fused(x, one, y, mode), "sub": lambda x, y: fused(x, one, -y, mode),
            "mul": lambda x, y: product(x, y, mode)}[name]  # fmt: skip
    same(got, [want(x, y) for x, y in zip(a, b, strict=True)])


def product(x: float, y: float, mode: str) -> float:
    x, y = float(x), float(y)
    if not finite(x, y) or x == 0 or y == 0:
        with np.errstate(all="ignore"):
            return float(np.float64(x) * np.float64(y))
    return rounded(exact(x) * exact(y), mode)


def test_quotients_and_roots_round_once() -> None:
    a, b, _ = triples(1000)
    got = applied("div.rn.f32", "f32", [("f32", a), ("f32", b)])
    with np.errstate(all="ignore"):
        known = np.float64(a) / np.float64(b)  # where it is not a number to round
    rows = zip(a, b, known, strict=True)
    same(got, [rounded(exact(x) / exact(y), "rn") if finite(x, y) and x and y else float(k) for x, y, k in rows])
    ones = np.ones_like(b)
    assert (applied("rcp.rn.f32", "f32", [("f32", b)]) == applied("div.rn.f32", "f32", [("f32", ones), ("f32", b)])).all()
    roots = applied("sqrt.rn.f32", "f32", [("f32", a)]).view(np.float32)
    for x, root in zip(a, roots, strict=True):
        if not x > 0 or math.isinf(x):
            assert np.isnan(root) if x != x or x < 0 else root == np.float32(np.sqrt(x))
            continue
        below, above = (exact(float(np.nextafter(root, np.float32(to)))) + exact(float(root)) for to in (-np.inf, np.inf))
        assert (below / 2) ** 2 <= exact(float(x)) <= (above / 2) ** 2


def test_subnormals_stay_unless_ftz_says_otherwise() -> None:
    a = np.array([2.0**-130, -(2.0**-149), 2.0**-126, 2.0**-100], np.float32)
    b = np.array([1.0, 1.0, 0.5, 2.0**-40], np.float32)
    kept = applied("mul.f32", "f32", [("f32", a), ("f32", b)]).view(np.float32)
    assert kept.tolist() == [2.0**-130, -(2.0**-149), 2.0**-127, 2.0**-140]
    gone = applied("mul.ftz.f32", "f32", [("f32", a), ("f32", b)]).view(np.float32)
    assert gone.tolist() == [0.0, 0.0, 0.0, 0.0] and np.signbit(gone).tolist() == [False, True, False, False]


def test_extremes_and_comparisons_with_nan() -> None:
    a = np.array([0.0, -0.0, np.nan, 1.0, np.nan, 2.0], np.float32)
    b = np.array([-0.0, 0.0, 3.0, np.nan, np.nan, 1.0], np.float32)
    given = [("f32", a), ("f32", b)]
    same(applied("max.f32", "f32", given), [0.0, 0.0, 3.0, 1.0, np.nan, 2.0])
    same(applied("min.f32", "f32", given), [-0.0, -0.0, 3.0, 1.0, np.nan, 1.0])
    same(applied("max.NaN.f32", "f32", given), [0.0, 0.0, np.nan, np.nan, np.nan, 2.0])
    want = {"eq": "110000", "ne": "000001", "lt": "000000", "ge": "110001", "equ": "111110", "neu": "001111",
            "ltu": "001110", "geu": "111111", "num": "110001", "nan": "001110"}  # fmt: skip
    body = "\n".join(
        f"setp.{name}.f32 %p1, %f1, %f2;\nselp.u32 %r2, 1, 0, %p1;\nst.global.u32 [%rd6+{4 * at}], %r2;"
        for at, name in enumerate(want)
    )
    loads = """mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd0, %rd3; ld.global.f32 %f1, [%rd4];
add.s64 %rd5, %rd1, %rd3; ld.global.f32 %f2, [%rd5]; mad.wide.u32 %rd6, %r0, 40, %rd2;"""
    out = launch(entry(loads + body, 3), [a, b, np.zeros((6, 10), np.uint32)], (6, 1, 1))[2]
    assert ["".join(map(str, row)) for row in out.T] == list(want.values())


def test_saturation_and_signs() -> None:
    a = np.array([-1.0, 0.5, 2.0, np.nan, np.inf, -0.0], np.float32)
    same(applied("cvt.sat.f32.f32", "f32", [("f32", a)]), [0.0, 0.5, 1.0, 0.0, 1.0, 0.0])
    assert applied("neg.f32", "f32", [("f32", a[:3])]).view(np.float32).tolist() == [1.0, -0.5, -2.0]
    assert applied("abs.f32", "f32", [("f32", a[:3])]).view(np.float32).tolist() == [1.0, 0.5, 2.0]
    sign = np.array([1.0, -1.0, -0.0], np.float32)  # the sign of the first source, the size of the second
    got = applied("copysign.f32", "f32", [("f32", sign), ("f32", a[:3])]).view(np.float32)
    assert got.tolist() == [1.0, -0.5, -2.0]


ROUNDINGS = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("kind", ["s8", "u8", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("mode", ROUNDINGS)
def test_floats_become_integers(mode: str, kind: str) -> None:
    bits = int(kind[1:])
    a = np.concatenate([floats(200), (RNG.standard_normal(200) * 300).astype(np.float32), np.arange(-5, 5, 0.5, "f4")])
    got = applied(f"cvt.{mode}.{kind}.f32", kind.replace("8", "16") if bits == 8 else kind, [("f32", a)])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    for x, value in zip(a.tolist(), got.tolist(), strict=True):
        if math.isnan(x):
            want = 1 << 63 if bits == 64 else 0
        else:
            want = high if x == math.inf else low if x == -math.inf else min(max(ROUNDINGS[mode](x), low), high)
        assert value == want % (1 << max(bits, 16)), x


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_integers_become_floats(mode: str, kind: str) -> None:
    bits = int(kind[1:])
    if bits == 64 and mode != "rn":
        with pytest.raises(CompileFailed, match="not known"):
            applied(f"cvt.{mode}.f32.{kind}", "f32", [(kind, integers(8, bits))])
        return
    a = integers(400, bits)
    read = (lambda v: signed(int(v), bits)) if kind[0] == "s" else int
    same(applied(f"cvt.{mode}.f32.{kind}", "f32", [(kind, a)]), [rounded(Fraction(read(x)), mode) for x in a])


def test_integers_change_their_width() -> None:
    a = integers(200, 32)
    assert applied("cvt.s64.s32", "s64", [("s32", a)]).tolist() == [signed(int(x), 32) % 2**64 for x in a]
    assert applied("cvt.u64.u32", "u64", [("u32", a)]).tolist() == a.tolist()
    assert applied("cvt.u16.u32", "u16", [("u32", a)]).tolist() == [int(x) % 2**16 for x in a]
    assert applied("cvt.s32.s8", "s32", [("s32", a)]).tolist() == [signed(int(x), 8) % 2**32 for x in a]
    got = applied("cvt.sat.s16.s32", "s16", [("s32", a)])
    assert got.tolist() == [min(max(signed(int(x), 32), -(2**15)), 2**15 - 1) % 2**16 for x in a]


def test_halves() -> None:
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    for part in np.split(every, 64):
        got = applied("cvt.f32.f16", "f32", [("f16", part)]).view(np.float32)
        for bits, value in zip(part.tolist(), got.tolist(), strict=True):
            sign, power, rest = (-1) ** (bits >> 15), bits >> 10 & 31, bits & 1023
            if power == 31:
                assert math.isnan(value) if rest else value == sign * math.inf
            else:
                assert value == sign * (rest * 2.0**-24 if power == 0 else (1024 + rest) * 2.0 ** (power - 25))
    a = np.concatenate([floats(500), (RNG.standard_normal(500) * 2.0 ** RNG.integers(-26, 17, 500)).astype(np.float32)])
    got = applied("cvt.rn.f16.f32", "f16", [("f32", a)])
    for x, bits in zip(a.tolist(), got.tolist(), strict=True):
        if math.isnan(x):
            assert bits == 0x7FFF
        else:
            want = x if math.isinf(x) or x == 0 else rounded(exact(x), "rn", 11, -24, 2.0**16)
            assert np.array(bits, np.uint16).view(np.float16) == want and bits >> 15 == int(math.copysign(1, x) < 0)
    got = applied("cvt.rn.bf16.f32", "bf16", [("f32", a)])
    for x, bits in zip(a.tolist(), got.tolist(), strict=True):
        if not math.isnan(x) and not math.isinf(x) and x:
            value = np.array([bits << 16], np.uint32).view(np.float32)[0]
            assert value == np.float32(rounded(exact(x), "rn", 8, -133))


def test_doubles() -> None:
    a, b = RNG.standard_normal(200), RNG.standard_normal(200) * 2.0 ** RNG.integers(-40, 40, 200)
    rows = list(zip(a.tolist(), b.tolist(), strict=True))
    given = [("f64", a), ("f64", b)]
    assert applied("add.f64", "f64", given).view("f8").tolist() == [x + y for x, y in rows]
    assert applied("div.rn.f64", "f64", given).view("f8").tolist() == [x / y for x, y in rows]
    for mode in ("rn", "rz", "rm", "rp"):
        same(applied(f"cvt.{mode}.f32.f64", "f32", [("f64", b)]), [rounded(exact(y), mode) for _, y in rows])


TRUE = {
    "ex2": lambda x: 2.0**x, "lg2": math.log2, "rcp": lambda x: 1 / x, "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x), "sin": math.sin, "cos": math.cos, "tanh": math.tanh,
}  # fmt: skip


@pytest.mark.parametrize("perturb", [False, True])
@pytest.mark.parametrize("name", TRUE)
def test_approximations_err_by_what_ptx_allows(name: str, perturb: bool) -> None:
    x = np.exp(RNG.uniform(-3, 3, 1000)).astype(np.float32)
    x = np.where(x > 6, x / 4, x).astype(np.float32)
    got = applied(f"{name}.approx.f32", "f32", [("f32", x)], perturb=perturb).view(np.float32).astype(np.float64)
    true = np.array([TRUE[name](float(value)) for value in x])
    if name in ABSOLUTE:
        limit = np.full(1000, ABSOLUTE[name])
    elif name == "lg2":
        limit = RELATIVE[name] * np.where((x > 0.5) & (x < 2), 1.0, np.abs(true))
    elif name in ("ex2", "rcp"):
        limit = {"ex2": 2, "rcp": 1}[name] * np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)
    else:
        limit = RELATIVE[name] * np.abs(true)
    share = np.abs(got - true) / limit
    assert share.max() <= 1
    assert not perturb or share.max() > 0.5  # it goes there


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


# Divergence.

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
    got = diverging("setp.gt.u32 %p1, %r0, 30; @%p1 ret; mov.u32 %r5, %r0; setp.lt.u32 %p2, %r0, 9; @%p2 mov.u32 %r5, 7;")
    assert got == [7] * 9 + list(range(9, 31)) + [999] * 33


def test_a_value_from_before_a_loop_survives_in_the_threads_that_left_it() -> None:
    got = diverging("""
mov.u32 %r1, %r0; mov.u32 %r5, 0;
LOOP: setp.eq.u32 %p1, %r1, 0; @%p1 bra END; mov.u32 %r5, %r1; sub.u32 %r1, %r1, 1;
setp.eq.u32 %p2, %r1, 5; @%p2 bra END; bra LOOP;
END:""")
    assert got == [0] + [1] * 5 + [6] * 58


def test_predicates_are_joined() -> None:
    got = diverging("""
setp.lt.u32 %p1, %r0, 10; setp.gt.and.u32 %p2|%p3, %r0, 3, %p1; not.pred %p4, %p2; xor.pred %p5, %p4, %p1;
selp.u32 %r1, 1, 0, %p2; selp.u32 %r2, 2, 0, %p5; add.u32 %r5, %r1, %r2;""".replace("|%p3", ""))
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
    with pytest.raises(Fault, match=r"race on pot\[byte 132\]: read after write, no barrier between: thread 0 .* thread 33"):
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
    with pytest.raises(Fault, match="race on pot.*an atomic"):
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
    guarded = "setp.lt.u32 %p1, %r0, 10; mov.u32 %r5, 3; mad.wide.u32 %rd9, %r0, 4, %rd0; @%p1 st.global.u32 [%rd9], %r5;"
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
    body = """
mad.wide.u32 %rd8, %r0, 1, %rd1; ld.global.s8 %r1, [%rd8]; ld.global.u8 %rs2, [%rd8]; cvt.u32.u16 %r2, %rs2;
shl.b32 %r2, %r2, 16; and.b32 %r1, %r1, 0xffff; or.b32 %r5, %r1, %r2;""" + STORE
    source = np.array([0, 1, 127, 128, 255], np.uint8)
    got = launch(entry(body, 2), [np.zeros(5, np.uint32), source], (5, 1, 1))[0]
    assert got.tolist() == [int(v) << 16 | signed(int(v), 8) % 2**16 for v in source]


def test_a_kernel_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from kparity.ptx import machine

    monkeypatch.setattr(machine, "STEPS", 100)
    with pytest.raises(Fault, match="k does not end: 100 basic blocks"):
        diverging("LOOP: bra LOOP;")


def test_a_register_that_nobody_wrote() -> None:
    with pytest.raises(Fault, match="a register is read before it is written"):
        diverging("add.u32 %r5, %r7, 1;")
