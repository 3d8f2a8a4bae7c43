"""Wrong tgemv kernels: tails of rows and columns, layout of the packed words, Σq, accumulators, scales, stores."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

NUMPY_SHAPES = 'm, n, b = case["M"], case["N"], self.blocks(case)\n'
"""Where the reference has its weights, and nothing is multiplied yet."""
NUMPY_SUM = "acc = q.astype(np.float32) @ weights.T\n"
NUMPY_SCALES = "(ascale.astype(dtype) * wscale.astype(dtype))"
TORCH_VALUES = "values = q.to(torch.float32)\n"
TORCH_WEIGHTS = "weights = (codes & 3).view(n, -1).to(torch.float32) - 1\n"
TORCH_SUM = "(values @ weights.T)"
TORCH_SCALES = "(ascale * wscale)"
GPU_SUM = "sum_rows(total, scratch);\n"
GPU_SCALES = "scale[slot] = ascale[safe_m] * wscale["
WGSL_SUM = "let acc = bitcast<i32>(total) - row_qsum(m);"
WGSL_SCALES = "f32(acc) * (ascale[m] * wscale[n * W_PER_ROW])"
NATIVE_PERMUTE = "permute(buffers.q + token * padded + b * CODES,"
TILED_QSUM = "buffers.qsum[at + s]"
TILED_FINISH = "        const std::int32_t* offset = buffers.offset + slot * blocks;\n        if (integers) {\n"
NATIVE_SCALES = "w_per_row ? ascale : ascale * buffers.wscale[0];"


def _gpu_total(value: str) -> Patch:
    """The integer sum of a row replaced by an expression of it, where sums are integers."""
    loop = f"for (u32 i = 0; i < OUTPUTS; ++i) {{ total[i] = {value}; }}"
    return Patch(GPU_SUM, f"{GPU_SUM}#if !SPANNED\n    {loop}\n#endif\n")


def _tiled(find: str, replace: str) -> Patch:
    """The same defect where many rows of activations go through tiles."""
    return Patch(find, replace, file="tgemv/tgemm.h")


def _native_total(changed: str) -> Patch:
    """Tiles: what becomes of an accumulator ``sum``."""
    return _tiled(
        TILED_FINISH,
        "        for (auto& of_row : sums.at)\n            for (int t = 0; t < TILE; ++t) {\n"
        "                const std::int32_t offset = buffers.offset[slot * blocks + t], sum = of_row[t] - offset;\n"
        f"                of_row[t] = {changed} + offset;\n            }}\n{TILED_FINISH}",
    )


def _native_order(index: str) -> tuple[Patch, ...]:
    """Activations multiplied with the codes of other columns: ``index`` of column k within a block."""
    turned = (
        "[&] {\n                static thread_local std::int8_t turned[CODES];\n"
        "                const std::int8_t* from = buffers.q + token * padded + b * CODES;\n"
        f"                for (int k = 0; k < CODES; ++k) turned[k] = from[{index}];\n"
        "                return turned;\n            }()"
    )
    tiled = (
        "[&] {\n                static thread_local std::int8_t turned[TILE * CODES];\n"
        "                for (int t = 0; t < count; ++t)\n"
        "                    for (int k = 0; k < CODES; ++k)\n"
        f"                        turned[t * CODES + k] = buffers.q[(token + t) * padded + b * CODES + ({index})];\n"
        "                return turned;\n            }()"
    )
    return (
        Patch(NATIVE_PERMUTE, f"permute({turned},"),
        _tiled("buffers.q + token * padded + b * CODES, padded, count,", f"{tiled}, CODES, count,"),
    )


def _numpy_weights(change: str) -> Patch:
    return Patch(NUMPY_SHAPES, f"{NUMPY_SHAPES}        {change}\n")


def _torch_weights(change: str) -> Patch:
    return Patch(TORCH_WEIGHTS, f"{TORCH_WEIGHTS}    {change}\n")


def _torch_values(change: str) -> Patch:
    return Patch(TORCH_VALUES, f"{TORCH_VALUES}    {change}\n")


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "last-tile-skipped",
        "The loop over K ends one tile early: the last columns of every row are missing.",
        {
            "gpu": (Patch("if (COMPLETE || chunk < CHUNKS) {", "if (chunk + 1 < CHUNKS) {"),),
            "wgsl": (
                Patch("quad = lane; quad < QUADS; quad", "quad = lane; quad + 1u < QUADS; quad"),
                Patch("block = lane; block < BLOCKS; block", "block = lane; block + 1u < BLOCKS; block"),
            ),
            "native": (
                Patch("permuted, padded, blocks, ahead, acc);", "permuted, padded, blocks - 1, ahead, acc);"),
                Patch(
                    "float y[M][4] = {};\n        for (std::int64_t b = 0; b < blocks;",
                    "float y[M][4] = {};\n        for (std::int64_t b = 0; b < blocks - 1;",
                ),
                _tiled("least(PIECE, blocks - b), slot", "least(PIECE, blocks - 1 - b), slot"),
                _tiled("at < least(b + PIECE, blocks); ++at) {", "at < least(b + PIECE, blocks - 1); ++at) {"),
            ),
            "torch": (_torch_values("values[:, -64:] = 0"),),
            "numpy": (_numpy_weights("weights[:, -64:] = 0"),),
        },
    ),
    Mutant(
        "tail-of-k-ignored",
        "Only whole rounds over K are taken, and what is left over is not; right for every K that divides evenly.",
        {
            "gpu": (Patch("((CHUNKS + LANES - 1) / LANES)", "(CHUNKS / LANES)"),),
            "wgsl": (Patch("quad = lane; quad < QUADS; quad", "quad = lane; quad < QUADS / LANES * LANES; quad"),),
            "native": (
                Patch("permuted, padded, blocks, ahead, acc);", "permuted, padded, blocks / 2 * 2, ahead, acc);"),
                _tiled("least(PIECE, blocks - b), slot", "least(PIECE, blocks / 2 * 2 - b), slot"),
            ),
            "torch": (_torch_values("values[:, values.shape[1] // 512 * 512 :] = 0"),),
            "numpy": (_numpy_weights("weights[:, weights.shape[1] // 512 * 512 :] = 0"),),
        },
    ),
    Mutant(
        "last-row-skipped",
        "The last row of the weights is not computed: a bound of N - 1.",
        {
            "gpu": (Patch("row < N && m < M) {", "row + 1 < N && m < M) {"),),
            "wgsl": (Patch("if n < N && m < M {", "if n + 1u < N && m < M {"),),
            "native": (
                Patch("split(rows, 4, slice)", "split(rows - 1, 4, slice)"),
                _tiled("split(rows, ROWS, slice)", "split(rows - 1, ROWS, slice)"),
            ),
            "torch": (_torch_weights("weights[-1] = 0"),),
            "numpy": (_numpy_weights("weights[-1] = 0"),),
        },
    ),
    Mutant(
        "odd-row-unwritten",
        "Rows are stored two at a time and an odd one never: whatever the buffer held stays (wrong for some N only).",
        {
            "gpu": (Patch("row < N && m < M) {", "row < N / 2 * 2 && m < M) {"),),
            "wgsl": (Patch("if n < N && m < M {", "if n < N / 2u * 2u && m < M {"),),
            "native": (
                Patch("r < to.count(); ++r) y[", "r < to.count() / 2 * 2; ++r) y["),
                _tiled("r < width; ++r)", "r < width / 2 * 2; ++r)"),
            ),
        },
    ),
    Mutant(
        "neighbour-output",
        "Two neighbouring rows store each other's result.",
        {
            "gpu": (Patch("y[(u64)m * N + row] =", "y[(u64)m * N + ((row ^ 1u) < N ? (row ^ 1u) : row)] =", times=3),),
            "wgsl": (Patch("y[m * N + n] =", "y[m * N + select(n, n ^ 1u, (n ^ 1u) < N)] ="),),
            "native": (
                Patch("y[to.row(r)] =", "y[(to.row(r) ^ 1) < to.end ? to.row(r) ^ 1 : to.row(r)] ="),
                _tiled("if (width == TILE && count == TILE) return transpose(from.at, to, rows);", ""),
                _tiled("= from.at[r][t];", "= from.at[(r ^ 1) < width ? r ^ 1 : r][t];"),
            ),
            "torch": (
                _torch_weights(
                    "order = torch.arange(n, device=words.device) ^ 1\n"
                    "    weights = weights[torch.where(order < n, order, order ^ 1)]"
                ),
            ),
            "numpy": (_numpy_weights("weights = weights[[r ^ 1 if r ^ 1 < n else r for r in range(n)]]"),),
        },
    ),
    Mutant(
        "columns-swapped",
        "Two neighbouring columns are exchanged: cosine and NMSE let it pass.",
        {
            "gpu": (
                Patch("const u32x4 four = active[", "u32x4 four = active["),
                Patch(
                    "ahead * LANES + lane];\n",
                    "ahead * LANES + lane];\n                    "
                    "four.x = (four.x & 0xffff0000u) | ((four.x & 0xffu) << 8) | ((four.x & 0xff00u) >> 8);\n",
                ),
            ),
            "wgsl": (
                Patch(
                    "dot4I8Packed(word & 0x03030303u, act.x)",
                    "dot4I8Packed(word & 0x03030303u,\n        "
                    "(act.x & 0xffff0000u) | ((act.x & 0xffu) << 8u) | ((act.x & 0xff00u) >> 8u))",
                ),
            ),
            "native": _native_order("k < 2 ? k ^ 1 : k"),
            "torch": (_torch_values("values[:, [0, 1]] = values[:, [1, 0]]"),),
            "numpy": (_numpy_weights("weights[:, [0, 1]] = weights[:, [1, 0]]"),),
        },
    ),
    Mutant(
        "shift-order-reversed",
        "The four fields of a byte are taken from the highest to the lowest: the layout of another packer.",
        {
            "gpu": (
                Patch("FIELD0(word), four.x", "FIELD0(word), four.w"),
                Patch("FIELD1(word), four.y", "FIELD1(word), four.z"),
                Patch("FIELD2(word), four.z", "FIELD2(word), four.y"),
                Patch("FIELD3(word), four.w", "FIELD3(word), four.x"),
            ),
            "wgsl": (
                Patch("word & 0x03030303u, act.x", "word & 0x03030303u, act.w"),
                Patch("(word >> 2u) & 0x03030303u, act.y", "(word >> 2u) & 0x03030303u, act.z"),
                Patch("(word >> 4u) & 0x03030303u, act.z", "(word >> 4u) & 0x03030303u, act.y"),
                Patch("(word >> 6u) & 0x03030303u, act.w", "(word >> 6u) & 0x03030303u, act.x"),
            ),
            "native": _native_order("k ^ 12"),
            "torch": (Patch("[[0], [2], [4], [6]]", "[[6], [4], [2], [0]]"),),
            "numpy": (_numpy_weights("weights = weights.reshape(n, -1, 4, 4)[:, :, ::-1].reshape(n, -1)"),),
        },
    ),
    Mutant(
        "words-swapped",
        "The first two words of four are exchanged: a 64-bit load taken for two in the other order.",
        {
            "gpu": (
                Patch("packed[ahead][n][0] = four.x;", "packed[ahead][n][0] = four.y;"),
                Patch("packed[ahead][n][1] = four.y;", "packed[ahead][n][1] = four.x;"),
            ),
            "wgsl": (Patch("dot16(words.x, q[at]) + dot16(words.y,", "dot16(words.y, q[at]) + dot16(words.x,"),),
            "native": _native_order("k & 32 ? k : k ^ 16"),
            "torch": (_torch_weights("weights = weights.view(n, -1, 4, 16)[:, :, [1, 0, 2, 3]].reshape(n, -1)"),),
            "numpy": (_numpy_weights("weights = weights.reshape(n, -1, 4, 16)[:, :, [1, 0, 2, 3]].reshape(n, -1)"),),
        },
    ),
    Mutant(
        "qsum-not-subtracted",
        "The codes w + 1 are multiplied and Σq stays in the accumulator.",
        {
            "gpu": (Patch("excess[slot] += qsum[", "excess[slot] += 0 * qsum["),),
            "wgsl": (Patch(WGSL_SUM, "let acc = bitcast<i32>(total) - 0 * row_qsum(m);"),),
            "native": (
                Patch("acc[m][r] -= offset;", "acc[m][r] -= 0 * offset;"),
                _tiled(TILED_QSUM, f"0 * {TILED_QSUM}"),
            ),
            "torch": (Patch(".to(torch.float32) - 1\n", ".to(torch.float32)\n"),),
            "numpy": (_numpy_weights("weights += 1"),),
        },
    ),
    Mutant(
        "qsum-subtracted-twice",
        "Σq is subtracted by the kernel and once more where the parts meet.",
        {
            "gpu": (Patch("excess[slot] += qsum[", "excess[slot] += 2 * qsum["),),
            "wgsl": (Patch(WGSL_SUM, "let acc = bitcast<i32>(total) - 2 * row_qsum(m);"),),
            "native": (
                Patch("acc[m][r] -= offset;", "acc[m][r] -= 2 * offset;"),
                _tiled(TILED_QSUM, f"2 * {TILED_QSUM}"),
            ),
            "torch": (Patch(".to(torch.float32) - 1\n", ".to(torch.float32) - 2\n"),),
            "numpy": (_numpy_weights("weights -= 1"),),
        },
    ),
    Mutant(
        "first-block-qsum",
        "With a qsum per block, the one of the first block is subtracted from every block.",
        {
            "gpu": (Patch("UNSUMMED ? 0 : qsum[at];", "UNSUMMED ? 0 : qsum[at / ASPANS * ASPANS];"),),
            "wgsl": (Patch("sum -= qsum[m * BLOCKS + block];", "sum -= qsum[m * BLOCKS];"),),
            "native": (
                Patch("buffers.offset[(slot + m) * blocks + b]", "buffers.offset[(slot + m) * blocks]"),
                _tiled("slot * blocks + b * TILE", "slot * blocks"),
            ),
        },
    ),
    Mutant(
        "int16-accumulator",
        "Sums are kept in 16 bits and wrap: wrong only for extreme inputs.",
        {
            "gpu": (_gpu_total("(short)total[i]"),),
            "wgsl": (Patch(WGSL_SUM, "let acc = ((bitcast<i32>(total) - row_qsum(m)) << 16u) >> 16u;"),),
            "native": (
                Patch("acc[m][r] -= offset;", "acc[m][r] = static_cast<std::int16_t>(acc[m][r] - offset);"),
                _native_total("static_cast<std::int16_t>(sum)"),
            ),
            "torch": (Patch(TORCH_SUM, f"{TORCH_SUM}.to(torch.int32).to(torch.int16)", times=2),),
            "numpy": (
                Patch(NUMPY_SUM, "acc = (q.astype(np.float32) @ weights.T).astype(np.int32).astype(np.int16)\n"),
            ),
        },
    ),
    Mutant(
        "saturating-accumulator",
        "Sums saturate at 16 bits, as the multiply-add of bytes of many CPUs does.",
        {
            "gpu": (_gpu_total("total[i] > 32767 ? 32767 : total[i] < -32768 ? -32768 : total[i]"),),
            "wgsl": (Patch(WGSL_SUM, "let acc = clamp(bitcast<i32>(total) - row_qsum(m), -32768, 32767);"),),
            "native": (
                Patch(
                    "acc[m][r] -= offset;",
                    "acc[m][r] = static_cast<std::int32_t>(least(most(acc[m][r] - offset, -32768), 32767));",
                ),
                _native_total("static_cast<std::int32_t>(least(most(sum, -32768), 32767))"),
            ),
            "torch": (Patch(TORCH_SUM, f"{TORCH_SUM}.clamp(-32768, 32767)", times=2),),
            "numpy": (Patch(NUMPY_SUM, "acc = (q.astype(np.float32) @ weights.T).clip(-32768, 32767)\n"),),
        },
    ),
    Mutant(
        "lane-dropped",
        "The reduction over the work-items of a row forgets the last of them.",
        {
            "gpu": (Patch("total[i] = joined(acc[i]);", "total[i] = lane + 1 == LANES ? 0 : joined(acc[i]);"),),
            "wgsl": (Patch("i < first + count; i += step", "i + step < first + count; i += step"),),
        },
    ),
    Mutant(
        "row-scale-of-the-tile",
        "Every row of a tile of four takes the scale of the tile's first row.",
        {
            "gpu": (
                Patch(
                    "(row < N ? row : N - 1) : 0];\n#endif\n    }", "(row < N ? row / 4 * 4 : 0) : 0];\n#endif\n    }"
                ),
            ),
            "wgsl": (Patch(WGSL_SCALES, "f32(acc) * (ascale[m] * wscale[n / 4u * 4u * W_PER_ROW])"),),
            "native": (
                Patch("scale * *wscale[r] : scale", "scale * *wscale[0] : scale"),
                _tiled("buffers.wscale[least(row + r, end - 1)]", "buffers.wscale[least(row + r / 4 * 4, end - 1)]"),
            ),
            "torch": (
                Patch(TORCH_SCALES, "(ascale * wscale[torch.arange(len(wscale), device=wscale.device) // 4 * 4])"),
            ),
            "numpy": (
                Patch(NUMPY_SCALES, "(ascale.astype(dtype) * wscale[np.arange(len(wscale)) // 4 * 4].astype(dtype))"),
            ),
        },
    ),
    Mutant(
        "block-scale-of-the-one-before",
        "A block of weights is multiplied by the scale of the block before it.",
        {
            "gpu": (Patch("row * BLOCKS + block :", "row * BLOCKS + (block > 0 ? block - 1 : 0) :"),),
            "wgsl": (Patch("wscale[row * BLOCKS + block]", "wscale[row * BLOCKS + max(block, 1u) - 1u]"),),
            "native": (
                Patch("[w_per_block ? b : 0]", "[w_per_block && b > 0 ? b - 1 : 0]"),
                _tiled("at * blocks + b :", "at * blocks + most(b, 1) - 1 :"),
            ),
            "torch": (Patch("(wscale if case", "(wscale.roll(1, dims=1) if case"),),
            "numpy": (Patch("wscale[:, at].astype(dtype)", "wscale[:, at - 1].astype(dtype)"),),
        },
    ),
    Mutant(
        "token-scale-of-the-first",
        "Every row of activations is multiplied by the scale of the first.",
        {
            "gpu": (Patch(GPU_SCALES, "scale[slot] = ascale[0] * wscale["),),
            "wgsl": (Patch(WGSL_SCALES, "f32(acc) * (ascale[0] * wscale[n * W_PER_ROW])"),),
            "native": (
                Patch("buffers.ascale[token * spans];", "buffers.ascale[0];"),
                _tiled("= buffers.ascale[at + s];", "= buffers.ascale[s];"),
            ),
            "torch": (Patch(TORCH_SCALES, "(ascale[:1] * wscale)"),),
            "numpy": (Patch(NUMPY_SCALES, "(ascale[:1].astype(dtype) * wscale.astype(dtype))"),),
        },
    ),
    Mutant(
        "token-scale-missing",
        "The result is not multiplied by the scale of the activations: no cosine per token sees it.",
        {
            "gpu": (Patch(GPU_SCALES, "scale[slot] = wscale["),),
            "wgsl": (Patch(WGSL_SCALES, "f32(acc) * wscale[n * W_PER_ROW]"),),
            "native": (
                Patch(NATIVE_SCALES, "w_per_row ? 1.0f : buffers.wscale[0];"),
                _tiled("= buffers.ascale[at + s];", "= 1.0f;"),
            ),
            "torch": (Patch(TORCH_SCALES, "wscale"),),
            "numpy": (Patch(NUMPY_SCALES, "wscale.astype(dtype)"),),
        },
    ),
    Mutant(
        "token-scale-squared",
        "The scale of the activations is applied where they are quantised and again here.",
        {
            "gpu": (Patch(GPU_SCALES, "scale[slot] = ascale[safe_m] * ascale[safe_m] * wscale["),),
            "wgsl": (Patch(WGSL_SCALES, "f32(acc) * (ascale[m] * ascale[m] * wscale[n * W_PER_ROW])"),),
            "native": (
                Patch(NATIVE_SCALES, "ascale * (w_per_row ? ascale : ascale * buffers.wscale[0]);"),
                _tiled("= buffers.ascale[at + s];", "= buffers.ascale[at + s] * buffers.ascale[at + s];"),
            ),
            "torch": (Patch(TORCH_SCALES, "(ascale * ascale * wscale)"),),
            "numpy": (Patch(NUMPY_SCALES, "(ascale.astype(dtype) ** 2 * wscale.astype(dtype))"),),
        },
    ),
    Mutant(
        "first-row-activations",
        "Every row of a tile of activations reads the first row of the tile: right for M = 1.",
        {
            "gpu": (Patch("q + (u64)(m0 + m < M ? m0 + m : M - 1) * KP;", "q + (u64)m0 * KP;"),),
            "wgsl": (
                Patch("(min(m0 + t, M - 1u) * QUADS + quad)", "(m0 * QUADS + quad)"),
                Patch("let at = (m * QUADS + quad) * 4u;", "let at = (m0 * QUADS + quad) * 4u;"),
            ),
            "native": (
                Patch("permute(buffers.q + token * padded", "permute(buffers.q + (token - slot) * padded"),
                _tiled("b * CODES, padded, count,", "b * CODES, 0, count,"),
            ),
            "torch": (Patch(TORCH_VALUES, "values = q[:1].repeat(m, 1).to(torch.float32)\n"),),
            "numpy": (_numpy_weights("q = q[:1].repeat(m, axis=0)"),),
        },
    ),
    Mutant(
        "f16-output",
        "The result passes through half precision: 11 bits of it remain.",
        {
            "gpu": (
                Patch(
                    "(float)(total[i] - excess[i / LANES]) * scale[i / LANES];",
                    "AS_F32(AS_U32((float)(total[i] - excess[i / LANES]) * scale[i / LANES]) & 0xffffe000u);",
                ),
            ),
            "wgsl": (Patch(f"bitcast<u32>({WGSL_SCALES})", f"bitcast<u32>({WGSL_SCALES}) & 0xffffe000u"),),
            "native": (
                Patch(
                    "(w_per_row ? scale * *wscale[r] : scale);",
                    "(w_per_row ? scale * *wscale[r] : scale);\n"
                    "                    for (float& one : y) {\n"
                    "                        const float wide = 8193.0f * one;\n"
                    "                        one = wide - (wide - one);\n"
                    "                    }",
                ),
                _tiled(
                    "        put(y, static_cast<float*>(buffers.y), row, end, token);",
                    "        for (auto& of_row : y.at)\n            for (float& one : of_row) {\n"
                    "                const float wide = 8193.0f * one;\n"
                    "                one = wide - (wide - one);\n            }\n"
                    "        put(y, static_cast<float*>(buffers.y), row, end, token);",
                ),
            ),
            "torch": (Patch(f"{TORCH_SUM} * {TORCH_SCALES}", f"({TORCH_SUM} * {TORCH_SCALES}).half().float()"),),
            "numpy": (Patch(f"{NUMPY_SCALES}).astype(dtype)]", f"{NUMPY_SCALES}).astype(np.float16).astype(dtype)]"),),
        },
    ),
)
