"""Wrong kernels of argmax: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

MUTANTS = (
    Mutant(
        "tie-to-the-highest",
        "The last of several largest values: decoding leaves the reference at every tie.",
        {
            "gpu": (Patch("(0x7fffffffu - n)", "n"), Patch("(i32)(0x7fffffffu - (u32)best)", "(i32)(u32)best")),
            "wgsl": (Patch("if key > best {", "if key >= best {"), Patch("at < best_at", "at > best_at")),
            "native": (
                Patch(
                    "        const F wanted = set1(top);",
                    "        for (std::int64_t i = width; i-- > 0;)\n"
                    "            if (x[i] == top) return static_cast<std::int32_t>(i);\n"
                    "        const F wanted = set1(top);",
                ),
            ),
            "torch": (
                Patch(
                    "masked_fill(nan, -torch.inf).argmax(dim=-1)",
                    'masked_fill(nan, -torch.inf).flip(-1).argmax(dim=-1).sub(case["N"] - 1).neg()',
                ),
            ),
            "numpy": (
                Patch(
                    "np.argmax(np.where(np.isnan(x), -np.inf, x), axis=-1)",
                    'case["N"] - 1 - np.argmax(np.where(np.isnan(x), -np.inf, x)[:, ::-1], axis=-1)',
                ),
            ),
        },
    ),
    Mutant(
        "nan-ignored",
        "A NaN loses every comparison, and the largest of the other values is returned as if nothing had happened.",
        {
            "gpu": (Patch("        return NAN_KEY;", "        return 0;"),),
            "wgsl": (Patch("        return NAN_KEY;", "        return 0u;"),),
            "native": (
                Patch("if (any_nan(load(x + i, Full{}))) return -1;", "if (any_nan(load(x + i, Full{}))) break;"),
                Patch("if (x[i] != x[i]) return -1;", "if (x[i] != x[i]) continue;"),
            ),
            "torch": (Patch("found.masked_fill(nan.any(dim=-1), -1)", "found"),),
            "numpy": (Patch("np.isnan(x).any(axis=-1)", "False"),),
        },
    ),
    Mutant(
        "nan-wins",
        "The place of a NaN is returned instead of -1.",
        {
            "gpu": (Patch("(u32)(best >> 32) == NAN_KEY ? -1 : (i32)", "(i32)"),),
            "wgsl": (Patch("select(i32(best_at), -1, best == NAN_KEY)", "i32(best_at)"),),
            "native": (
                Patch(
                    "if (any_nan(load(x + i, Full{}))) return -1;",
                    "if (any_nan(load(x + i, Full{}))) return static_cast<std::int32_t>(i);",
                ),
                Patch("if (x[i] != x[i]) return -1;", "if (x[i] != x[i]) return static_cast<std::int32_t>(i);"),
            ),
            "torch": (Patch("found.masked_fill(nan.any(dim=-1), -1)", "x.argmax(dim=-1)"),),
            "numpy": (
                Patch(
                    "np.where(np.isnan(x).any(axis=-1), -1, np.argmax(np.where(np.isnan(x), -np.inf, x), axis=-1))",
                    "np.argmax(x, axis=-1)",
                ),
            ),
        },
    ),
    Mutant(
        "tail-unread",
        "The values behind the last whole tile are not looked at: the end of a vocabulary.",
        {
            "gpu": (Patch("n < end; n += BLOCK", "n - lane + BLOCK <= end; n += BLOCK"),),
            "wgsl": (Patch("n < N; n += BLOCK", "n < N / BLOCK * BLOCK; n += BLOCK"),),
            "native": (
                Patch("width / W * W", "width / 64 * 64"),
                Patch(
                    "for (std::int64_t i = whole; i < width; ++i) {", "for (std::int64_t i = width; i < width; ++i) {"
                ),
            ),
            "torch": (Patch("x = inputs[0]", 'x = inputs[0][:, : max(1, case["N"] // 64 * 64)]'),),
            "numpy": (Patch("x = inputs[0]", 'x = inputs[0][:, : max(1, case["N"] // 64 * 64)]'),),
        },
    ),
    Mutant(
        "magnitude",
        "The largest magnitude instead of the largest value.",
        {
            "gpu": (Patch("AS_U32(source[n])", "AS_U32(source[n]) & 0x7fffffffu"),),
            "wgsl": (Patch("key_of(x[row * N + n])", "key_of(x[row * N + n] & 0x7fffffffu)"),),
            "native": (
                Patch("load(x + i, Full{})", "sub(zero(), neg_abs(load(x + i, Full{})))", times=3),
                Patch("if (x[i] > top) top = x[i];", "if (fabsf(x[i]) > top) top = fabsf(x[i]);"),
                Patch("x[i] == top", "fabsf(x[i]) == top"),
            ),
            "torch": (Patch("x = inputs[0]", "x = inputs[0].abs()"),),
            "numpy": (Patch("x = inputs[0]", "x = np.abs(inputs[0])"),),
        },
    ),
    Mutant(
        "no-index-for-minus-infinity",
        "The search begins at -inf: a row of nothing else has no index.",
        {
            "gpu": (Patch("u64 best[1] = {0}; /*", "u64 best[1] = {(u64)0x007fffffu << 32 | 0x80000000u}; /*"),),
            "wgsl": (Patch("var best = 0u;", "var best = 0x007fffffu;"),),
            "native": (
                Patch("        const F wanted", "        if (top == -INFINITY) return -1;\n        const F wanted"),
            ),
            "torch": (Patch("nan.any(dim=-1), -1", "nan.any(dim=-1) | x.isneginf().all(dim=-1), -1"),),
            "numpy": (Patch("np.isnan(x).any(axis=-1)", "np.isnan(x).any(axis=-1) | np.isneginf(x).all(axis=-1)"),),
        },
    ),
    Mutant(
        "bits-compared",
        "Floats are compared as signed integers without mirroring the negative ones: among those the smallest wins.",
        {
            "gpu": (Patch("(bits & 0x80000000u) ? ~bits : (bits | 0x80000000u)", "bits ^ 0x80000000u"),),
            "wgsl": (Patch("select(bits | 0x80000000u, ~bits, bits != magnitude)", "bits ^ 0x80000000u"),),
            "torch": (
                Patch("masked_fill(nan, -torch.inf).argmax", "masked_fill(nan, -torch.inf).view(torch.int32).argmax"),
            ),
            "numpy": (
                Patch(
                    "np.argmax(np.where(np.isnan(x), -np.inf, x), axis=-1)",
                    "np.argmax(np.where(np.isnan(x), np.float32(-np.inf), x).view(np.int32), axis=-1)",
                ),
            ),
        },
    ),
    Mutant(
        "share-dropped",
        "The last share of a row is forgotten where shares are joined: groups of a long row, lanes of a group.",
        {
            "gpu": (Patch("part < PARTS; part += BLOCK", "part < PARTS - 1; part += BLOCK"),),
            "wgsl": (
                Patch("for (var i = 0u; i < BLOCK; i += CHUNK)", "for (var i = 0u; i < BLOCK - CHUNK; i += CHUNK)"),
            ),
        },
    ),
)
