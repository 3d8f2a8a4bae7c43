"""Wrong kernels of embed: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

MUTANTS = (
    Mutant(
        "next-row",
        "The row after the one that is meant.",
        {
            "gpu": (Patch("(u32)ids[m] - (u32)ROW0;", "(u32)ids[m] - (u32)ROW0 + 1;"),),
            "wgsl": (Patch("let id = ids[row];", "let id = ids[row] + 1;"),),
            "native": (Patch("ids[row] - row0;", "ids[row] - row0 + 1;"),),
            "torch": (Patch('ids.long() - case["row0"]', 'ids.long() - case["row0"] + 1'),),
            "numpy": (Patch('ids.astype(np.int64) - case["row0"]', 'ids.astype(np.int64) - case["row0"] + 1'),),
        },
    ),
    Mutant(
        "row0-ignored",
        "A part of a vocabulary that was split over bindings is read as if it began at id 0.",
        {
            "gpu": (Patch("(u32)ids[m] - (u32)ROW0;", "(u32)ids[m];"),),
            "wgsl": (Patch("let id = ids[row];", "let id = ids[row] + i32(ROW0);"),),
            "native": (Patch("ids[row] - row0;", "ids[row];"),),
            "torch": (Patch('ids.long() - case["row0"]', "ids.long()"),),
            "numpy": (Patch('ids.astype(np.int64) - case["row0"]', "ids.astype(np.int64)"),),
        },
    ),
    Mutant(
        "clamped-id",
        "An id outside the vocabulary gives its first or last row instead of NaN.",
        {
            "gpu": (Patch("(u32)ids[m] - ", "(u32)(ids[m] < 0 ? 0 : (ids[m] < V ? ids[m] : V - 1)) - "),),
            "wgsl": (Patch("let id = ids[row];", "let id = clamp(ids[row], 0, i32(V) - 1);"),),
            "native": (Patch("ids[row] - row0;", "partial ? ids[row] - row0 : least(most(ids[row], 0), rows - 1);"),),
            "torch": (Patch("ids.long()", 'ids.clamp(0, case["V"] - 1).long()'),),
            "numpy": (Patch("ids.astype(np.int64)", 'ids.clip(0, case["V"] - 1).astype(np.int64)'),),
        },
    ),
    Mutant(
        "zeros-for-no-id",
        "An id outside the vocabulary gives zeros, which a model goes on with, instead of NaN.",
        {
            "gpu": (Patch("AS_F32(0x7fc00000u)", "0.0f"),),
            "wgsl": (Patch("const NAN_BITS: u32 = 0x7fc00000u;", "const NAN_BITS: u32 = 0u;"),),
            "native": (Patch("set1(NAN)", "zero()"),),
            "torch": (Patch("torch.full_like(rows, torch.nan)", "torch.zeros_like(rows)"),),
            "numpy": (
                Patch('np.full((case["M"], case["D"]), np.nan, dtype)', 'np.zeros((case["M"], case["D"]), dtype)'),
            ),
        },
    ),
    Mutant(
        "subnormals-flushed",
        "Subnormal f16 weights become zero, as conversions of some devices and unpack2x16float make them.",
        {
            "gpu": (
                Patch(
                    "#define LOAD(pointer, at) LOAD_F16(pointer, at)",
                    "#define LOAD(pointer, at) ((AS_U32(LOAD_F16(pointer, at)) & 0x7fffffffu) < 0x38800000u ? 0.0f : "
                    "LOAD_F16(pointer, at))",
                ),
            ),
            "wgsl": (Patch("sign | bitcast<u32>(f32(fraction) * 5.9604644775390625e-8)", "sign"),),
            "native": (
                Patch(
                    "store(to + i, tail, load(from + i, tail));",
                    "const F value = load(from + i, tail), least = set1(f16 ? 0x1p-14f : 0.0f);"
                    " store(to + i, tail, pick_negative(sub(sub(zero(), neg_abs(value)), least), zero(), value));",
                ),
            ),
            "torch": (
                Patch(
                    "    rest = inputs",
                    "    rows = torch.where(rows.abs() < torch.finfo(table.dtype).tiny, 0.0, rows)\n    rest = inputs",
                ),
            ),
            "numpy": (
                Patch(
                    "        x[here] = ",
                    "        table = np.where(np.abs(table) < np.finfo(table.dtype).tiny, 0, table)\n"
                    "        x[here] = ",
                ),
            ),
        },
    ),
    Mutant(
        "tail-of-the-row",
        "The columns behind the last 64 (or vector) that are whole are not written.",
        {
            "gpu": (
                Patch(
                    "d < D; d += BLOCK) {\n            target[d] = LOAD",
                    "d < D / 64 * 64; d += BLOCK) {\n            target[d] = LOAD",
                ),
            ),
            "wgsl": (Patch("pair < D / 2u; pair", "pair < D / 64u * 32u; pair"),),
            "native": (
                Patch(
                    "each(part.begin, part.end,\n",
                    "each(part.begin, part.end / 64 * 64,\n",
                ),
            ),
            "torch": (
                Patch(
                    "torch.where(here[:, None], rows,",
                    'torch.where(here[:, None], rows * (torch.arange(case["D"]) < case["D"] // 64 * 64),',
                ),
            ),
            "numpy": (
                Patch(
                    "x[here] = table[local[here]].astype(dtype)",
                    'x[here, : case["D"] // 64 * 64] = table[local[here], : case["D"] // 64 * 64].astype(dtype)',
                ),
            ),
        },
    ),
    Mutant(
        "first-id-for-all",
        "Every row of the batch is that of the first id: a batch of one cannot see it.",
        {
            "gpu": (Patch("(u32)ids[m]", "(u32)ids[0]"),),
            "wgsl": (Patch("let id = ids[row];", "let id = ids[0];"),),
            "native": (Patch("ids[row] - row0", "ids[0] - row0"),),
            "torch": (Patch("ids.long()", "ids[:1].expand_as(ids).long()"),),
            "numpy": (Patch("ids.astype(np.int64)", "np.full_like(ids, ids[0]).astype(np.int64)"),),
        },
    ),
    Mutant(
        "other-parts-overwritten",
        "A launch over one part of the vocabulary overwrites what the launches over the other parts wrote.",
        {
            "gpu": (Patch("#if ROWS == V", "#if 1"),),
            "wgsl": (Patch("!here && ROWS < V", "!here && ROWS > V"),),
            "native": (Patch("} else if (!partial) {", "} else {"),),
            "torch": (Patch('inputs[2] if case["rows"] < case["V"] else torch', "torch"),),
            "numpy": (Patch("inputs[2].astype(dtype) if partial else np", "np"),),
        },
    ),
)
