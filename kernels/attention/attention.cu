/* attention: causal grouped-query attention of M queries against a cache of keys and values, with the log-sum-exp of
 * the scores.
 *
 * ABI: q [M, H, D] f32, kcache [L, G, D] f32|f16, vcache [L, G, D], pos [M] i32 -> out [M, H, D] f32, lse [M, H] f32
 *      scratch where SPLITS > 1: sums [SPLITS, M, H, D] f32, stats [SPLITS, M, H, 2] f32, done [M, H / TILE_H] u32, 0
 * Grid: x walks the heads (TILE_H of one key-value head a group), y the queries, z the parts of the keys (SPLITS).
 * Options: F16 (type of the cache), SCALE (1 / sqrt(D)).
 *
 * LANES work-items are a slot: each carries 8 elements of D, and the slot takes every SLOTS-th key, AHEAD keys at a
 * time. The keys of the next time are asked for as soon as the last have become scores, so that the softmax hides them,
 * and they are under way together with the values. The softmax is online (Milakov & Gimelshein, 2018),
 * slot by slot: sums are kept relative to the largest score so far and are rescaled when it grows. At the end the slots
 * of a group meet in local memory, and the parts of the keys (flash-decoding) in the group that ends last: `done`
 * counts those that have ended. Whoever is last adds the parts in their order, so the bits are the same each time.
 *
 * It is the text of rope_attention too (ROPED, one row): qkv [1, (H + 2G) * D] f32, pos [1], freq [R/2] f32 -> kcache,
 * vcache [L, G * D], out, lse. Each group turns its own queries, and the newest key, for itself; one of each key-value
 * head stores key and value, and nobody reads their place in the caches: what lies beside it stands in on the way.
 */
#undef BLOCK
#define BLOCK GPU_BLOCK
#undef RESIDENT
#define RESIDENT 384 /* registers for keys and values that are under way together */
#define LANES GPU_LANES
#define SLOTS (BLOCK / LANES)
#define SCORES (AHEAD * TILE_H)
#define BATCH (SLOTS * AHEAD) /* keys that a group takes at a time */
#define ROW (G * D)           /* elements of one position of a cache */
#define MINUS_INF AS_F32(0xff800000u)

//#use element
//#use angle
//#use roped

/* A value waits for its weight as it came: packed halves take half the registers. */
#if F16 && D % 8 == 0
#define PACKED 1
#define WAITING u32x4
#else
#define PACKED 0
#define WAITING float
#endif

REDUCE(sum_scores, float, SCORES, LANES, left + right)
REDUCE(sum_totals, float, TILE_H, BLOCK, left + right)
REDUCE(max_tops, float, TILE_H, BLOCK, FMAX(left, right))

/* Elements 8 * lane ... 8 * lane + 7 of a row of a cache; 0 past its end. */
INLINE void load_part(GLOBAL const ELEMENT* source, u32 lane, float* out)
{
#if D % 8 == 0 /* then every row begins at a multiple of 16 bytes */
    if (lane < D / 8) {
        LOAD8(source, lane, out);
    } else {
        UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
            out[i] = 0.0f;
        }
    }
#else
    UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
        out[i] = 8 * lane + i < D ? LOAD(source, 8 * lane + i) : 0.0f;
    }
#endif
}

/* Elements 8 * lane ... 8 * lane + 7 of a row of a cache, on their way; and as numbers. Packed ones past the end of the
 * row are those of its beginning on their way, and 0 as numbers. */
INLINE void load_waiting(GLOBAL const ELEMENT* source, u32 lane, WAITING* out)
{
#if PACKED
    out[0] = early_u32x4(source, lane < D / 8 ? lane : 0);
#else
    load_part(source, lane, out);
#endif
}

INLINE void numbers(const WAITING* waiting, u32 lane, float* out)
{
#if PACKED
    unpack_f16x8(waiting[0], out);
    UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
        out[i] = 8 * LANES == D || lane < D / 8 ? out[i] : 0.0f;
    }
#else
    UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
        out[i] = waiting[i];
    }
#endif
}

/* The key that a slot takes of a tile; the last one where that is past the end, and a weight of 0 will stand for it. */
INLINE i32 held(i32 tile, u32 ahead, u32 slot, i32 end)
{
    const i32 key = tile + (i32)(ahead * SLOTS + slot);
    const i32 last = end > 0 ? end - 1 : 0;
    return key < last ? key : last;
}

