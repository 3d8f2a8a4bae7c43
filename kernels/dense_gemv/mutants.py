"""Wrong kernels of dense_gemv: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

MUTANTS = (
    Mutant(
        "tail-of-k",
        "The end of K behind the last whole piece does not count in the product.",
        {
            "gpu": (Patch("k < K; k += LANES", "k < K / 8 * 8; k += LANES"),),
            "wgsl": (Patch("step < STEPS; step", "step < STEPS / 4u * 4u; step"),),
            "native": (Patch("each(0, width, ", "each(0, width / 8 * 8, "),),
            "torch": (
                Patch(
                    "linear(x, w.to(torch.float32))",
                    'linear(x[:, : case["K"] // 8 * 8], w[:, : case["K"] // 8 * 8].to(torch.float32))',
                ),
            ),
            "numpy": (Patch("x @ piece.T", 'x[:, : case["K"] // 8 * 8] @ piece[:, : case["K"] // 8 * 8].T'),),
        },
    ),
    Mutant(
        "row0-ignored",
        "A part of a head that was split over bindings is written as if it began at output 0.",
        {
            "gpu": (Patch("m * N + ROW0 + row]", "m * N + row]"),),
            "wgsl": (Patch("m * N + ROW0 + r]", "m * N + r]"),),
            "native": (Patch("m * outputs + row0, of", "m * outputs, of", times=2),),
            "torch": (Patch('y[:, case["row0"] : case["row0"] + case["rows"]]', 'y[:, : case["rows"]]'),),
            "numpy": (Patch('row0, x = case["row0"], ', "row0, x = 0, "),),
        },
    ),
    Mutant(
        "last-row-skipped",
        "The last row of the weights has no product (zeros where the output is a new array).",
        {
            "gpu": (Patch("row < NROWS && m < M", "row + 1 < NROWS && m < M"),),
            "wgsl": (Patch("r < NROWS && m < M", "r + 1u < NROWS && m < M"),),
            "native": (Patch("split(rows, 4, slice)", "split(rows - 1, 4, slice)"),),
            "torch": (Patch("    if case", "    part[:, -1] = 0\n    if case"),),
            "numpy": (Patch("        return [y]", '        y[:, row0 + case["rows"] - 1] = 0\n        return [y]'),),
        },
    ),
    Mutant(
        "f16-accumulators",
        "Sums are kept in f16 before they are joined.",
        {
            "gpu": (
                Patch(
                    "    sum_rows(acc, scratch);",
                    "    for (u32 i = 0; i < OUTPUTS; ++i) {\n        u32 half_bits = 0;\n"
                    "        STORE_F16((f16*)&half_bits, 0, acc[i]);\n"
                    "        acc[i] = LOAD_F16((const f16*)&half_bits, 0);\n    }\n    sum_rows(acc, scratch);",
                ),
            ),
            "wgsl": (
                Patch(
                    "= acc[t];", "= unpack2x16float(pack2x16float(vec2<f32>(clamp(acc[t], -65504.0, 65504.0), 0.0))).x;"
                ),
            ),
            "native": (
                Patch(
                    "y[m * outputs + of.row(r)] = sums[r];",
                    "{\n                Half one[W];\n                store(one, Full{}, set1(sums[r]));\n"
                    "                y[m * outputs + of.row(r)] = sum(load(one, Part{1}));\n            }",
                ),
            ),
            "torch": (Patch("w.to(torch.float32))", "w.to(torch.float32)).half().float()"),),
            "numpy": (Patch("x @ piece.T", "(x @ piece.T).astype(np.float16)"),),
        },
    ),
    Mutant(
        "lane-dropped",
        "The reduction forgets the last of the lanes that share a row.",
        {
            "gpu": (
                Patch(
                    "    sum_rows(acc, scratch);",
                    "    for (u32 i = 0; i < OUTPUTS; ++i) {\n"
                    "        acc[i] = lane == LANES - 1 ? 0.0f : acc[i];\n    }\n    sum_rows(acc, scratch);",
                ),
            ),
            "wgsl": (Patch("* LANES, 1u, FOLD)", "* LANES, 1u, FOLD - 1u)"),),
            "native": (
                Patch(
                    "            float sums[4];",
                    "            for (F& total : acc[m]) {\n                float lanes[W];\n"
                    "                store(lanes, Full{}, total);\n                lanes[W - 1] = 0;\n"
                    "                total = load(lanes, Full{});\n            }\n            float sums[4];",
                ),
            ),
        },
    ),
    Mutant(
        "other-parts-overwritten",
        "A launch over a part of the head also writes columns of the other parts.",
        {
            "gpu": (Patch("row < NROWS && m < M", "ROW0 + row < N && m < M"),),
            "wgsl": (Patch("r < NROWS && m < M", "ROW0 + r < N && m < M"),),
            "native": (Patch("row0, of);", "row0, Rows{of.first, of.apart, outputs - row0});", times=2),),
            "torch": (Patch("y = inputs[2]", "y = torch.zeros_like(inputs[2])"),),
            "numpy": (Patch("y = inputs[2].astype(dtype) if partial else np.empty(", "y = np.zeros("),),
        },
    ),
    Mutant(
        "first-tile-for-all",
        "The activations of the first tile of rows are used for every tile: a prefill of more than 8 tokens tells.",
        {
            "gpu": (Patch("(m0 + m < M ? m0 + m : M - 1)", "(m < M ? m : M - 1)", times=2),),
            "wgsl": (Patch("min(m0 + t, M - 1u)", "min(t, M - 1u)"),),
            "native": (Patch("from, x + m * width, y", "from, x, y", times=2),),
            "torch": (Patch("linear(x, ", 'linear(x[torch.arange(case["M"]) % 8], '),),
            "numpy": (Patch("x @ piece.T", 'x[np.arange(case["M"]) % 8] @ piece.T'),),
        },
    ),
    Mutant(
        "columns-swapped",
        "Neighbouring weights of a row change places: the halves of a word read in the wrong order.",
        {
            "gpu": (
                Patch("FMA(weight[i], values[m][i], even)", "FMA(weight[i + 1], values[m][i], even)"),
                Patch("FMA(weight[i + 1], values[m][i + 1], odd)", "FMA(weight[i], values[m][i + 1], odd)"),
            ),
            "wgsl": (
                Patch("vec4<f32>(unpack2x16float(words.x), ", "vec4<f32>(unpack2x16float(words.x).yx, "),
                Patch("dot(unpack2x16float(word), ", "dot(unpack2x16float(word).yx, "),
            ),
            "native": (
                Patch(
                    "            for (int m = 0; m < M; ++m) values[m] = load(x + m * width + k, tail);",
                    "            for (int m = 0; m < M; ++m) {\n"
                    "                float lanes[W] = {};\n"
                    "                for (std::int64_t at = k; at < k + W && at < width; ++at)\n"
                    "                    lanes[at - k] = x[m * width + ((at ^ 1) < width ? at ^ 1 : at)];\n"
                    "                values[m] = load(lanes, Full{});\n"
                    "            }",
                ),
            ),
            "torch": (
                Patch(
                    "w.to(torch.float32)",
                    "w[:, [k ^ 1 if k ^ 1 < w.shape[1] else k for k in range(w.shape[1])]].to(torch.float32)",
                ),
            ),
            "numpy": (
                Patch("x @ piece.T", "x @ piece[:, [k ^ 1 if k ^ 1 < x.shape[1] else k for k in range(x.shape[1])]].T"),
            ),
        },
    ),
    Mutant(
        "grid-not-folded",
        "The second dimension of a folded grid is ignored: outputs past 65535 groups stay unwritten.",
        {
            "wgsl": (Patch("group_of(item) * ROWS", "item.group.x * ROWS"),),
        },
    ),
)
