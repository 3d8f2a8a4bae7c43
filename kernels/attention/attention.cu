/* attention: causal grouped-query attention of M queries against a cache of keys and values, with the log-sum-exp of the scores.
 *
 * ABI: q [M, H, D] f32, kcache [L, G, D] f32|f16, vcache [L, G, D], pos [M] i32 -> out [M, H, D] f32, lse [M, H] f32
 * Grid: one group per head (x) and query (y).
 * Options: F16 (type of the cache), SCALE (1 / sqrt(D)).
 *
 * Keys come in tiles of BLOCK: a work-item scores one key, then sums the values of its elements d = lane, lane + BLOCK, ... over the tile.
 * The softmax is online (Milakov & Gimelshein, 2018): sums are kept relative to the largest score so far and are rescaled when it grows.
 */
#define SHARE ((D + BLOCK - 1) / BLOCK) /* elements of the output that one work-item carries */
#define ROW (G * D)                     /* elements of one position of a cache */
#define MINUS_INF AS_F32(0xff800000u)
#if F16
#define ELEMENT f16
#define LOAD(pointer, at) LOAD_F16(pointer, at)
#define LOAD8 load_f16x8
#else
#define ELEMENT float
#define LOAD(pointer, at) (pointer)[at]
#define LOAD8 load_f32x8
#endif

INLINE float score_of(GLOBAL const ELEMENT* key, LOCAL const float* query)
{
    float acc = 0.0f;
#if D % 8 == 0 /* then every key begins at a multiple of 16 bytes */
    float part[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}; /* side by side: no chain of dependent additions */
    for (u32 chunk = 0; chunk < D / 8; ++chunk) {
        float value[8];
        LOAD8(key, chunk, value);
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            part[i] = FMA(value[i], query[8 * chunk + i], part[i]);
        }
    }
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
        acc += part[i];
    }
#else
    for (u32 d = 0; d < D; ++d) {
        acc = FMA(LOAD(key, d), query[d], acc);
    }
#endif
    return acc * SCALE;
}

KERNEL attention(GLOBAL const float* RESTRICT q, GLOBAL const ELEMENT* RESTRICT kcache,
    GLOBAL const ELEMENT* RESTRICT vcache, GLOBAL const i32* RESTRICT pos, GLOBAL float* RESTRICT out,
    GLOBAL float* RESTRICT lse)
{
    SHARED float query[D];
    SHARED float weights[BLOCK];
    SHARED float scratch[BLOCK];
    const u32 head = GROUP_X, row = GROUP_Y, lane = LANE;
    const u32 offset = (head / (H / G)) * D; /* of the key-value head that this query head shares */
    const i32 count = (pos[row] < L ? pos[row] : L - 1) + 1;

    for (u32 d = lane; d < D; d += BLOCK) {
        query[d] = q[((u64)row * H + head) * D + d];
    }
    float acc[SHARE];
#pragma unroll
    for (u32 i = 0; i < SHARE; ++i) {
        acc[i] = 0.0f;
    }
    float top = MINUS_INF, total = 0.0f; /* total: of this work-item's keys only, until the end */

    for (i32 tile = 0; tile < count; tile += BLOCK) {
        const i32 key = tile + (i32)lane;
        BARRIER(); /* the query is there, and the last tile's weights have been read */
        const float score = key < count ? score_of(kcache + (u64)key * ROW + offset, query) : MINUS_INF;

        scratch[lane] = score;
        BARRIER();
        for (u32 width = BLOCK; width > 1;) {
            const u32 half_width = (width + 1) / 2;
            if (lane + half_width < width) {
                scratch[lane] = FMAX(scratch[lane], scratch[lane + half_width]);
            }
            BARRIER();
            width = half_width;
        }
        const float new_top = FMAX(top, scratch[0]);
        const float keep = EXP(top - new_top); /* 0 for the first tile */
        const float weight = key < count ? EXP(score - new_top) : 0.0f;
        weights[lane] = weight;
        total = total * keep + weight;
        top = new_top;
        BARRIER();

        const u32 keys = (u32)(count - tile < BLOCK ? count - tile : BLOCK);
        GLOBAL const ELEMENT* values = vcache + (u64)tile * ROW + offset;
#pragma unroll
        for (u32 i = 0; i < SHARE; ++i) {
            const u32 d = lane + i * BLOCK;
            float sum = 0.0f;
            for (u32 j = 0; d < D && j < keys; ++j) {
                sum = FMA(weights[j], LOAD(values, (u64)j * ROW + d), sum);
            }
            acc[i] = acc[i] * keep + sum;
        }
    }

    BARRIER(); /* scratch[0] of the last tile has been read */
    scratch[lane] = total;
    BARRIER();
    for (u32 width = BLOCK; width > 1;) {
        const u32 half_width = (width + 1) / 2;
        if (lane + half_width < width) {
            scratch[lane] += scratch[lane + half_width];
        }
        BARRIER();
        width = half_width;
    }
    const float sum = scratch[0];

#pragma unroll
    for (u32 i = 0; i < SHARE; ++i) {
        const u32 d = lane + i * BLOCK;
        if (d < D) {
            out[((u64)row * H + head) * D + d] = count > 0 ? acc[i] / sum : 0.0f;
        }
    }
    if (lane == 0) {
        lse[(u64)row * H + head] = count > 0 ? top + LOG(sum) : MINUS_INF;
    }
}
