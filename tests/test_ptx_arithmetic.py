"""The interpreter of PTX, instruction by instruction, against twins that are computed another way: whole numbers and
fractions of Python. How threads part and meet and what memory holds is in ``test_ptx.py``.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from kparity.errors import CompileFailed
from kparity.ptx.arithmetic import ABSOLUTE, RELATIVE
from tests.ptx_texts import applied, entry, exact, integers, launch, rounded, signed

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
    inverse = applied("div.rn.f32", "f32", [("f32", np.ones_like(b)), ("f32", b)])
    assert (applied("rcp.rn.f32", "f32", [("f32", b)]) == inverse).all()
    roots = applied("sqrt.rn.f32", "f32", [("f32", a)]).view(np.float32)
    for x, root in zip(a, roots, strict=True):
        if not x > 0 or math.isinf(x):
            assert np.isnan(root) if x != x or x < 0 else root == np.float32(np.sqrt(x))
            continue
        below, above = (exact(np.nextafter(root, np.float32(to))) + exact(root) for to in (-np.inf, np.inf))
        assert (below / 2) ** 2 <= exact(x) <= (above / 2) ** 2


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
