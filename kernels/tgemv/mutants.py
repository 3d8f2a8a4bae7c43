"""Wrong tgemv kernels: tails of rows and columns, layout of the packed words, Σq, accumulators, scales, stores."""

from kparity.ops.mutant import Mutant, Patch

TILED_FINISH = "        const std::int32_t* offset = buffers.offset + slot * blocks;\n        if (integers) {\n"


def _gpu_total(value: str) -> str:
    """The integer sum of a row replaced by an expression of it, where sums are integers."""
    loop = f"for (u32 i = 0; i < OUTPUTS; ++i) {{ total[i] = {value}; }}"
    return f"sum_rows(total, scratch);\n«→#if !SPANNED\n    {loop}\n#endif\n»"


def _tiled(marked: str) -> Patch:
    """The same defect where many rows of activations go through tiles."""
    return Patch(marked, file="tgemv/tgemm.h")


def _tensor(what: str, marked: str, times: int = 1) -> Mutant:
    """A defect of the text for tensor cores, which cuda-ptx executes."""
    return Mutant(what, only="cuda-ptx", gpu=Patch(marked, times, "prelude/ternary_mma.cu"))


def _native_total(changed: str) -> Patch:
    """Tiles: what becomes of an accumulator ``sum``."""
    return _tiled(
        "«→        for (auto& of_row : sums.at)\n            for (int t = 0; t < TILE; ++t) {\n"
        "                const std::int32_t offset = buffers.offset[slot * blocks + t], sum = of_row[t] - offset;\n"
        f"                of_row[t] = {changed} + offset;\n            }}\n»{TILED_FINISH}",
    )


def _native_order(index: str) -> tuple[str, Patch]:
    """Activations multiplied with the codes of other columns: ``index`` of column k within a block."""
    head, tail = (
        "[&] {\n                static thread_local std::int8_t turned",
        ("                return turned;\n            }()"),
    )
    return (
        f"permute(«buffers.q + token * padded + b * CODES→{head}[CODES];\n"
        "                const std::int8_t* from = buffers.q + token * padded + b * CODES;\n"
        f"                for (int k = 0; k < CODES; ++k) turned[k] = from[{index}];\n{tail}»,",
        _tiled(
            f"«buffers.q + token * padded + b * CODES, padded→{head}[TILE * CODES];\n"
            "                for (int t = 0; t < count; ++t)\n"
            "                    for (int k = 0; k < CODES; ++k)\n"
            "                        turned[t * CODES + k] = "
            f"buffers.q[(token + t) * padded + b * CODES + ({index})];\n"
            f"{tail}, CODES», count,"
        ),
    )


def _numpy_weights(change: str) -> str:
    """The weights changed where the reference has them, and nothing is multiplied yet."""
    return f'm, n = case["M"], case["N"]\n«→        {change}\n»        # f32'


def _torch_weights(change: str) -> str:
    return f"weights = (codes & 3).view(n, -1).to(torch.float32) - 1\n«→    {change}\n»"


def _torch_values(change: str) -> str:
    return f"values = q.to(torch.float32)\n«→    {change}\n»"


