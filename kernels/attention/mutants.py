"""Wrong attention kernels: mask, softmax and scale, online rescale, maps of heads, tiles of keys, log-sum-exp."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

GPU_VISIBLE = "(pos[row] < L ? pos[row] : L - 1) + 1"
GPU_LSE = "group_top[h] + LOG(group_total[h])"
GPU_MERGED_LSE = "top + LOG(total)"
WGSL_KEYS = "clamp(pos[group.y], -1, i32(L) - 1) + 1"
WGSL_LSE = "top + log(total)"
NATIVE_KEYS = "least(static_cast<std::int64_t>(pos[row]) + 1, capacity)"
NATIVE_LSE = "*lse = top + logf(all);"
TORCH_HIDDEN = "> pos[:, None]  #"
TORCH_COUNT = 'int(pos.max()) + 1, case["L"])'
TORCH_SCALE = ' * case["D"] ** -0.5'
TORCH_LSE = "scores.logsumexp(dim=-1)"
NUMPY_KEYS = 'np.minimum(pos + 1, case["L"])'
NUMPY_OUT = "out = np.zeros((m_count, heads, d), dtype)"
NUMPY_WEIGHTS = "weights = np.exp(scores - top)\n"
NUMPY_LSE = "(top + np.log(total))"


def _numpy_caches(change: str) -> Patch:
    """Keys and values [L, G, D] as the reference sees them, changed before they are used."""
    return Patch(NUMPY_OUT, f"{change}\n        {NUMPY_OUT}")


def _lse(gpu: str, merged: str, wgsl: str, native: str, torch: str, numpy: str) -> dict[str, tuple[Patch, ...]]:
    """The log-sum-exp of a row that sees keys, written otherwise."""
    return {
        "gpu": (Patch(GPU_LSE, gpu), Patch(GPU_MERGED_LSE, merged)),
        "wgsl": (Patch(WGSL_LSE, wgsl),),
        "native": (Patch(NATIVE_LSE, f"*lse = {native};"),),
        "torch": (Patch(TORCH_LSE, torch),),
        "numpy": (Patch(NUMPY_LSE, numpy),),
    }


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "mask-one-more",
        "A query sees one key too many: the mask compares with the position after its own.",
        {
            "gpu": (Patch(GPU_VISIBLE, "(pos[row] + 1 < L ? pos[row] + 1 : L - 1) + 1"),),
            "wgsl": (Patch(WGSL_KEYS, "clamp(pos[group.y] + 1, -1, i32(L) - 1) + 1"),),
            "native": (Patch(NATIVE_KEYS, "least(static_cast<std::int64_t>(pos[row]) + 2, capacity)"),),
            "torch": (
                Patch(TORCH_HIDDEN, "> pos[:, None] + 1  #"),
                Patch(TORCH_COUNT, 'int(pos.max()) + 2, case["L"])'),
            ),
            "numpy": (Patch(NUMPY_KEYS, 'np.minimum(pos + 2, case["L"])'),),
        },
    ),
    Mutant(
        "mask-one-less",
        "A query does not see its own key: the mask is strict.",
        {
            "gpu": (Patch(GPU_VISIBLE, "(pos[row] - 1 < L ? pos[row] - 1 : L - 1) + 1"),),
            "wgsl": (Patch(WGSL_KEYS, "clamp(pos[group.y] - 1, -1, i32(L) - 1) + 1"),),
            "native": (Patch(NATIVE_KEYS, "least(static_cast<std::int64_t>(pos[row]), capacity)"),),
            "torch": (Patch(TORCH_HIDDEN, ">= pos[:, None]  #"),),
            "numpy": (Patch(NUMPY_KEYS, 'np.minimum(pos, case["L"])'),),
        },
    ),
    Mutant(
        "no-mask",
        "Every query sees the whole cache: what was stored after it, and what was never stored.",
        {
            "gpu": (Patch(GPU_VISIBLE, "L"),),
            "wgsl": (Patch(WGSL_KEYS, "i32(L)"),),
            "native": (Patch(NATIVE_KEYS, "capacity"),),
            "torch": (Patch(TORCH_HIDDEN, '> case["L"]  #'),),
            "numpy": (Patch(NUMPY_KEYS, 'np.full_like(pos, case["L"])'),),
        },
    ),
    Mutant(
        "position-of-the-first-row",
        "Every query is masked by the position of the first: prefill is wrong where single steps are right.",
        {
            "gpu": (Patch(GPU_VISIBLE, "(pos[0] < L ? pos[0] : L - 1) + 1"),),
            "wgsl": (Patch(WGSL_KEYS, "clamp(pos[0], -1, i32(L) - 1) + 1"),),
            "native": (Patch(NATIVE_KEYS, "least(static_cast<std::int64_t>(pos[0]) + 1, capacity)"),),
            "torch": (Patch(TORCH_HIDDEN, "> pos[:1, None]  #"),),
            "numpy": (Patch(NUMPY_KEYS, 'np.minimum(np.full_like(pos, pos[0]) + 1, case["L"])'),),
        },
    ),
    Mutant(
        "scale-missing",
        "Scores are not divided by the root of D.",
        {
            "gpu": (
                Patch("scores[ahead * TILE_H + h] * SCALE)", "scores[ahead * TILE_H + h])"),
                Patch("scores[at] * SCALE - new_top", "scores[at] - new_top"),
            ),
            "wgsl": (Patch("product * SCALE", "product"),),
            "native": (Patch("products[h * J + i] * scale;", "products[h * J + i];"),),
            "torch": (Patch(TORCH_SCALE, ""),),
            "numpy": (Patch("1.0 / np.sqrt(d), dtype", "1.0, dtype"),),
        },
    ),
    Mutant(
        "scale-of-one-over-d",
        "Scores are divided by D instead of its root.",
        {
            "gpu": (
                Patch("scores[ahead * TILE_H + h] * SCALE)", "scores[ahead * TILE_H + h] * SCALE * SCALE)"),
                Patch("scores[at] * SCALE - new_top", "scores[at] * SCALE * SCALE - new_top"),
            ),
            "wgsl": (Patch("product * SCALE", "product * SCALE * SCALE"),),
            "native": (Patch("products[h * J + i] * scale;", "products[h * J + i] * scale * scale;"),),
            "torch": (Patch(TORCH_SCALE, ' / case["D"]'),),
            "numpy": (Patch("1.0 / np.sqrt(d), dtype", "1.0 / d, dtype"),),
        },
    ),
    Mutant(
        "maximum-not-subtracted",
        "Exponentials are taken of the scores themselves: right until one of them overflows.",
        {
            "gpu": (Patch("new_top = FMAX(new_top, scores[ahead * TILE_H + h] * SCALE);", "new_top = 0.0f;"),),
            "wgsl": (Patch("new_top = max(new_top, fold[i * CHUNK]);", "new_top = 0.0;"),),
            "native": (
                Patch("const float top = largest(best);", "const float top = 0 * largest(best);"),
                Patch("exp_neg(sub(load(scores + j, Full{}), set1(top)))", "exponential(scores + j)"),
                Patch(
                    "    // scores to exp(score - top)",
                    "    static F exponential(const float* scores) {\n"
                    "        float values[W];\n"
                    "        for (int i = 0; i < W; ++i) values[i] = expf(scores[i]);\n"
                    "        return load(values, Full{});\n"
                    "    }\n\n    // scores to exp(score - top)",
                ),
            ),
            "torch": (Patch("scores.softmax(dim=-1)", "(scores.exp() / scores.exp().sum(dim=-1, keepdim=True))"),),
            "numpy": (Patch("top = scores.max(axis=-1, keepdims=True)", "top = np.zeros_like(scores[..., :1])"),),
        },
    ),
    Mutant(
        "sum-not-rescaled",
        "The online softmax forgets to rescale the weighted sum of values when the maximum grows.",
        {
            "gpu": (
                Patch(
                    "total[h] *= keep;\n            UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {\n"
                    "                acc[h][i] *= keep;\n            }\n",
                    "total[h] *= keep;\n",
                ),
            ),
            "wgsl": (Patch("var part = acc[i] * decay;", "var part = acc[i];"),),
        },
    ),
    Mutant(
        "total-not-rescaled",
        "The online softmax forgets to rescale the sum of weights when the maximum grows.",
        {
            "gpu": (Patch("            total[h] *= keep;\n", ""),),
            "wgsl": (Patch("sum = sum * decay + mine;", "sum = sum + mine;"),),
        },
    ),
    Mutant(
        "heads-by-remainder",
        "Query head h reads key-value head h % G instead of h / (H / G).",
        {
            "gpu": (Patch("(head0 / (H / G)) * D", "(head0 % G) * D"),),
            "wgsl": (Patch("group.x / (H / G)", "group.x % G"),),
            "native": (Patch("group = head / share,", "group = head % groups,"),),
            "torch": (Patch("repeat_interleave(shared, dim=1)", "repeat(1, shared, 1)"),),
            "numpy": (
                _numpy_caches(
                    "kcache, vcache = (np.tile(cache, (1, heads // groups, 1)) for cache in (kcache, vcache))\n"
                    "        groups = heads"
                ),
            ),
        },
    ),
    Mutant(
        "values-of-the-first-head",
        "Values come from the first key-value head, whatever head the keys come from.",
        {
            "gpu": (Patch("vcache + (u64)held * ROW + offset", "vcache + (u64)held * ROW", times=2),),
            "wgsl": (
                Patch("value_pair(((base + j) * G + head) * PAIRS + p)", "value_pair((base + j) * G * PAIRS + p)"),
            ),
            "native": (Patch("const T* v = vcache + group * width;", "const T* v = vcache;"),),
            "torch": (
                Patch("for cache in (kcache, vcache))", "for cache in (kcache, vcache[:, :1].expand_as(vcache)))"),
            ),
            "numpy": (_numpy_caches("vcache = vcache[:, :1].repeat(groups, axis=1)"),),
        },
    ),
    Mutant(
        "keys-and-values-exchanged",
        "The two caches are bound in each other's place.",
        {
            "gpu": (
                Patch("load_part(kcache + (u64)key", "load_part(vcache + (u64)key"),
                Patch("vcache + (u64)held", "kcache + (u64)held", times=2),
            ),
            "wgsl": (
                Patch("@binding(1) var<storage, read> kcache", "@binding(2) var<storage, read> kcache"),
                Patch("@binding(2) var<storage, read> vcache", "@binding(1) var<storage, read> vcache"),
            ),
            "native": (
                Patch("kcache = static_cast<const T*>(args[1]);", "kcache = static_cast<const T*>(args[2]);"),
                Patch("vcache = static_cast<const T*>(args[2]);", "vcache = static_cast<const T*>(args[1]);"),
            ),
            "torch": (Patch("q, kcache, vcache, pos = inputs", "q, vcache, kcache, pos = inputs"),),
            "numpy": (Patch("kcache, vcache = (cache[:most]", "vcache, kcache = (cache[:most]"),),
        },
    ),
    Mutant(
        "last-tile-skipped",
        "Only whole tiles of keys are taken: the newest keys are missing, as often as not.",
        {
            "gpu": (Patch("tile < end; tile += BATCH", "tile + BATCH <= end; tile += BATCH"),),
            "wgsl": (Patch("base < keys; base += BLOCK", "base + BLOCK <= keys; base += BLOCK"),),
            "native": (Patch(NATIVE_KEYS, f"{NATIVE_KEYS} / 16 * 16"),),
            "torch": (Patch(TORCH_HIDDEN, ">= (pos[:, None] + 1) // 32 * 32  #"),),
            "numpy": (Patch(NUMPY_KEYS, f"{NUMPY_KEYS} // 32 * 32"),),
        },
    ),
    Mutant(
        "boundary-key-twice",
        "A key at the boundary of two tiles is counted in both.",
        {
            "gpu": (Patch("tile < end; tile += BATCH", "tile < end; tile += BATCH - 1"),),
            "wgsl": (Patch("base < keys; base += BLOCK", "base < keys; base += BLOCK - 1u"),),
            "native": (
                Patch(
                    "store(scores + j, Full{}, weight);\n            total = add(total, weight);",
                    "store(scores + j, Full{}, weight);\n            total = add(total, weight);\n"
                    "            if (j > 0) total = add(total, load(scores + j - 1, Part{1}));",
                ),
            ),
            "torch": (
                Patch(
                    "    weights = scores.softmax",
                    "    scores[..., 31::32] += 0.69314718\n    weights = scores.softmax",
                ),
            ),
            "numpy": (Patch(NUMPY_WEIGHTS, f"{NUMPY_WEIGHTS}            weights[..., 31::32] *= 2\n"),),
        },
    ),
    Mutant(
        "stale-keys-read",
        "What lies beyond the visible keys is multiplied by a weight of 0: NaN, where the cache holds one.",
        {
            "gpu": (Patch("held = key < end ? key : end - 1;", "held = key < L ? key : L - 1;"),),
            "wgsl": (Patch("let count = min(keys - base, BLOCK);", "let count = min(L - base, BLOCK);"),),
            "native": (Patch("j < part.end; ++j)", "j < least(ceil_div(part.end, W) * W, capacity); ++j)"),),
            "torch": (Patch(f"count = min({TORCH_COUNT}", 'count = case["L"]'),),
            "numpy": (
                Patch("(cache[:most].astype(dtype)", "(cache.astype(dtype)"),
                Patch(
                    "weights / total, vcache[:count])",
                    "np.pad(weights / total, ((0, 0), (0, 0), (0, len(vcache) - count))), vcache)",
                ),
            ),
        },
    ),
    Mutant(
        "weights-in-half-precision",
        "Softmax weights pass through 11 bits before they meet the values, and their sum does not.",
        {
            "gpu": (
                Patch(
                    "FMA(scores[ahead * TILE_H + h], value[i]",
                    "FMA(AS_F32(AS_U32(scores[ahead * TILE_H + h]) & 0xffffe000u), value[i]",
                ),
            ),
            "wgsl": (Patch("weight[lane] = mine;", "weight[lane] = bitcast<f32>(bitcast<u32>(mine) & 0xffffe000u);"),),
            "native": (
                Patch(
                    "const F weight = set1(weights[h * stride() + j]);",
                    "const float exact = weights[h * stride() + j];\n"
                    "                const F weight = set1(exact - 8193.0f * exact + 8193.0f * exact);",
                ),
            ),
            "torch": (Patch('"mhl,lhd->mhd", weights, v', '"mhl,lhd->mhd", weights.half().float(), v'),),
            "numpy": (Patch("weights / total, vcache", "(weights / total).astype(np.float16).astype(dtype), vcache"),),
        },
    ),
    Mutant(
        "empty-row-is-nan",
        "A query without a key divides 0 by 0.",
        {
            "gpu": (
                Patch("count > 0 ? sum / group_total[h] : 0.0f", "sum / group_total[h]"),
                Patch("count > 0 ? acc / total : 0.0f", "acc / total"),
            ),
            "wgsl": (Patch("if keys > 0u {\n                value", "if keys >= 0u {\n                value"),),
            "native": (Patch("if (keys <= 0) {", "if (keys < 0) {"),),
            "torch": (Patch(".masked_fill((pos < 0)[:, None, None], 0.0)", ""),),
            "numpy": (Patch(NUMPY_OUT, "out = np.full((m_count, heads, d), np.nan, dtype)"),),
        },
    ),
    Mutant(
        "empty-row-lse-is-zero",
        "The log-sum-exp of a query without a key is 0 instead of minus infinity: a merge would give it weight.",
        {
            "gpu": (Patch(": MINUS_INF;", ": 0.0f;", times=2),),
            "wgsl": (Patch("lse[row] = MINUS_INFINITY_BITS;", "lse[row] = 0u;"),),
            "native": (Patch("lse[h] = -INFINITY;", "lse[h] = 0.0f;"),),
            "torch": (Patch(TORCH_LSE, f"{TORCH_LSE}.masked_fill((pos < 0)[:, None], 0.0)"),),
            "numpy": (Patch("np.full((m_count, heads), -np.inf, dtype)", "np.zeros((m_count, heads), dtype)"),),
        },
    ),
    Mutant(
        "lse-in-base-two",
        "The log-sum-exp is given in units of ln 2.",
        _lse(
            f"({GPU_LSE}) * 1.44269504f",
            f"({GPU_MERGED_LSE}) * 1.44269504f",
            f"({WGSL_LSE}) * 1.44269504",
            "(top + logf(all)) * 1.44269504f",
            f"{TORCH_LSE} / 0.69314718",
            f"({NUMPY_LSE} / np.log(2))",
        ),
    ),
    Mutant(
        "lse-without-the-maximum",
        "The maximum that was subtracted is not added to the logarithm again.",
        _lse(
            "LOG(group_total[h])",
            "LOG(total)",
            "log(total)",
            "logf(all)",
            "(scores - scores.amax(dim=-1, keepdim=True)).logsumexp(dim=-1)",
            "np.log(total)",
        ),
    ),
    Mutant(
        "parts-merged-unweighted",
        "Parts of the keys are added without bringing them to a common maximum.",
        {"gpu": (Patch("tops[part] = rescale(tops[part], top);", "tops[part] = 1.0f;"),)},
    ),
    Mutant(
        "last-part-not-merged",
        "The merge counts whole parts of the keys only and forgets the last one.",
        {"gpu": (Patch("(count + share_of(count) - 1) / share_of(count)", "count / share_of(count)"),)},
    ),
)