/* What a sum relative to `top` is multiplied by to be one relative to `new_top`. */
INLINE float rescale(float top, float new_top)
{
    return top == MINUS_INF ? 0.0f : EXP(top - new_top); /* nothing was summed yet: no difference of infinities */
}

/* Keys that query `row` sees, and how many of them one part takes. */
INLINE i32 visible(GLOBAL const i32* pos, u32 row)
{
    return (pos[row] < L ? pos[row] : L - 1) + 1;
}

INLINE i32 share_of(i32 count)
{
    return ((count + SPLITS - 1) / SPLITS + BATCH - 1) / BATCH * BATCH;
}

#if ROPED
#define FRESH ((D * (F16 ? 2 : 4) + 15) / 16) /* pieces of 16 bytes of a key */
#define PLACE(key) ((key) != at ? (key) : at > 0 ? at - 1 : L > 1)
#define RENEW(waiting, source, key) \
    if ((key) == at) { \
        load_fresh(source, lane, waiting); \
    }

/* load_waiting from local memory. */
INLINE void load_fresh(LOCAL const u32x4* source, u32 lane, WAITING* out)
{
#if PACKED
    out[0] = source[lane < D / 8 ? lane : 0];
#else
    UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
        out[i] = 8 * lane + i < D ? LOAD((LOCAL const ELEMENT*)source, 8 * lane + i) : 0.0f;
    }
#endif
}
#else
#define PLACE(key) (key)
#define RENEW(waiting, source, key)
#endif

KERNEL attention(
#if ROPED
    GLOBAL const float* RESTRICT qkv, GLOBAL const i32* RESTRICT pos, GLOBAL const float* RESTRICT freq,
    GLOBAL ELEMENT* RESTRICT kcache, GLOBAL ELEMENT* RESTRICT vcache,
#else
    GLOBAL const float* RESTRICT q, GLOBAL const ELEMENT* RESTRICT kcache, GLOBAL const ELEMENT* RESTRICT vcache,
    GLOBAL const i32* RESTRICT pos,
#endif
    GLOBAL float* RESTRICT out, GLOBAL float* RESTRICT lse
#if SPLITS > 1
    , GLOBAL float* RESTRICT sums, GLOBAL float* RESTRICT stats, GLOBAL u32* RESTRICT done
#endif
)
{
    SHARED float scratch[SCRATCH(SCORES)];
    SHARED float meeting[8 * BLOCK];
    const u32 lane = LANE % LANES, slot = LANE / LANES;
    const u32 head0 = GROUP_X * TILE_H, row = GROUP_Y, split = GROUP_Z;
    const u32 offset = (head0 / (H / G)) * D; /* of the key-value head that these query heads share */
    const i32 count = visible(pos, row);
#if ROPED
    const i32 at = pos[row] >= 0 && pos[row] < L ? pos[row] : -1; /* the newest key */
#endif
    const i32 begin = SPLITS > 1 ? (i32)split * share_of(count) : 0;
    const i32 end = SPLITS > 1 && begin + share_of(count) < count ? begin + share_of(count) : count;
    /* A part without keys goes through all this too, and nobody reads its sums: behind an early return before a barrier
     * PoCL loses values that one lane of a slot holds. */

    WAITING keys[AHEAD][PACKED ? 1 : 8];
    UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
        load_waiting(kcache + (u64)PLACE(held(begin, ahead, slot, end)) * ROW + offset, lane, keys[ahead]);
    }
