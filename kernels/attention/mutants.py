"""Wrong attention kernels: mask, softmax and scale, online rescale, maps of heads, tiles of keys, log-sum-exp."""

from kparity.ops.mutant import Mutant, Patch

MUTANTS = {
    "mask-one-more": Mutant(
        "A query sees one key too many: the mask compares with the position after its own.",
        gpu="(pos[row]«→ + 1» < L ? pos[row]«→ + 1» : L - 1) + 1",
        wgsl="clamp(pos[group.y]«→ + 1», -1, i32(L) - 1) + 1",
        native="least(static_cast<std::int64_t>(pos[row]) + «1→2», capacity)",
        torch=("> pos[:, None]«→ + 1»  #", 'int(pos.max()) + «1→2», case["L"])'),
        numpy='np.minimum(pos + «1→2», case["L"])',
    ),
    "mask-one-less": Mutant(
        "A query does not see its own key: the mask is strict.",
        gpu="(pos[row]«→ - 1» < L ? pos[row]«→ - 1» : L - 1) + 1",
        wgsl="clamp(pos[group.y]«→ - 1», -1, i32(L) - 1) + 1",
        native="least(static_cast<std::int64_t>(pos[row])« + 1→», capacity)",
        torch=">«→=» pos[:, None]  #",
        numpy='np.minimum(pos« + 1→», case["L"])',
    ),
    "no-mask": Mutant(
        "Every query sees the whole cache: what was stored after it, and what was never stored.",
        gpu="«(pos[row] < L ? pos[row] : L - 1) + 1→L»",
        wgsl="«clamp(pos[group.y], -1, i32(L) - 1) + 1→i32(L)»",
        native="«least(static_cast<std::int64_t>(pos[row]) + 1, capacity)→capacity»",
        torch='> «pos[:, None]→case["L"]»  #',
        numpy='np.«minimum(pos + 1→full_like(pos», case["L"])',
    ),
    "position-of-the-first-row": Mutant(
        "Every query is masked by the position of the first: prefill is wrong where single steps are right.",
        gpu="(pos[«row→0»] < L ? pos[«row→0»] : L - 1) + 1",
        wgsl="clamp(pos[«group.y→0»], -1, i32(L) - 1) + 1",
        native="least(static_cast<std::int64_t>(pos[«row→0»]) + 1, capacity)",
        torch="> pos[:«→1», None]  #",
        numpy='np.minimum(«pos→np.full_like(pos, pos[0])» + 1, case["L"])',
    ),
    "scale-missing": Mutant(
        "Scores are not divided by the root of D.",
        gpu=("scores[ahead * TILE_H + h]« * SCALE→»)", "scores[at] «* SCALE →»- new_top"),
        wgsl="product« * SCALE→»",
        native="products[h * J + i]« * scale→»;",
        torch='« * case["D"] ** -0.5→»',
        numpy="1.0« / np.sqrt(d)→», dtype",
    ),
    "scale-of-one-over-d": Mutant(
        "Scores are divided by D instead of its root.",
        gpu=("scores[ahead * TILE_H + h] * SCALE«→ * SCALE»)", "scores[at] * SCALE «→* SCALE »- new_top"),
        wgsl="product * SCALE«→ * SCALE»",
        native="products[h * J + i] * scale«→ * scale»;",
        torch=' «*→/» case["D"]« ** -0.5→»',
        numpy="1.0 / «np.sqrt(d)→d», dtype",
    ),
    "maximum-not-subtracted": Mutant(
        "Exponentials are taken of the scores themselves: right until one of them overflows.",
        gpu="new_top = «FMAX(new_top, scores[ahead * TILE_H + h] * SCALE)→0.0f»;",
        wgsl="new_top = «max(top, bitcast<f32>(joined(MAX_F32, 0u, FOLD)))→0.0»;",
        native=(
            "const float top = «→0 * »largest(best);",
            "«exp_neg(sub(load(scores + j, Full{}), set1(top)))→exponential(scores + j)»",
            "«→    static F exponential(const float* scores) {\n"
            "        float values[W];\n"
            "        for (int i = 0; i < W; ++i) values[i] = expf(scores[i]);\n"
            "        return load(values, Full{});\n"
            "    }\n"
            "\n"
            "»    // scores to exp(score - top)",
        ),
        torch="«scores.softmax(dim=-1)→(scores.exp() / scores.exp().sum(dim=-1, keepdim=True))»",
        numpy="top = «scores.max(axis=-1, keepdims=True)→np.zeros_like(scores[..., :1])»",
    ),
    "sum-not-rescaled": Mutant(
        "The online softmax forgets to rescale the weighted sum of values when the maximum grows.",
        gpu=(
            "total[h] *= keep;\n"
            "«            UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {\n"
            "                acc[h][i] *= keep;\n"
            "            }\n"
            "→»"
        ),
        wgsl="var part = acc[i]« * decay→»;",
    ),
    "total-not-rescaled": Mutant(
        "The online softmax forgets to rescale the sum of weights when the maximum grows.",
        gpu="«            total[h] *= keep;\n→»",
        wgsl="sum = sum «* decay →»+ mine;",
    ),
    "heads-by-remainder": Mutant(
        "Query head h reads key-value head h % G instead of h / (H / G).",
        gpu="(head0 «/ (H / G)→% G») * D",
        wgsl="group.x «/ (H / G)→% G»",
        native="group = head «/ share→% groups»,",
        torch="«repeat_interleave(shared, dim=→repeat(1, shared, »1)",
        numpy=(
            "«→kcache, vcache = (np.tile(cache, (1, heads // groups, 1)) for cache in (kcache, vcache))\n"
            "        groups = heads\n"
            "        »out = np.zeros((m_count, heads, d), dtype)"
        ),
    ),
    "values-of-the-first-head": Mutant(
        "Values come from the first key-value head, whatever head the keys come from.",
        gpu="vcache + (u64)PLACE(held(tile, ahead, slot, end)) * ROW« + offset→»",
        wgsl="value_pair«(→»((base + j) * G «+ head) →»* PAIRS + p)",
        native="const T* v = vcache« + group * width→»;",
        torch="for cache in (kcache, vcache«→[:, :1].expand_as(vcache)»))",
        numpy="«→vcache = vcache[:, :1].repeat(groups, axis=1)\n        »out = np.zeros((m_count, heads, d), dtype)",
    ),
    "keys-and-values-exchanged": Mutant(
        "The two caches are bound in each other's place.",
        gpu=(
            "load_waiting(«kcache→vcache» + (u64)PLACE(held(begin,",
            "load_waiting(«vcache→kcache» + (u64)PLACE(held(tile, ahead",
            "load_waiting(«kcache→vcache» + (u64)PLACE(held(tile + BATCH,",
        ),
        wgsl=("@binding(«1→2») var<storage, read> kcache", "@binding(«2→1») var<storage, read> vcache"),
        native=("kcache = static_cast<const T*>(args[«1→2»]);", "vcache = static_cast<const T*>(args[«2→1»]);"),
        torch="q, «kcache, vcache→vcache, kcache», pos = inputs",
        numpy="«kcache, vcache→vcache, kcache» = (cache[:most]",
    ),
    "last-tile-skipped": Mutant(
        "Only whole tiles of keys are taken: the newest keys are missing, as often as not.",
        gpu="tile «<→+ BATCH <=» end; tile += BATCH",
        wgsl="base «<→+ BLOCK <=» keys; base += BLOCK",
        native="least(static_cast<std::int64_t>(pos[row]) + 1, capacity)«→ / 16 * 16»",
        torch=">« pos[:, None]→= (pos[:, None] + 1) // 32 * 32»  #",
        numpy='np.minimum(pos + 1, case["L"])«→ // 32 * 32»',
    ),
    "boundary-key-twice": Mutant(
        "A key at the boundary of two tiles is counted in both.",
        gpu="tile < end; tile += BATCH«→ - 1»",
        wgsl="base < keys; base += BLOCK«→ - 1u»",
        native=(
            "store(scores + j, Full{}, weight);\n"
            "            total = add(total, weight);«→\n"
            "            if (j > 0) total = add(total, load(scores + j - 1, Part{1}));»"
        ),
        torch="«→    scores[..., 31::32] += 0.69314718\n»    weights = scores.softmax",
        numpy="weights = np.exp(scores - top)«→\n            weights[..., 31::32] *= 2»\n",
    ),
    "stale-keys-read": Mutant(
        "What lies beyond the visible keys is multiplied by a weight of 0: NaN, where the cache holds one.",
        gpu="const i32 last = «end > 0 ? end - 1 : 0→L - 1»;",
        wgsl="let count = min(«keys→L» - base, BLOCK);",
        native="j < «part.end→least(ceil_div(part.end, W) * W, capacity)»; ++j)",
        torch='count = «min(int(pos.max()) + 1, case["L"])→case["L"]»',
        numpy=(
            "(cache«[:most]→».astype(dtype)",
            "«weights / total @ vcache[:count]→"
            "np.pad(weights / total, ((0, 0), (0, 0), (0, len(vcache) - count))) @ vcache»",
        ),
    ),
    "weights-in-half-precision": Mutant(
        "Softmax weights pass through 11 bits before they meet the values, and their sum does not.",
        gpu="FMA«→(AS_F32(AS_U32»(scores[ahead * TILE_H + h]«→) & 0xffffe000u)», value[i]",
        wgsl="weight[lane] = «mine→bitcast<f32>(bitcast<u32>(mine) & 0xffffe000u)»;",
        native=(
            "const «F weight = set1(weights[h * stride() + j])→float exact = weights[h * stride() + j];\n"
            "                const F weight = set1(exact - 8193.0f * exact + 8193.0f * exact)»;"
        ),
        torch='"mhl,lhd->mhd", weights«→.half().float()», v',
        numpy="«→(»weights / total«→).astype(np.float16).astype(dtype)» @ vcache",
    ),
    "empty-row-is-nan": Mutant(
        "A query without a key divides 0 by 0.",
        gpu=("«count > 0 ? →»sum / group_total[h]« : 0.0f→»", "«count > 0 ? →»sum / all« : 0.0f→»"),
        wgsl="if keys >«→=» 0u {\n                value",
        native="if (keys <«=→» 0) {",
        torch="«.masked_fill((pos < 0)[:, None, None], 0.0)→»",
        numpy="out = np.«zeros→full»((m_count, heads, d), «→np.nan, »dtype)",
    ),
    "empty-row-lse-is-zero": Mutant(
        "The log-sum-exp of a query without a key is 0 instead of minus infinity: a merge would give it weight.",
        gpu=Patch(": «MINUS_INF→0.0f»;", times=2),
        wgsl="lse[row] = «MINUS_INFINITY_BITS→0u»;",
        native="lse[h] = «-INFINITY→0.0f»;",
        torch="scores.logsumexp(dim=-1)«→.masked_fill((pos < 0)[:, None], 0.0)»",
        numpy="np.«full→zeros»((m_count, heads), «-np.inf, →»dtype)",
    ),
    "lse-in-base-two": Mutant(
        "The log-sum-exp is given in units of ln 2.",
        gpu=("«→(»group_top[h] + LOG(group_total[h])«→) * 1.44269504f»", "«→(»largest[h] + LOG(all)«→) * 1.44269504f»"),
        wgsl="«→(»top + log(total)«→) * 1.44269504»",
        native="*lse = «→(»top + logf(all)«→) * 1.44269504f»;",
        torch="scores.logsumexp(dim=-1)«→ / 0.69314718»",
        numpy="«→(»(top + np.log(total))«→ / np.log(2))»",
    ),
    "lse-without-the-maximum": Mutant(
        "The maximum that was subtracted is not added to the logarithm again.",
        gpu=("«group_top[h] + →»LOG(group_total[h])", "«largest[h] + →»LOG(all)"),
        wgsl="«top + →»log(total)",
        native="*lse =« top +→» logf(all);",
        torch="«scores→(scores - scores.amax(dim=-1, keepdim=True))».logsumexp(dim=-1)",
        numpy="«(top + np.log(total))→np.log(total)»",
    ),
    "parts-merged-unweighted": Mutant(
        "Parts of the keys are added without bringing them to a common maximum.",
        gpu="tops[at] = «rescale(tops[at], largest[at / SPLITS])→1.0f»;",
    ),
    "last-part-not-merged": Mutant(
        "The merge counts whole parts of the keys only and forgets the last one.",
        gpu="«(count + share_of(count) - 1)→count» / share_of(count)",
    ),
    "barrier-before-the-sums": Mutant(
        "The barrier between the sums of the groups and those who add them stands before the sums.",
        only="cuda-ptx",
        gpu=(
            "«→        BARRIER();\n»        UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {\n            meeting[",
            "«        BARRIER();\n→»        for (u32 element = LANE; element < 8 * LANES",
        ),
    ),
    "barrier-before-the-maximum": Mutant(
        "In the merge the barrier behind the search for the largest maximum stands before it.",
        only="cuda-ptx",
        gpu=(
            "«→    BARRIER();\n»    if (LANE < TILE_H) {\n        float most = MINUS_INF;",
            "        largest[LANE] = most;\n    }\n«    BARRIER();\n→»",
        ),
    ),
    "no-fence-before-the-count": Mutant(
        "A group counts itself before the others can see what it has written.",
        only="cuda-ptx",
        gpu="«    FENCE(); /* mine before the count */\n→»",
    ),
    "no-fence-after-the-count": Mutant(
        "The last group may read what it knew before the others had written.",
        only="cuda-ptx",
        gpu="«    FENCE(); /* theirs after the count */\n→»",
    ),
    "merged-by-the-first-group": Mutant(
        "The group that ends first merges parts that nobody has computed yet.",
        gpu="arrived == «SPLITS - 1→0»;",
    ),
    "count-not-reset": Mutant(
        "The count of groups goes on from the last launch: the next one is merged by nobody.",
        gpu="«    if (last && LANE == 0) {\n"
        "        done[row * (H / TILE_H) + GROUP_X] = 0; /* for the next launch */\n"
        "    }\n→»",
    ),
    "barrier-before-the-weights": Mutant(
        "The barrier between the weights of the keys and their values stands before the weights.",
        wgsl="«→        workgroupBarrier();\n»        weight[lane] = mine;\n"
        "«        workgroupBarrier();\n→»        let count",
    ),
}
