"""Wrong kernels of argmax: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant, Patch

MUTANTS = {
    "tie-to-the-highest": Mutant(
        "The last of several largest values: decoding leaves the reference at every tie.",
        gpu=("«(0x7fffffffu - n)→n»", "(i32)(«0x7fffffffu - (u32)best)→u32)best»"),
        wgsl=("if key >«→=» best {", "at «<→>» best_at"),
        native=(
            "«→        for (std::int64_t i = width; i-- > 0;)\n"
            "            if (x[i] == top) return static_cast<std::int32_t>(i);\n"
            "»        const F wanted = set1(top);"
        ),
        torch='masked_fill(nan, -torch.inf).«→flip(-1).»argmax(dim=-1)«→.sub(case["N"] - 1).neg()»',
        numpy='«→case["N"] - 1 - »np.argmax(np.where(np.isnan(x), -np.inf, x)«→[:, ::-1]», axis=-1)',
    ),
    "nan-ignored": Mutant(
        "A NaN loses every comparison, and the largest of the other values is returned as if nothing had happened.",
        gpu="        return «NAN_KEY→0»;",
        wgsl="        return «NAN_KEY→0u»;",
        native=("if (any_nan(load(x + i, Full{}))) «return -1→break»;", "if (x[i] != x[i]) «return -1→continue»;"),
        torch="found«.masked_fill(nan.any(dim=-1), -1)→»",
        numpy="«np.isnan(x).any(axis=-1)→False»",
    ),
    "nan-wins": Mutant(
        "The place of a NaN is returned instead of -1.",
        gpu="«(u32)(best >> 32) == NAN_KEY ? -1 : →»(i32)",
        wgsl="«select(i32(best_at), -1, best == NAN_KEY)→i32(best_at)»",
        native=(
            "if (any_nan(load(x + i, Full{}))) return «-1→static_cast<std::int32_t>(i)»;",
            "if (x[i] != x[i]) return «-1→static_cast<std::int32_t>(i)»;",
        ),
        torch="«found.masked_fill(nan.any(dim=-1), →x.argmax(dim=»-1)",
        numpy=(
            "np.«where(np.isnan(x).any(axis=-1), -1, np.argmax(np.where(np.isnan(x), -np.inf, x), axis=-1))→"
            "argmax(x, axis=-1)»"
        ),
    ),
    "tail-unread": Mutant(
        "The values behind the last whole tile are not looked at: the end of a vocabulary.",
        gpu="n «<→- lane + BLOCK <=» end; n += BLOCK",
        wgsl="n < N«→ / BLOCK * BLOCK»; n += BLOCK",
        native=("width / «W * W→64 * 64»", "for (std::int64_t i = «whole→width»; i < width; ++i) {"),
        torch='x = inputs[0]«→[:, : max(1, case["N"] // 64 * 64)]»',
        numpy='x = inputs[0]«→[:, : max(1, case["N"] // 64 * 64)]»',
    ),
    "magnitude": Mutant(
        "The largest magnitude instead of the largest value.",
        gpu="AS_U32(source[n])«→ & 0x7fffffffu»",
        wgsl="key_of(x[row * N + n]«→ & 0x7fffffffu»)",
        native=(
            Patch("«→sub(zero(), neg_abs(»load(x + i, Full{})«→))»", times=3),
            "if («x[i] > top) top = x[i]→fabsf(x[i]) > top) top = fabsf(x[i])»;",
            "«x[i]→fabsf(x[i])» == top",
        ),
        torch="x = inputs[0]«→.abs()»",
        numpy="x = «inputs[0]→np.abs(inputs[0])»",
    ),
    "no-index-for-minus-infinity": Mutant(
        "The search begins at -inf: a row of nothing else has no index.",
        gpu="u64 best[1] = {«0→(u64)0x007fffffu << 32 | 0x80000000u»}; /*",
        wgsl="var best = «0u→0x007fffffu»;",
        native="«→        if (top == -INFINITY) return -1;\n»        const F wanted",
        torch="nan.any«→(dim=-1) | x.isneginf().all»(dim=-1), -1",
        numpy="np.isnan(x).any(axis=-1)«→ | np.isneginf(x).all(axis=-1)»",
    ),
    "bits-compared": Mutant(
        "Floats are compared as signed integers without mirroring the negative ones: among those the smallest wins.",
        gpu="«(bits & 0x80000000u) ? ~bits : (bits | 0x80000000u)→bits ^ 0x80000000u»",
        wgsl="«select(bits | 0x80000000u, ~bits, bits != magnitude)→bits ^ 0x80000000u»",
        torch="masked_fill(nan, -torch.inf).«→view(torch.int32).»argmax",
        numpy="np.argmax(np.where(np.isnan(x), «-np.inf, x→np.float32(-np.inf), x).view(np.int32»), axis=-1)",
    ),
    "share-dropped": Mutant(
        "The last share of a row is forgotten where shares are joined: groups of a long row, lanes of a group.",
        gpu="other < PARTS«→ - 1»; other += BLOCK",
        wgsl="for (var i = 0u; i < BLOCK«→ - CHUNK»; i += CHUNK)",
    ),
    "no-fence-before-the-count": Mutant(
        "A group counts itself before the others can see what it has written.",
        only="cuda-ptx",
        gpu="«        FENCE(); /* mine before the count */\n→»",
    ),
    "no-fence-after-the-count": Mutant(
        "The last group may read what it knew before the others had written.",
        only="cuda-ptx",
        gpu="«    FENCE(); /* theirs after the count */\n→»",
    ),
    "joined-by-the-first-group": Mutant(
        "The group that ends first joins parts of which nobody knows the largest yet.",
        only="cuda-ptx",
        gpu="last = arrived == «PARTS - 1→0»;",
    ),
    "count-not-reset": Mutant(
        "The count of groups goes on from the last launch: the next one is joined by nobody.",
        only="cuda-ptx",
        gpu="«        done[row] = 0; /* for the next launch */→        (void)done;»",
    ),
}