#if ROPED
    SHARED f32x4 turned[(TILE_H * D + 3) / 4];
    SHARED u32x4 fresh[2 * FRESH];
    const u32 owner = at >= 0 && split == 0 && head0 % (H / G) == 0;
    float pairs[TURNS][2], speed[TURNS];
    UNROLL for (u32 i = 0; i < TURNS; ++i) { /* all are asked for at once */
        const u32 item = LANE + i * BLOCK < ITEMS ? LANE + i * BLOCK : ITEMS - 1;
        const u32 which = item / PAIRS, pair = item % PAIRS; /* a query head, the key, the value */
        const u32 head = which < TILE_H ? head0 + which : H + (which - TILE_H) * G + offset / D;
        pairs[i][0] = qkv[head * D + place_of(pair, which <= TILE_H, 0)];
        pairs[i][1] = qkv[head * D + place_of(pair, which <= TILE_H, 1)];
        speed[i] = freq[pair < R / 2 ? pair : 0];
    }
    UNROLL for (u32 i = 0; i < TURNS; ++i) {
        const u32 item = LANE + i * BLOCK, which = item / PAIRS, pair = item % PAIRS;
        turn((float)pos[row] * speed[i], which <= TILE_H && pair < R / 2, pairs[i]);
        UNROLL_ALWAYS for (u32 j = 0; j < 2; ++j) {
            const u32 place = place_of(pair, which <= TILE_H, j);
            if (which < TILE_H) {
                ((LOCAL float*)turned)[which * D + place] = pairs[i][j];
            } else if (item < ITEMS) {
                STORE((LOCAL ELEMENT*)(fresh + (which - TILE_H) * FRESH), place, pairs[i][j]);
            }
            if (which == TILE_H && owner) {
                STORE(kcache, (u64)at * ROW + offset + place, pairs[i][j]);
            }
            if (which == TILE_H + 1 && owner) {
                STORE(vcache, (u64)at * ROW + offset + place, pairs[i][j]);
            }
        }
    }
    ALL_TURNED();
#endif
    float query[TILE_H][8], acc[TILE_H][8], top[TILE_H], total[TILE_H];
    UNROLL for (u32 h = 0; h < TILE_H; ++h) {
#if !ROPED
        GLOBAL const float* source = q + ((u64)row * H + head0 + h) * D;
#endif
        top[h] = MINUS_INF;
        total[h] = 0.0f;
#if D % 8 == 0 && !ROPED
        load_f32x8(source, lane < D / 8 ? lane : 0, query[h]);
#endif
        UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
#if ROPED
            query[h][i] = 8 * lane + i < D ? ((LOCAL const float*)turned)[h * D + 8 * lane + i] : 0.0f;
#elif D % 8 == 0
            query[h][i] = 8 * LANES == D || lane < D / 8 ? query[h][i] : 0.0f;
#else
            query[h][i] = 8 * lane + i < D ? source[8 * lane + i] : 0.0f;
#endif
            acc[h][i] = 0.0f;
        }
    }

#pragma unroll 1
    for (i32 tile = begin; tile < end; tile += BATCH) {
        float scores[SCORES];
        WAITING values[AHEAD][PACKED ? 1 : 8];
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            load_waiting(vcache + (u64)PLACE(held(tile, ahead, slot, end)) * ROW + offset, lane, values[ahead]);
        }
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            float part[8];
            RENEW(keys[ahead], fresh, held(tile, ahead, slot, end));
            numbers(keys[ahead], lane, part);
            UNROLL for (u32 h = 0; h < TILE_H; ++h) {
                float even = 0.0f, odd = 0.0f; /* side by side: a shorter chain of dependent additions */
                UNROLL_ALWAYS for (u32 i = 0; i < 8; i += 2) {
                    even = FMA(part[i], query[h][i], even);
                    odd = FMA(part[i + 1], query[h][i + 1], odd);
                }
                scores[ahead * TILE_H + h] = even + odd;
            }
        }
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            load_waiting(kcache + (u64)PLACE(held(tile + BATCH, ahead, slot, end)) * ROW + offset, lane, keys[ahead]);
        }
        ISSUED();
        sum_scores(scores, scratch);

        UNROLL for (u32 h = 0; h < TILE_H; ++h) {
            float new_top = top[h];
            UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
                if (tile + (i32)(ahead * SLOTS + slot) < end) {
                    new_top = FMAX(new_top, scores[ahead * TILE_H + h] * SCALE);
                }
            }
            const float keep = rescale(top[h], new_top);
            total[h] *= keep;
            UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
                acc[h][i] *= keep;
            }
            UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
                const u32 at = ahead * TILE_H + h;
                scores[at] = tile + (i32)(ahead * SLOTS + slot) < end ? EXP(scores[at] * SCALE - new_top) : 0.0f;
                total[h] += scores[at];
            }
            top[h] = new_top;
        }
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) { /* scores have become weights */
            float value[8];
            RENEW(values[ahead], fresh + FRESH, held(tile, ahead, slot, end));
            numbers(values[ahead], lane, value);
            UNROLL for (u32 h = 0; h < TILE_H; ++h) {
                UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
                    acc[h][i] = FMA(scores[ahead * TILE_H + h], value[i], acc[h][i]);
                }
            }
        }
    }

    /* The slots meet. */
    float group_top[TILE_H], group_total[TILE_H];
    UNROLL for (u32 h = 0; h < TILE_H; ++h) {
        group_top[h] = top[h];
    }
    max_tops(group_top, scratch);
    UNROLL for (u32 h = 0; h < TILE_H; ++h) {
        const float keep = rescale(top[h], group_top[h]);
        group_total[h] = lane == 0 ? total[h] * keep : 0.0f; /* all work-items of a slot have the same total */
        UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
            acc[h][i] *= keep;
        }
    }
    sum_totals(group_total, scratch);
    UNROLL for (u32 h = 0; h < TILE_H; ++h) {
        const u64 target = (u64)row * H + head0 + h;
        UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
            meeting[i * BLOCK + LANE] = acc[h][i];
        }
        BARRIER();
        for (u32 element = LANE; element < 8 * LANES; element += BLOCK) {
            const u32 at = element % LANES, i = element / LANES, d = 8 * at + i;
            float sum = 0.0f;
            UNROLL for (u32 other = 0; other < SLOTS; ++other) {
                sum += meeting[i * BLOCK + other * LANES + at];
            }
            if (d < D) {
#if SPLITS > 1
                sums[((u64)split * M * H + target) * D + d] = sum;
#else
                out[target * D + d] = count > 0 ? sum / group_total[h] : 0.0f;
#endif
            }
        }
        if (h + 1 < TILE_H) {
            BARRIER(); /* the sums of this head have been read */
        }
        if (LANE == 0) {
#if SPLITS > 1
            stats[((u64)split * M * H + target) * 2] = group_top[h];
            stats[((u64)split * M * H + target) * 2 + 1] = group_total[h];
#else
            lse[target] = count > 0 ? group_top[h] + LOG(group_total[h]) : MINUS_INF;
#endif
        }
    }

