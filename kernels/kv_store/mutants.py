"""Wrong kernels of kv_store: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

HALF = "prelude/half.wgsl"
STORE = "#define STORE(pointer, at, value) STORE_F16(pointer, at, value)"
STORED = "                store(to + i, tail, load(from + row * width + i, tail));"

MUTANTS = (
    Mutant(
        "next-position",
        "Keys and values go to the position after their own: attention sees the poison of an unwritten place.",
        {
            "gpu": (Patch("(u64)at * D", "(u64)((at + 1) % L) * D"),),
            "wgsl": (Patch("u32(row) * (D / 2u)", "(u32(row) + 1u) % L * (D / 2u)"),),
            "native": (Patch("cache + pos[row] * width", "cache + (pos[row] + 1) % capacity * width"),),
            "torch": (Patch("at = pos[stored].long()", 'at = (pos[stored].long() + 1) % case["L"]'),),
            "numpy": (Patch("cache[at] = ", 'cache[(at + 1) % case["L"]] = '),),
        },
    ),
    Mutant(
        "padding-at-0",
        "A row of padding (position -1) overwrites the first position.",
        {
            "gpu": (Patch("const i32 at = pos[row];", "const i32 at = pos[row] < 0 ? 0 : pos[row];"),),
            "wgsl": (Patch("let row = pos[at / (D / 2u)];", "let row = max(pos[at / (D / 2u)], 0);"),),
            "native": (
                Patch("pos[row] < 0 || ", ""),
                Patch("cache + pos[row] * width", "cache + most(pos[row], 0) * width"),
            ),
            "torch": (
                Patch('(pos >= 0) & (pos < case["L"])', 'pos < case["L"]'),
                Patch("pos[stored].long()", "pos[stored].long().clamp(min=0)"),
            ),
            "numpy": (Patch('0 <= at < case["L"]', 'at < case["L"]'), Patch("cache[at] = ", "cache[max(at, 0)] = ")),
        },
    ),
    Mutant(
        "full-cache-wraps",
        "A position past the end of the cache overwrites one from its beginning.",
        {
            "gpu": (Patch("const i32 at = pos[row];", "const i32 at = pos[row] < 0 ? -1 : pos[row] % L;"),),
            "wgsl": (Patch("let row = pos[at / (D / 2u)];", "let row = pos[at / (D / 2u)] % i32(L);"),),
            "native": (
                Patch(" || pos[row] >= capacity", ""),
                Patch("cache + pos[row] * width", "cache + pos[row] % capacity * width"),
            ),
            "torch": (
                Patch('(pos >= 0) & (pos < case["L"])', "pos >= 0"),
                Patch("pos[stored].long()", 'pos[stored].long() % case["L"]'),
            ),
            "numpy": (Patch('0 <= at < case["L"]', "0 <= at"), Patch("cache[at] = ", 'cache[at % case["L"]] = ')),
        },
    ),
    Mutant(
        "keys-and-values-swapped",
        "Values go to the cache of the keys, keys to that of the values.",
        {
            "gpu": (
                Patch(
                    "GLOBAL const float* RESTRICT k, GLOBAL const float* RESTRICT v",
                    "GLOBAL const float* RESTRICT v, GLOBAL const float* RESTRICT k",
                ),
            ),
            "wgsl": (
                Patch("@binding(0) var<storage, read> k:", "@binding(1) var<storage, read> k:"),
                Patch("@binding(1) var<storage, read> v:", "@binding(0) var<storage, read> v:"),
            ),
            "native": (Patch("(args[side], ", "(args[1 - side], ", times=2),),
            "torch": (Patch("((kcache, k), (vcache, v))", "((kcache, v), (vcache, k))"),),
            "numpy": (Patch("zip(caches, (k, v),", "zip(caches, (v, k),"),),
        },
    ),
    Mutant(
        "row-for-position",
        "A row of the chunk is stored at its number in the chunk, not at its position: right for the first chunk only.",
        {
            "gpu": (Patch("(u64)at * D", "(u64)row * D"),),
            "wgsl": (Patch("u32(row) * (D / 2u) + at % (D / 2u)", "at"),),
            "native": (Patch("cache + pos[row] * width", "cache + row * width"),),
            "torch": (Patch("at = pos[stored].long()", "at = stored"),),
            "numpy": (Patch("cache[at] = ", "cache[m] = "),),
        },
    ),
    Mutant(
        "truncated-to-f16",
        "Bits that f16 does not have are cut off instead of rounded to nearest even.",
        {
            "gpu": (
                Patch(
                    STORE,
                    STORE.replace(
                        "at, value) STORE_F16(pointer, at, value)",
                        "at, value) STORE_F16(pointer, at, AS_F32(AS_U32(value) & 0xffffe000u))",
                    ),
                ),
            ),
            "wgsl": (Patch("(wide + half - 1u + ((wide >> drop) & 1u)) >> drop", "wide >> drop", file=HALF),),
            "native": (
                Patch(
                    STORED,
                    "                float lanes[W];\n"
                    "                store(lanes, Full{}, load(from + row * width + i, tail));\n"
                    "                for (float& lane : lanes) {\n                    std::uint32_t bits;\n"
                    "                    std::memcpy(&bits, &lane, sizeof bits);\n"
                    "                    bits &= f16 ? 0xffffe000u : 0xffffffffu;\n"
                    "                    std::memcpy(&lane, &bits, sizeof bits);\n                }\n"
                    "                store(to + i, tail, load(lanes, Full{}));",
                ),
            ),
            "torch": (
                Patch(
                    "rows[stored].to(",
                    '(rows[stored].view(torch.int32) & (-8192 if case["dtype"] == "f16" else '
                    "-1)).view(torch.float32).to(",
                ),
            ),
            "numpy": (
                Patch(
                    "rows[m].astype(",
                    '(rows[m].view(np.int32) & (-8192 if case["dtype"] == "f16" else -1)).view(np.float32).astype(',
                ),
            ),
        },
    ),
    Mutant(
        "overflow-saturates",
        "What exceeds f16 becomes 65504 instead of an infinity.",
        {
            "gpu": (
                Patch(
                    STORE,
                    STORE.removesuffix("value)")
                    + "(value) > 65504.0f ? 65504.0f : ((value) < -65504.0f ? -65504.0f : (value)))",
                ),
            ),
            "wgsl": (Patch("sign | 0x7c00u;", "sign | 0x7bffu;", file=HALF),),
            "native": (
                Patch(
                    STORED,
                    "                const F limit = set1(f16 ? 65504.0f : INFINITY);\n"
                    "                store(to + i, tail, max(sub(zero(), limit), min(limit, load(from + row * "
                    "width + i, tail))));",
                ),
            ),
            "torch": (
                Patch(
                    "rows[stored].to(",
                    "rows[stored].clamp(torch.finfo(cache.dtype).min, torch.finfo(cache.dtype).max).to(",
                ),
            ),
            "numpy": (
                Patch("rows[m].astype(", "rows[m].clip(np.finfo(cache.dtype).min, np.finfo(cache.dtype).max).astype("),
            ),
        },
    ),
    Mutant(
        "subnormals-flushed",
        "What is below the smallest normal f16 becomes zero.",
        {
            "gpu": (
                Patch(
                    STORE,
                    STORE.removesuffix("value)") + "(AS_U32(value) & 0x7fffffffu) < 0x38800000u ? 0.0f : (value))",
                ),
            ),
            "wgsl": (Patch("if shift > 24u {", "if shift > 0u {", file=HALF),),
            "native": (
                Patch(
                    STORED,
                    "                const F value = load(from + row * width + i, tail), tiny = set1(f16 ? "
                    "0x1p-14f : 0.0f);\n"
                    "                store(to + i, tail, pick_negative(sub(sub(zero(), neg_abs(value)), tiny), "
                    "zero(), value));",
                ),
            ),
            "torch": (
                Patch(
                    "        cache[at] = ",
                    "        rows = torch.where(rows.abs() < torch.finfo(cache.dtype).tiny, 0.0, rows)\n"
                    "        cache[at] = ",
                ),
            ),
            "numpy": (
                Patch(
                    "        caches = [cache.copy()",
                    '        if case["dtype"] == "f16":\n'
                    "            k, v = (np.where(np.abs(rows) < 2.0**-14, 0, rows) for rows in (k, v))\n"
                    "        caches = [cache.copy()",
                ),
            ),
        },
    ),
)
