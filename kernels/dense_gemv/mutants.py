"""Wrong kernels of dense_gemv: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant, Patch

MUTANTS = {
    "tail-of-k": Mutant(
        "The end of K behind the last whole piece does not count in the product.",
        gpu="k < K«→ / 8 * 8»; k += LANES",
        wgsl="step < STEPS«→ / 4u * 4u»; step",
        native="each(0, width«→ / 8 * 8», ",
        torch='linear(x«, w→[:, : case["K"] // 8 * 8], w[:, : case["K"] // 8 * 8]».to(torch.float32))',
        numpy='x«→[:, : case["K"] // 8 * 8]» @ piece«→[:, : case["K"] // 8 * 8]».T',
    ),
    "row0-ignored": Mutant(
        "A part of a head that was split over bindings is written as if it began at output 0.",
        gpu="m * N + «ROW0 + →»row]",
        wgsl="m * N + «ROW0 + →»r]",
        native=Patch("m * outputs« + row0→», of", times=2),
        torch='y[:, «case["row0"] : case["row0"] +→:» case["rows"]]',
        numpy='row0, x = «case["row0"]→0», ',
    ),
    "last-row-skipped": Mutant(
        "The last row of the weights has no product (zeros where the output is a new array).",
        gpu="row«→ + 1» < NROWS && m < M",
        wgsl="r«→ + 1u» < NROWS && m < M",
        native="split(rows«→ - 1», 4, slice)",
        torch="«→    part[:, -1] = 0\n»    if case",
        numpy='«→        y[:, row0 + case["rows"] - 1] = 0\n»        return [y]',
    ),
    "f16-accumulators": Mutant(
        "Sums are kept in f16 before they are joined.",
        gpu=(
            "«→    for (u32 i = 0; i < OUTPUTS; ++i) {\n"
            "        u32 half_bits = 0;\n"
            "        STORE_F16((f16*)&half_bits, 0, acc[i]);\n"
            "        acc[i] = LOAD_F16((const f16*)&half_bits, 0);\n"
            "    }\n"
            "»    sum_rows(acc, scratch);"
        ),
        wgsl="<u32>(«acc[t]→unpack2x16float(pack2x16float(vec2<f32>(clamp(acc[t], -65504.0, 65504.0), 0.0))).x»);",
        native=(
            "«→{\n"
            "                Half one[W];\n"
            "                store(one, Full{}, set1(sums[r]));\n"
            "                »y[m * outputs + of.row(r)] = «sums[r];→sum(load(one, Part{1}));\n"
            "            }»"
        ),
        torch="w.to(torch.float32))«→.half().float()»",
        numpy="«x @ piece.T→(x @ piece.T).astype(np.float16)»",
    ),
    "lane-dropped": Mutant(
        "The reduction forgets the last of the lanes that share a row.",
        gpu=(
            "«→    for (u32 i = 0; i < OUTPUTS; ++i) {\n"
            "        acc[i] = lane == LANES - 1 ? 0.0f : acc[i];\n"
            "    }\n"
            "»    sum_rows(acc, scratch);"
        ),
        wgsl=Patch("* LANES, 1u, FOLD«→ - 1u»)", file="prelude/rows.wgsl"),
        native=(
            "«→            for (F& total : acc[m]) {\n"
            "                float lanes[W];\n"
            "                store(lanes, Full{}, total);\n"
            "                lanes[W - 1] = 0;\n"
            "                total = load(lanes, Full{});\n"
            "            }\n"
            "»            float sums[4];"
        ),
    ),
    "other-parts-overwritten": Mutant(
        "A launch over a part of the head also writes columns of the other parts.",
        gpu="«row < NROWS→ROW0 + row < N» && m < M",
        wgsl="«r < NROWS→ROW0 + r < N» && m < M",
        native=Patch("row0, «of→Rows{of.first, of.apart, outputs - row0}»);", times=2),
        torch="y = «inputs[2]→torch.zeros_like(inputs[2])»",
        numpy="y = «inputs[2].astype(dtype) if partial else np.empty→np.zeros»(",
    ),
    "first-tile-for-all": Mutant(
        "The activations of the first tile of rows are used for every tile: a prefill of more than 8 tokens tells.",
        gpu=Patch("(«m0 + m < M ? m0 +→m < M ?» m : M - 1)", times=2),
        wgsl="min(«m0 + →»t, M - 1u)",
        native=Patch("from, x« + m * width→», y", times=2),
        torch='linear(x«→[torch.arange(case["M"]) % 8]», ',
        numpy='x«→[np.arange(case["M"]) % 8]» @ piece.T',
    ),
    "columns-swapped": Mutant(
        "Neighbouring weights of a row change places: the halves of a word read in the wrong order.",
        gpu=("FMA(weight[i«→ + 1»], values[ahead][m][i], even)", "FMA(weight[i« + 1→»], values[ahead][m][i + 1], odd)"),
        wgsl=("vec4<f32>(unpack2x16float(words.x)«→.yx», ", "dot(unpack2x16float(word)«→.yx», "),
        native=(
            "            for (int m = 0; m < M; ++m) «values[m] = load(x + m * width + k, tail);→{\n"
            "                float lanes[W] = {};\n"
            "                for (std::int64_t at = k; at < k + W && at < width; ++at)\n"
            "                    lanes[at - k] = x[m * width + ((at ^ 1) < width ? at ^ 1 : at)];\n"
            "                values[m] = load(lanes, Full{});\n"
            "            }»"
        ),
        torch="w«→[:, [k ^ 1 if k ^ 1 < w.shape[1] else k for k in range(w.shape[1])]]».to(torch.float32)",
        numpy="x @ piece«→[:, [k ^ 1 if k ^ 1 < x.shape[1] else k for k in range(x.shape[1])]]».T",
    ),
    "grid-not-folded": Mutant(
        "The second dimension of a folded grid is ignored: outputs past 65535 groups stay unwritten.",
        wgsl="«group_of(item)→item.group.x» * ROWS",
    ),
}