#if SPLITS > 1
    /* The parts meet. What a group has written is visible before it counts itself, and what the others have written
     * is read after: two fences. Groups that are not the last go through all this with no parts. */
    SHARED u32 arrived;
    SHARED float tops[TILE_H * SPLITS];
    SHARED float totals[TILE_H * SPLITS];
    SHARED float largest[TILE_H];
    FENCE(); /* mine before the count */
    BARRIER();
    if (LANE == 0) {
        arrived = COUNT_UP(done + row * (H / TILE_H) + GROUP_X);
    }
    BARRIER();
    FENCE(); /* theirs after the count */
    const u32 last = arrived == SPLITS - 1;
    const u32 held_parts = count > 0 ? (u32)((count + share_of(count) - 1) / share_of(count)) : 0; /* with keys */
    const u32 parts = last ? held_parts : 0;
    const u64 target0 = (u64)row * H + head0;

    for (u32 at = LANE; at < TILE_H * SPLITS; at += BLOCK) {
        const u32 part = at % SPLITS;
        if (part < parts) {
            const u64 source = (u64)part * M * H + target0 + at / SPLITS;
            tops[at] = stats[source * 2];
            totals[at] = stats[source * 2 + 1];
        }
    }
    BARRIER();
    if (LANE < TILE_H) {
        float most = MINUS_INF;
        for (u32 part = 0; part < parts; ++part) {
            most = FMAX(most, tops[LANE * SPLITS + part]);
        }
        largest[LANE] = most;
    }
    BARRIER();
    for (u32 at = LANE; at < TILE_H * SPLITS; at += BLOCK) {
        if (at % SPLITS < parts) {
            tops[at] = rescale(tops[at], largest[at / SPLITS]);
        }
    }
    BARRIER();
    for (u32 element = LANE; element < TILE_H * D; element += BLOCK) {
        const u32 h = element / D, d = element % D;
        float all = 0.0f, sum = 0.0f;
        for (u32 part = 0; part < parts; ++part) {
            const u64 source = (u64)part * M * H + target0 + h;
            all = FMA(tops[h * SPLITS + part], totals[h * SPLITS + part], all);
            sum = FMA(tops[h * SPLITS + part], sums[source * D + d], sum);
        }
        if (last) {
            out[(target0 + h) * D + d] = count > 0 ? sum / all : 0.0f;
        }
        if (last && d == 0) {
            lse[target0 + h] = count > 0 ? largest[h] + LOG(all) : MINUS_INF;
        }
    }
    if (last && LANE == 0) {
        done[row * (H / TILE_H) + GROUP_X] = 0; /* for the next launch */
    }
#endif
}
