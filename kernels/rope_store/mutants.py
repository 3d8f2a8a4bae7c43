"""Wrong rope_store kernels: what is turned and what is stored, where, and how it is rounded."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

GPU_ANGLE = "(float)at * freq[pair]"
GPU_PLACE = "(u64)at * G"
GPU_SOURCE = "qkv + ((u64)row * HEADS + head) * D;"
WGSL_PLACE = "u32(position) * G"
WGSL_TURNED = "if head < H + G {\n        pair = turned_pair((row * HEADS + head) * D,"
WGSL_OUTSIDE = "if position < 0 || position >= i32(L) {"
NATIVE_ROW = "pos[row] * groups"
NATIVE_KEYS = "rotation.turn(x, sine, turned);"
NATIVE_STORED = "const bool stored = pos[row] >= 0 && pos[row] < capacity;"
TORCH_STORED = 'stored = ((pos >= 0) & (pos < case["L"])).nonzero()[:, 0]\n'
TORCH_PLACE = "at = pos[stored].long()\n"
TORCH_PAIRS = "((kcache, turned(keys)), (vcache, values))"
NUMPY_KEYS = "turned[row, h:].reshape(-1).astype(kcache.dtype)"
NUMPY_VALUES = "heads[row, h + g :].reshape(-1).astype(vcache.dtype)"
NUMPY_STORED = "stored = (pos >= 0) & (pos < cap)\n"
NUMPY_MASK = '.view(np.int32) & (-8192 if case["dtype"] == "f16" else -1)'
NUMPY_TRUNCATED = f".astype(np.float32){NUMPY_MASK}).view(np.float32).astype"
HALF_ROUNDED = "let rounded = (wide + half - 1u + ((wide >> drop) & 1u)) >> drop;"


def _numpy_place(index: str) -> tuple[Patch, ...]:
    return (Patch("kcache[pos[row]] =", f"kcache[{index}] ="), Patch("vcache[pos[row]] =", f"vcache[{index}] ="))


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "convention-swapped",
        "NEOX where interleaved is meant, and the reverse.",
        {
            "gpu": (Patch("#if NEOX", "#if !NEOX"),),
            "wgsl": (Patch("if NEOX == 1u", "if NEOX == 0u", times=2),),
            "native": (Patch('d.integer("NEOX") != 0', 'd.integer("NEOX") == 0'),),
            "torch": (Patch('case["mode"] == "neox"', 'case["mode"] != "neox"'),),
            "numpy": (Patch('if case["mode"] == "neox" else', 'if case["mode"] != "neox" else'),),
        },
    ),
    Mutant(
        "position-of-the-first-row",
        "Every row turns by the position of the first, and is stored at its own.",
        {
            "gpu": (Patch(GPU_ANGLE, "(float)pos[0] * freq[pair]"),),
            "wgsl": (Patch("e, f32(position))", "e, f32(pos[0]))"),),
            "native": (Patch("rotation.angles(pos[row],", "rotation.angles(pos[0],"),),
            "torch": (Patch("torch.outer(pos.to", "torch.outer(pos[:1].expand_as(pos).to"),),
            "numpy": (
                Patch(
                    "heads[:, : h + g], pos, freq)\n        kcache", "heads[:, : h + g], pos[:1], freq)\n        kcache"
                ),
            ),
        },
    ),
    Mutant(
        "linear-scale-ignored",
        "The factor of linear context scaling is lost: the first frequency is 1 whatever it should be.",
        {
            "gpu": (Patch(GPU_ANGLE, "(float)at * (freq[pair] / freq[0])"),),
            "wgsl": (
                Patch("freq[e % (R / 2u)]", "freq[e % (R / 2u)] / freq[0]"),
                Patch("freq[(e + 1u) % (R / 2u)]", "freq[(e + 1u) % (R / 2u)] / freq[0]"),
                Patch("freq[e / 2u]", "freq[e / 2u] / freq[0]"),
            ),
            "native": (Patch("position * freq[i];", "position * (freq[i] / freq[0]);", file="rope/rope.h"),),
            "torch": (Patch("(torch.float32), freq)", '(torch.float32), freq * case["scale"])'),),
            "numpy": (Patch("pos, freq)\n        kcache", 'pos, freq * case["scale"])\n        kcache'),),
        },
    ),
    Mutant(
        "values-not-stored",
        "The new values never reach the cache.",
        {
            "gpu": (
                Patch("STORE(vcache, target + low, source[low]);", "(void)target;"),
                Patch("STORE(vcache, target + high, source[high]);", ""),
            ),
            "wgsl": (
                Patch(
                    "vcache[target_pair] = narrow_pair(pair.x, pair.y);", "vcache[target_pair] = vcache[target_pair];"
                ),
                Patch("vcache[2u * target_pair] = pair.x;", "vcache[2u * target_pair] = vcache[2u * target_pair];"),
                Patch("vcache[2u * target_pair + 1u] = pair.y;", ""),
            ),
            "native": (Patch("} else if (stored) {", "} else if (stored && head < 0) {"),),
            "torch": (Patch(TORCH_PAIRS, "((kcache, turned(keys)),)"),),
            "numpy": (Patch(f"vcache[pos[row]] = {NUMPY_VALUES}", "pass"),),
        },
    ),
    Mutant(
        "keys-stored-before-they-turn",
        "Keys enter the cache as they came: scores no longer depend on the distance.",
        {
            "gpu": (
                Patch("STORE(kcache, target + low, first);", "STORE(kcache, target + low, source[low]);"),
                Patch("STORE(kcache, target + high, second);", "STORE(kcache, target + high, source[high]);"),
            ),
            "wgsl": (Patch(WGSL_TURNED, WGSL_TURNED.replace("H + G", "H", 1)),),
            "native": (Patch(NATIVE_KEYS, "std::memcpy(turned, x, sizeof(float) * static_cast<std::size_t>(width));"),),
            "torch": (Patch("(kcache, turned(keys))", "(kcache, keys)"),),
            "numpy": (Patch(NUMPY_KEYS, "heads[row, h : h + g].reshape(-1).astype(kcache.dtype)"),),
        },
    ),
    Mutant(
        "values-turned-too",
        "Values are turned like keys before they are stored.",
        {
            "gpu": (
                Patch("if (head >= H + G) {", "if (head >= HEADS) {"),
                Patch(
                    "const u64 target = ((u64)at * G + (head - H)) * D;",
                    "const u64 target = ((u64)at * G + (head - H) % G) * D;\n"
                    "        GLOBAL ELEMENT* cache = head < H + G ? kcache : vcache;",
                ),
                Patch("STORE(kcache, target + low, first);", "STORE(cache, target + low, first);"),
                Patch("STORE(kcache, target + high, second);", "STORE(cache, target + high, second);"),
            ),
            "wgsl": (Patch(WGSL_TURNED, WGSL_TURNED.replace("H + G", "HEADS", 1)),),
            "native": (
                Patch("if (part.begin < queries + groups) rotation.angles", "rotation.angles"),
                Patch("place(x, vcache", "rotation.turn(x, sine, turned);\n                    place(turned, vcache"),
            ),
            "torch": (Patch("(vcache, values)", "(vcache, turned(values))"),),
            "numpy": (
                Patch(
                    NUMPY_VALUES, "self._turned(case, heads, pos, freq)[row, h + g :].reshape(-1).astype(vcache.dtype)"
                ),
            ),
        },
    ),
    Mutant(
        "keys-from-the-head-before",
        "The offset of the keys in a row of qkv is one head short: the last query head is stored as a key.",
        {
            "gpu": (Patch(GPU_SOURCE, GPU_SOURCE.replace("+ head)", "+ head - (head >= H && head < H + G))")),),
            "wgsl": (
                Patch(
                    "turned_pair((row * HEADS + head) * D,", "turned_pair((row * HEADS + head - u32(head >= H)) * D,"
                ),
            ),
            "native": (Patch(NATIVE_KEYS, "rotation.turn(x - width, sine, turned);"),),
            "torch": (
                Patch(
                    "(kcache, turned(keys))",
                    '(kcache, turned(qkv.view(case["M"], h + 2 * g, -1)[:, h - 1 : h + g - 1]))',
                ),
            ),
            "numpy": (Patch(NUMPY_KEYS, "turned[row, h - 1 : -1].reshape(-1).astype(kcache.dtype)"),),
        },
    ),
    Mutant(
        "stored-one-position-later",
        "The cache is written one position after the one that is attended to.",
        {
            "gpu": (Patch(GPU_PLACE, "(u64)(at + 1 < L ? at + 1 : 0) * G", times=2),),
            "wgsl": (Patch(WGSL_PLACE, "(u32(position) + 1u) % L * G"),),
            "native": (Patch(NATIVE_ROW, "(pos[row] + 1) % capacity * groups", times=2),),
            "torch": (Patch(TORCH_PLACE, 'at = (pos[stored].long() + 1) % case["L"]\n'),),
            "numpy": _numpy_place("(pos[row] + 1) % cap"),
        },
    ),
    Mutant(
        "padding-stored-at-zero",
        "Rows of padding, whose position is negative, overwrite position 0 instead of being skipped.",
        {
            "gpu": (
                Patch("(at < 0 || at >= L)", "at >= L"),
                Patch(GPU_PLACE, "(u64)(at < 0 ? 0 : at) * G", times=2),
            ),
            "wgsl": (Patch(WGSL_OUTSIDE, "if position >= i32(L) {"), Patch(WGSL_PLACE, "u32(max(position, 0)) * G")),
            "native": (
                Patch(NATIVE_STORED, "const bool stored = pos[row] < capacity;"),
                Patch(NATIVE_ROW, "most(pos[row], 0) * groups", times=2),
            ),
            "torch": (
                Patch(TORCH_STORED, 'stored = (pos < case["L"]).nonzero()[:, 0]\n'),
                Patch(TORCH_PLACE, "at = pos[stored].long().clamp(min=0)\n"),
            ),
            "numpy": (Patch(NUMPY_STORED, "stored = pos < cap\n"), *_numpy_place("max(pos[row], 0)")),
        },
    ),
    Mutant(
        "full-cache-overwrites-its-end",
        "Positions beyond the cache are clamped to its last row instead of being skipped.",
        {
            "gpu": (
                Patch("(at < 0 || at >= L)", "at < 0"),
                Patch(GPU_PLACE, "(u64)(at < L ? at : L - 1) * G", times=2),
            ),
            "wgsl": (Patch(WGSL_OUTSIDE, "if position < 0 {"), Patch(WGSL_PLACE, "min(u32(position), L - 1u) * G")),
            "native": (
                Patch(NATIVE_STORED, "const bool stored = pos[row] >= 0;"),
                Patch(NATIVE_ROW, "least(pos[row], capacity - 1) * groups", times=2),
            ),
            "torch": (
                Patch(TORCH_STORED, "stored = (pos >= 0).nonzero()[:, 0]\n"),
                Patch(TORCH_PLACE, 'at = pos[stored].long().clamp(max=case["L"] - 1)\n'),
            ),
            "numpy": (Patch(NUMPY_STORED, "stored = pos >= 0\n"), *_numpy_place("min(pos[row], cap - 1)")),
        },
    ),
    Mutant(
        "truncated-to-half-precision",
        "An f16 cache takes the upper bits of what is stored instead of the nearest f16.",
        {
            "gpu": (
                Patch("STORE_F16(pointer, at, value)", "STORE_F16(pointer, at, AS_F32(AS_U32(value) & 0xffffe000u))"),
            ),
            "wgsl": (Patch(HALF_ROUNDED, "let rounded = (wide + 0u * half) >> drop;", file="prelude/half.wgsl"),),
            "native": (
                Patch(
                    "each(0, width, [&](std::int64_t i, auto tail) { store(to + i, tail, load(from + i, tail)); });",
                    "for (std::int64_t i = 0; i < width; ++i) {\n"
                    "            std::uint32_t bits;\n"
                    "            std::memcpy(&bits, from + i, sizeof bits);\n"
                    "            if (sizeof(T) == 2) bits &= 0xffffe000u;\n"
                    "            float kept;\n"
                    "            std::memcpy(&kept, &bits, sizeof bits);\n"
                    "            store(to + i, Part{1}, set1(kept));\n"
                    "        }",
                ),
            ),
            "torch": (
                Patch(
                    "        cache[at] =",
                    '        if case["dtype"] == "f16":\n'
                    "            rows = (rows.contiguous().view(torch.int32) & -8192).view(torch.float32)\n"
                    "        cache[at] =",
                ),
            ),
            "numpy": (
                Patch(NUMPY_KEYS, "(" + NUMPY_KEYS.replace(".astype", NUMPY_TRUNCATED)),
                Patch(NUMPY_VALUES, "(" + NUMPY_VALUES.replace(".astype", NUMPY_TRUNCATED)),
            ),
        },
    ),
)