MUTANTS = {
    "last-tile-skipped": Mutant(
        "The loop over K ends one tile early: the last columns of every row are missing.",
        gpu="«COMPLETE || chunk→chunk + 1» < CHUNKS ? ~0u : 0;",
        wgsl=("quad = lane; quad «→+ 1u »< QUADS; quad", "span = lane; span «→+ 1u »< SPANS; span"),
        native=(
            "permuted, padded, blocks«→ - 1», ahead, acc);",
            Patch("float y[M][4] = {};\n        for (std::int64_t b = 0; b < blocks«→ - 1»;", times=2),
            _tiled("least(PIECE, blocks - «→1 - »b), slot"),
            _tiled("at < least(b + PIECE, blocks«→ - 1»); ++at) {"),
        ),
        torch=_torch_values("values[:, -64:] = 0"),
        numpy=_numpy_weights("weights[:, -64:] = 0"),
    ),
    "tail-of-k-ignored": Mutant(
        "Only whole rounds over K are taken, and what is left over is not; right for every K that divides evenly.",
        gpu="(«(CHUNKS + LANES - 1)→CHUNKS» / LANES)",
        wgsl="quad = lane; quad < QUADS«→ / LANES * LANES»; quad",
        native=(
            "permuted, padded, blocks«→ / 2 * 2», ahead, acc);",
            _tiled("least(PIECE, blocks«→ / 2 * 2» - b), slot"),
        ),
        torch=_torch_values("values[:, values.shape[1] // 512 * 512 :] = 0"),
        numpy=_numpy_weights("weights[:, weights.shape[1] // 512 * 512 :] = 0"),
    ),
    "last-row-skipped": Mutant(
        "The last row of the weights is not computed: a bound of N - 1.",
        gpu="row«→ + 1» < N && m < M) {",
        wgsl="if n«→ + 1u» < N && m < M {",
        native=("split(rows«→ - 1», 4, slice)", _tiled("split(rows«→ - 1», ROWS, slice)")),
        torch=_torch_weights("weights[-1] = 0"),
        numpy=_numpy_weights("weights[-1] = 0"),
    ),
    "odd-row-unwritten": Mutant(
        "Rows are stored two at a time and an odd one never: whatever the buffer held stays (wrong for some N only).",
        gpu="row < N«→ / 2 * 2» && m < M) {",
        wgsl="if n < N«→ / 2u * 2u» && m < M {",
        native=("r < to.count()«→ / 2 * 2»; ++r) y[", _tiled("r < width«→ / 2 * 2»; ++r)")),
    ),
    "neighbour-output": Mutant(
        "Two neighbouring rows store each other's result.",
        gpu=Patch("y[(u64)m * N + «row→((row ^ 1u) < N ? (row ^ 1u) : row)»] =", times=3),
        wgsl="y[m * N + «n→select(n, n ^ 1u, (n ^ 1u) < N)»] =",
        native=(
            "y[«→(to.row(r) ^ 1) < to.end ? to.row(r) ^ 1 : »to.row(r)] =",
            _tiled("«if (width == TILE && count == TILE) return transpose(from.at, to, rows);→»"),
            _tiled("= from.at[«→(r ^ 1) < width ? r ^ 1 : »r][t];"),
        ),
        torch=_torch_weights(
            "order = torch.arange(n, device=words.device) ^ 1\n"
            "    weights = weights[torch.where(order < n, order, order ^ 1)]"
        ),
        numpy=_numpy_weights("weights = weights[[r ^ 1 if r ^ 1 < n else r for r in range(n)]]"),
    ),
    "columns-swapped": Mutant(
        "Two neighbouring columns are exchanged: cosine and NMSE let it pass.",
        gpu=(
            "«const →»u32x4 four = active[",
            "PITCH + column];«→\n"
            "                    four.x = "
            "(four.x & 0xffff0000u) | ((four.x & 0xffu) << 8) | ((four.x & 0xff00u) >> 8);»\n",
        ),
        wgsl=(
            "dot4I8Packed(word & 0x03030303u,« act.x→\n"
            "        (act.x & 0xffff0000u) | ((act.x & 0xffu) << 8u) | ((act.x & 0xff00u) >> 8u)»)"
        ),
        native=_native_order("k < 2 ? k ^ 1 : k"),
        torch=_torch_values("values[:, [0, 1]] = values[:, [1, 0]]"),
        numpy=_numpy_weights("weights[:, [0, 1]] = weights[:, [1, 0]]"),
    ),
    "shift-order-reversed": Mutant(
        "The four fields of a byte are taken from the highest to the lowest: the layout of another packer.",
        gpu=(
            "FIELD0(word), four.«x→w»",
            "FIELD1(word), four.«y→z»",
            "FIELD2(word), four.«z→y»",
            "FIELD3(word), four.«w→x»",
        ),
        wgsl=(
            "word & 0x03030303u, act.«x→w»",
            "(word >> 2u) & 0x03030303u, act.«y→z»",
            "(word >> 4u) & 0x03030303u, act.«z→y»",
            "(word >> 6u) & 0x03030303u, act.«w→x»",
        ),
        native=_native_order("k ^ 12"),
        torch="[[«0], [2], [4], [6→6], [4], [2], [0»]]",
        numpy=_numpy_weights("weights = weights.reshape(n, -1, 4, 4)[:, :, ::-1].reshape(n, -1)"),
    ),
    "words-swapped": Mutant(
        "The first two words of four are exchanged: a 64-bit load taken for two in the other order.",
        gpu=("packed[ahead][n][0] = four.«x→y»;", "packed[ahead][n][1] = four.«y→x»;"),
        wgsl="dot16(words.«x→y», q[at]) + dot16(words.«y→x»,",
        native=_native_order("k & 32 ? k : k ^ 16"),
        torch=_torch_weights("weights = weights.view(n, -1, 4, 16)[:, :, [1, 0, 2, 3]].reshape(n, -1)"),
        numpy=_numpy_weights("weights = weights.reshape(n, -1, 4, 16)[:, :, [1, 0, 2, 3]].reshape(n, -1)"),
    ),
    "qsum-not-subtracted": Mutant(
        "The codes w + 1 are multiplied and Σq stays in the accumulator.",
        gpu="excess[slot] += «→0 * »(i32)early_u32(qsum,",
        wgsl="let acc = bitcast<i32>(total) - «→0 * »row_qsum(m);",
        native=("acc[m][r] -= «→0 * »offset;", _tiled("«→0 * »buffers.qsum[at + s]")),
        torch=".to(torch.float32)« - 1→»\n",
        numpy=_numpy_weights("weights += 1"),
    ),
    "qsum-subtracted-twice": Mutant(
        "Σq is subtracted by the kernel and once more where the parts meet.",
        gpu="excess[slot] += «→2 * »(i32)early_u32(qsum,",
        wgsl="let acc = bitcast<i32>(total) - «→2 * »row_qsum(m);",
        native=("acc[m][r] -= «→2 * »offset;", _tiled("«→2 * »buffers.qsum[at + s]")),
        torch=".to(torch.float32) - «1→2»\n",
        numpy=_numpy_weights("weights -= 1"),
    ),
    "first-block-qsum": Mutant(
        "With a qsum per block, the one of the first block is subtracted from every block.",
        gpu="UNSUMMED ? 0 : qsum[at«→ / ASPANS * ASPANS»];",
        wgsl="sum -= qsum[m * BLOCKS« + span→»];",
        native=("buffers.offset[(slot + m) * blocks« + b→»]", _tiled("slot * blocks« + b * TILE→»")),
    ),
    "int16-accumulator": Mutant(
        "Sums are kept in 16 bits and wrap: wrong only for extreme inputs.",
        gpu=_gpu_total("(short)total[i]"),
        wgsl="let acc = «→((»bitcast<i32>(total) - row_qsum(m)«→) << 16u) >> 16u»;",
        native=(
            "acc[m][r] «-= offset→= static_cast<std::int16_t>(acc[m][r] - offset)»;",
            _native_total("static_cast<std::int16_t>(sum)"),
        ),
        torch=Patch("(values @ weights.T)«→.to(torch.int32).to(torch.int16)»", times=2),
        numpy="acc = «→(»q.astype(np.float32) @ weights.T«→).astype(np.int32).astype(np.int16)»\n",
    ),
    "saturating-accumulator": Mutant(
        "Sums saturate at 16 bits, as the multiply-add of bytes of many CPUs does.",
        gpu=_gpu_total("total[i] > 32767 ? 32767 : total[i] < -32768 ? -32768 : total[i]"),
        wgsl="let acc = «→clamp(»bitcast<i32>(total) - row_qsum(m)«→, -32768, 32767)»;",
        native=(
            "acc[m][r] «-= offset→= static_cast<std::int32_t>(least(most(acc[m][r] - offset, -32768), 32767))»;",
            _native_total("static_cast<std::int32_t>(least(most(sum, -32768), 32767))"),
        ),
        torch=Patch("(values @ weights.T)«→.clamp(-32768, 32767)»", times=2),
        numpy="acc = «→(»q.astype(np.float32) @ weights.T«→).clip(-32768, 32767)»\n",
    ),
    "lane-dropped": Mutant(
        "The reduction over the work-items of a row forgets the last of them.",
        gpu="total[i] =«→ lane + 1 == LANES ? 0 :» joined(acc[i]);",
        wgsl=Patch("i«→ + step» < first + count; i += step", file="prelude/rows.wgsl"),
    ),
    "row-scale-of-the-tile": Mutant(
        "Every row of a tile of four takes the scale of the tile's first row.",
        gpu="(row < N ? row «: N - 1→/ 4 * 4 : 0») : 0);\n#endif\n    }",
        wgsl="f32(acc) * (ascale[m] * wscale[n «→/ 4u * 4u »* W_PER_ROW])",
        native=("scale * *wscale[«r→0»] : scale", _tiled("buffers.wscale[least(row + r«→ / 4 * 4», end - 1)]")),
        torch="(ascale * wscale«→[torch.arange(len(wscale), device=wscale.device) // 4 * 4]»)",
        numpy="(ascale.astype(dtype) * wscale«→[np.arange(len(wscale)) // 4 * 4]».astype(dtype))",
    ),
    "block-scale-of-the-one-before": Mutant(
        "A block of weights is multiplied by the scale of the block before it.",
        gpu="row * (KP / SPAN) + «span→(span > 0 ? span - 1 : 0)» :",
        wgsl="wscale[row * SPANS + «span→max(span, 1u) - 1u»]",
        native=("[w_per_block «? b→&& b > 0 ? b - 1» : 0]", _tiled("at * blocks + «b→most(b, 1) - 1» :")),
        torch="(wscale«→.roll(1, dims=1)» if spanned",
        numpy="wscale[:, at«→ - 1»] if",
    ),
    "scale-of-the-blocks-first-span": Mutant(
        "The spans of a block of 256 are all multiplied by the scale of its first: right where the two are one.",
        gpu="row * (KP / SPAN) + span«→ / (256 / SPAN) * (256 / SPAN)» :",
        wgsl="wscale[row * SPANS + span«→ / SPANS_OF_BLOCK * SPANS_OF_BLOCK»]",
        native="w_per_block ? «s→b * PARTS» * w_parts / PARTS : 0",
        torch="(wscale«→[:, :: 256 // span].repeat_interleave(256 // span, dim=1)» if spanned",
        numpy="wscale[:, at«→ // (256 // span) * (256 // span)»] if",
    ),
    "scales-of-blocks": Mutant(
        "A row has as many scales as blocks of 256, so that all rows but the first take those of others.",
        gpu="row * («KP / SPAN→BLOCKS») + span :",
        wgsl="wscale[row * «SPANS→BLOCKS» + span]",
        native="at * «blocks * w_parts→blocks» :",
        torch=(
            "(wscale«→.view(-1)[torch.arange(n)[:, None] * (wscale.shape[1] * span // 256) "
            "+ torch.arange(wscale.shape[1])]» if spanned"
        ),
        numpy="wscale«[:, at]→.flat[np.arange(len(wscale)) * self.blocks(case) + at]» if",
    ),
    "scale-of-the-other-half": Mutant(
        "Of two spans of 32 activations each has the scale of the other.",
        gpu="2 * chunk + «i / TILE_M→(1 - i / TILE_M)» :",
        wgsl=("f32(low) * (ascale[span«→ + 1u»]", "f32(high) * (ascale[span« + 1u→»]"),
        native="a_per_32 ? «s→(s ^ 1)» :",
        torch='== "block256" else ascale«→[:, torch.arange(ascale.shape[1]) ^ (ascale.shape[1] > 1)]»)',
        numpy='start // ACTS[case["ascale"]]«→ ^ (step < 64)»]',
    ),
    "token-scale-of-the-first": Mutant(
        "Every row of activations is multiplied by the scale of the first.",
        gpu="active_scale[slot] = early_u32(ascale, «safe_m→0»);",
        wgsl="f32(acc) * (ascale[«m→0»] * wscale[n * W_PER_ROW])",
        native=("buffers.ascale[«token * sums→0»];", _tiled("= buffers.ascale[«at + →»s];")),
        torch="(ascale«→[:1]» * wscale)",
        numpy="(ascale«→[:1]».astype(dtype) * wscale.astype(dtype))",
    ),
    "token-scale-missing": Mutant(
        "The result is not multiplied by the scale of the activations: no cosine per token sees it.",
        gpu="const float scale = «AS_F32(active_scale[i / LANES]) * →»AS_F32(",
        wgsl="f32(acc)« * (ascale[m]→» * wscale[n * W_PER_ROW]«)→»",
        native=(
            "w_per_row ? «ascale : ascale *→1.0f :» buffers.wscale[0];",
            _tiled("= «buffers.ascale[at + s]→1.0f»;"),
        ),
        torch="«(ascale * wscale)→wscale»",
        numpy="«(ascale.astype(dtype) * →»wscale.astype(dtype)«)→»",
    ),
    "token-scale-squared": Mutant(
        "The scale of the activations is applied where they are quantised and again here.",
        gpu="const float scale = «→AS_F32(active_scale[i / LANES]) * »AS_F32(active",
        wgsl="f32(acc) * («→ascale[m] * »ascale[m] * wscale[n * W_PER_ROW])",
        native=(
            "«→ascale * (»w_per_row ? ascale : ascale * buffers.wscale[0]«→)»;",
            _tiled("= buffers.ascale[at + s]«→ * buffers.ascale[at + s]»;"),
        ),
        torch="(«→ascale * »ascale * wscale)",
        numpy="(ascale.astype(dtype)«→ ** 2» * wscale.astype(dtype))",
    ),
    "first-row-activations": Mutant(
        "Every row of a tile of activations reads the first row of the tile: right for M = 1.",
        gpu="q + (u64)«(m0 + m < M ? m0 + m : M - 1)→m0» * KP;",
        wgsl=("(«min(m0 + t, M - 1u)→m0» * QUADS + quad)", "let at = («m→m0» * QUADS + quad) * 4u;"),
        native=("permute(buffers.q + «token→(token - slot)» * padded", _tiled("b * CODES, «padded→0», count,")),
        torch="values = q«→[:1].repeat(m, 1)».to(torch.float32)\n",
        numpy=_numpy_weights("q = q[:1].repeat(m, axis=0)"),
    ),
    "f16-output": Mutant(
        "The result passes through half precision: 11 bits of it remain.",
        gpu="«→AS_F32(AS_U32(»(float)(total[i] - excess[i / LANES]) * scale«→) & 0xffffe000u)»;",
        wgsl="bitcast<u32>(f32(acc) * (ascale[m] * wscale[n * W_PER_ROW]))«→ & 0xffffe000u»",
        native=(
            "(w_per_row ? scale * *wscale[r] : scale);«→\n"
            "                    for (float& one : y) {\n"
            "                        const float wide = 8193.0f * one;\n"
            "                        one = wide - (wide - one);\n"
            "                    }»",
            _tiled(
                "«→        for (auto& of_row : y.at)\n"
                "            for (float& one : of_row) {\n"
                "                const float wide = 8193.0f * one;\n"
                "                one = wide - (wide - one);\n"
                "            }\n"
                "»        put(y, static_cast<float*>(buffers.y), row, end, token);",
            ),
        ),
        torch="«→(»(values @ weights.T) * (ascale * wscale)«→).half().float()»",
        numpy="(ascale.astype(dtype) * wscale.astype(dtype))).astype«→(np.float16).astype»(dtype)]",
    ),
    "barrier-before-the-copy": Mutant(
        "The barrier that keeps activations from being read before they are copied stands before the copy.",
        only="cuda-ptx",
        gpu=(
            "«→        BARRIER();\n»        UNROLL_ALWAYS for (u32 m = 0; m < TILE_M; ++m) {\n"
            "            UNROLL_ALWAYS for (u32 i = 0; i < STAGED; ++i) {\n"
            "                const u32 piece = LANE + i * BLOCK;\n                KEEP(",
            "«        BARRIER();\n→»        ISSUED(); /* no product",
        ),
    ),
    "tensor-rows-exchanged": _tensor(
        "Tensor cores: the registers of rows g and g + 8 of a fragment of weights are exchanged.",
        "pieces[slab * LANE_ROWS + «i→(i + 1)» % LANE_ROWS]",
    ),
    "tensor-columns-exchanged": _tensor(
        "Tensor cores: the two halves of the columns of a fragment of activations are exchanged.",
        "word_of(tokens[at][n], first + «i→(i ^ 1)»)",
    ),
    "tensor-token-of-neighbour": _tensor(
        "Tensor cores: a lane brings the activations of its neighbour's token.", "TOKENS + LANE_ROW(lane«→ ^ 4»);"
    ),
    "tensor-sums-transposed": _tensor(
        "Tensor cores: a lane stores its sums as if it had columns t and t + 4 of a fragment, not 2t and 2t + 1.",
        "SUM_TOKEN(lane, at) («2 * ((lane) % 4) + (at) % 2→(lane) % 4 + (at) % 2 * 4»)",
    ),
    "tensor-step-of-k": _tensor(
        "Tensor cores: the second step within a word takes the codes from two bits on, not from four.",
        ">> 2 * (first«→ / 2» + i / LANE_ROWS)",
    ),
    "tensor-tile-missing": _tensor(
        "Tensor cores: the last eight tokens of a tile are not multiplied.",
        "n < FRAGMENTS«→ - 1»; ++n) {\n                    u32 active",
    ),
    "tensor-block-missing": _tensor(
        "Tensor cores: the last block of K is not multiplied.", "block < MATRIX_BLOCKS«→ - 1»; block += SHARERS_OF_K"
    ),
    "tensor-share-missing": _tensor(
        "Tensor cores: the share of the last warp is not added.", "other < SHARERS_OF_K«→ - 1»; ++other"
    ),
    "tensor-tokens-past-the-end": _tensor(
        "Tensor cores: tokens past the end are stored.", "if (row < N« && m < M→») {"
    ),
    "tensor-codes-not-undone": _tensor(
        "Tensor cores: the sum of the activations is not subtracted.", "total« - excess→»", 2
    ),
}
