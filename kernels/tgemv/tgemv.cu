/* tgemv: packed ternary weights times int8 activations, exact in int32, then scaled.
 *
 * ABI: w [N, WORDS] u32, wscale [1] | [N] | [N, KP/SPAN] f32, q [M, KP] i8, ascale [M, ASPANS] f32, qsum [M,
 * ASPANS] i32
 *      -> y [M, N] f32|i32
 * Grid: x walks the rows of w (ROWS a group), y the rows of q (TILE_M a group). LANES work-items share TILE_N rows.
 * Options: W_PER_BLOCK (a scale per SPAN weights of a row: 64, 128 or 256), A_PER_BLOCK (one per 256 activations),
 * A_PER_32 (one per 32), W_PER_ROW (one per row of w), OUT_I32 (the accumulators themselves).
 *
 * A word holds 16 codes w + 1; (word >> 2s) & 0x03030303 is a dp4a operand. The code's 1 is undone by subtracting
 * sum(q) once per span of qsum; where scales change within a row and qsum does not, sum(q) of the span is taken along.
 *
 * Weights come in batches: AHEAD loads of 16 bytes per row are under way before the first is used, and while they are,
 * the group brings the activations of the batch to local memory, turned so that neighbouring work-items read
 * neighbouring 16 bytes. Activations are asked for before the weights: they are waited for first.
 *
 * Many tokens whose rows are summed as a whole have matrix cores where the device does: prelude/ternary_mma.cu, with
 * the same bits.
 *
 * It is the text of norm_tgemv too (NORMED), where activations are what norm_quant would have given.
 */
//#use ternary_mma
//#use normed
#undef BLOCK
#undef LANES
#undef ROWS
#define BLOCK GPU_BLOCK
#define LANES GPU_LANES
#define ROWS (BLOCK / LANES * TILE_N)
#define CHUNKS (WORDS / 4) /* pieces of 16 bytes, 64 weights, a load each */
#define STEPS ((CHUNKS + LANES - 1) / LANES)
/* 16-byte columns of a batch of activations; the 2 keep the writers out of each other's banks. */
#define PITCH (AHEAD * LANES + 2)
#define PIECES (AHEAD * LANES * 4) /* 16-byte pieces of a batch of activations */
#define STAGED ((PIECES + BLOCK - 1) / BLOCK) /* of which one work-item brings so many */
#define COMPLETE (STEPS * LANES == CHUNKS ? STEPS % AHEAD == 0 : 0) /* no work-item reaches past the end of a row */
#define SPANNED ((W_PER_BLOCK || A_PER_BLOCK || A_PER_32) && !OUT_I32)
#define W_CHUNKS (SPAN / (KP / CHUNKS)) /* chunks of a scale of weights */
#define SHARERS (A_PER_32 ? 1 : W_CHUNKS) /* work-items whose chunks are one span */
#define HALVES (SPANNED && A_PER_32 ? 2 : 1) /* spans of a chunk */
#define UNSUMMED (SPANNED && !A_PER_32 && (!A_PER_BLOCK || SPAN < 256)) /* qsum does not have the spans */
#define ASPANS (A_PER_32 ? CHUNKS * 2 : A_PER_BLOCK ? BLOCKS : 1)
#define OUTPUTS (TILE_N * TILE_M)
#define SLOTS ((OUTPUTS + LANES - 1) / LANES) /* outputs that one work-item stores */
#if OUT_I32
#define RESULT i32
#else
#define RESULT float
#endif

/* One row of activations: fields 1 and 2 of a word stay where they are, and their sums are 4 and 16 times too large
 * until the end, which saves two shifts of three. More rows share the shifts, and their sums need the registers. */
#if TILE_M == 1
#define SUMS 3
#define FIELD1(word) ((word) & 0x0c0c0c0cu)
#define FIELD2(word) ((word) & 0x30303030u)
#define AT1 1
#define AT2 2
#else
#define SUMS 1
#define FIELD1(word) (((word) >> 2 * 1) & 0x03030303u)
#define FIELD2(word) (((word) >> 2 * 2) & 0x03030303u)
#define AT1 0
#define AT2 0
#endif
#define FIELD0(word) ((word) & 0x03030303u)
#define FIELD3(word) (((word) >> 2 * 3) & 0x03030303u)

#if SPANNED
#define PARTIAL float
#if SHARERS > 1
REDUCE(sum_spans, i32, AHEAD * OUTPUTS, SHARERS, left + right)
#endif
REDUCE(sum_rows, float, OUTPUTS, LANES, left + right)
#else
#define PARTIAL i32
REDUCE(sum_rows, i32, OUTPUTS, LANES, left + right)
#endif

INLINE i32 joined(const i32* sums)
{
#if SUMS == 3
    return sums[0] + (sums[1] >> 2) + (sums[2] >> 4); /* no bit is lost */
#else
    return sums[0];
#endif
}

KERNEL tgemv(GLOBAL const u32* RESTRICT w, GLOBAL const float* RESTRICT wscale,
#if !NORMED
    GLOBAL const i8* RESTRICT q, GLOBAL const float* RESTRICT ascale, GLOBAL const i32* RESTRICT qsum,
#elif PRE
    GLOBAL const float* RESTRICT a, GLOBAL const float* RESTRICT b, GLOBAL const float* RESTRICT weight,
    GLOBAL float* RESTRICT h,
#else
    GLOBAL const float* RESTRICT x, GLOBAL const float* RESTRICT weight,
#endif
    GLOBAL RESULT* RESTRICT y)
{
#if MATRIX
    SHARED i32 shares[SHARERS_OF_K * SHARE];
    if (GROUP_Y % (SLAB_TOKENS / 8) == 0) {
        tensor_tile(w, wscale, q, ascale, qsum, y, shares);
    }
#else
    SHARED u32x4 active[TILE_M * 4 * PITCH];
    SHARED PARTIAL scratch[SCRATCH(OUTPUTS)];
#if NORMED
    SHARED float squares[SCRATCH(TURNS)];
    SHARED u32 tops[SCRATCH(1)];
    SHARED i32 sums[SCRATCH(1)];
#endif
    const u32 lane = LANE % LANES, row0 = GROUP_X * ROWS + LANE / LANES * TILE_N, m0 = GROUP_Y * TILE_M;

    /* Rows past the end repeat the last: their work-items must reach the barriers, and they store nothing. */
    GLOBAL const u32* words[TILE_N];
    UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
        words[n] = w + (u64)(row0 + n < N ? row0 + n : N - 1) * WORDS;
    }

#if SPANNED
#if SHARERS > 1
    SHARED i32 parts[SCRATCH(AHEAD * OUTPUTS)];
#endif
    float acc[OUTPUTS] = {0.0f};
#else
    i32 acc[OUTPUTS][SUMS] = {{0}};
    i32 excess[SLOTS]; /* sum(q) over the row: what the code's 1 added */
#if !OUT_I32
    u32 active_scale[SLOTS], weight_scale[SLOTS]; /* bits of f32, multiplied at the end: nothing waits for them */
#endif
    UNROLL_ALWAYS for (u32 slot = 0; slot < SLOTS; ++slot) {
        const u32 output = lane + slot * LANES;
#if !NORMED
        const u32 m = m0 + output / TILE_N, safe_m = m < M ? m : M - 1;
        excess[slot] = 0;
        for (u32 span = 0; span < ASPANS; ++span) {
            excess[slot] += (i32)early_u32(qsum, safe_m * ASPANS + span);
        }
#endif
#if !OUT_I32
        const u32 row = row0 + output % TILE_N;
#if !NORMED
        active_scale[slot] = early_u32(ascale, safe_m);
#endif
        weight_scale[slot] = early_u32(wscale, W_PER_ROW ? (row < N ? row : N - 1) : 0);
#endif
    }
#endif

#if STEPS > AHEAD
#pragma unroll 1
#endif
    for (u32 batch = 0; batch < STEPS; batch += AHEAD) {
#if NORMED /* in one batch */
        u32x4 left[HELD], gain[HELD];
#if PRE
        u32x4 right[HELD];
        load_quads(a, left);
        load_quads(b, right);
#else
        load_quads(x, left);
#endif
        load_quads(weight, gain);
        ISSUED(); /* the row is waited for first */
#else
        u32x4 staged[TILE_M][STAGED];
        UNROLL_ALWAYS for (u32 m = 0; m < TILE_M; ++m) {
            GLOBAL const i8* codes = q + (u64)(m0 + m < M ? m0 + m : M - 1) * KP;
            UNROLL_ALWAYS for (u32 i = 0; i < STAGED; ++i) {
                const u32 at = batch * LANES * 4 + LANE + i * BLOCK;
                /* What is past the end meets codes of 0 only. */
                staged[m][i] = early_u32x4(codes, at < KP / 16 ? at : KP / 16 - 1);
            }
        }
#endif
        u32 packed[AHEAD][TILE_N][4];
#if SPANNED
        float weight_scale[AHEAD][TILE_N];
#endif
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            const u32 chunk = (batch + ahead) * LANES + lane;
            UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
                const u32x4 four = stream_u32x4(words[n], COMPLETE || chunk < CHUNKS ? chunk : CHUNKS - 1);
                packed[ahead][n][0] = four.x;
                packed[ahead][n][1] = four.y;
                packed[ahead][n][2] = four.z;
                packed[ahead][n][3] = four.w;
#if SPANNED
                const u32 row = row0 + n < N ? row0 + n : N - 1, span = chunk < CHUNKS ? chunk / W_CHUNKS : 0;
                weight_scale[ahead][n] = wscale[W_PER_BLOCK ? row * (KP / SPAN) + span : (W_PER_ROW ? row : 0)];
#endif
            }
        }

        ISSUED();
#if NORMED
        u32 codes[HELD];
        const float scale_of_row = quantised(left, OTHER, gain, STREAM, codes, excess, squares, tops, sums);
        UNROLL_ALWAYS for (u32 slot = 0; slot < SLOTS; ++slot) {
            excess[slot] = excess[0];
            active_scale[slot] = AS_U32(scale_of_row);
        }
        UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
            const u32 piece = QUAD(i) / 4; /* of 16 codes */
            if (QUAD(i) < KP / 4) {
                ((LOCAL u32*)active)[(piece % 4 * PITCH + piece / 4) * 4 + QUAD(i) % 4] = codes[i];
            }
        }
#else
        if (batch > 0) {
            BARRIER(); /* the last batch has been read */
        }
        UNROLL_ALWAYS for (u32 m = 0; m < TILE_M; ++m) {
            UNROLL_ALWAYS for (u32 i = 0; i < STAGED; ++i) {
                const u32 piece = LANE + i * BLOCK;
                KEEP(staged[m][i]);
                if (PIECES % BLOCK == 0 || piece < PIECES) {
                    active[(m * 4 + piece % 4) * PITCH + piece / 4] = staged[m][i];
                }
            }
        }
#if !SPANNED
        UNROLL_ALWAYS for (u32 slot = 0; slot < SLOTS; ++slot) {
            KEEP(excess[slot]);
#if !OUT_I32
            KEEP(active_scale[slot]);
            KEEP(weight_scale[slot]);
#endif
        }
#endif
#endif
        BARRIER();
        ISSUED(); /* no product is begun before, which would wait for the weights */

#if SPANNED
        i32 sums[AHEAD * HALVES * OUTPUTS];
#endif
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
#if SPANNED
            i32 part[HALVES * OUTPUTS][SUMS] = {{0}}, lacking[TILE_M] = {0};
#define INTO (part + i / (4 / HALVES) * OUTPUTS)
#else
#define INTO acc
#endif
            const u32 chunk = (batch + ahead) * LANES + lane;
            const u32 all = COMPLETE || chunk < CHUNKS ? ~0u : 0; /* past the end: codes of 0 add nothing */
            const u32 column = NORMED && all == 0 ? 0 : ahead * LANES + lane;
            UNROLL for (u32 i = 0; i < 4; ++i) {
                UNROLL_ALWAYS for (u32 m = 0; m < TILE_M; ++m) {
                    const u32x4 four = active[(m * 4 + i) * PITCH + column];
                    UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
                        const u32 word = packed[ahead][n][i] & all;
                        i32* sum = INTO[m * TILE_N + n];
                        sum[0] = DP4A(FIELD0(word), four.x, sum[0]);
                        sum[AT1] = DP4A(FIELD1(word), four.y, sum[AT1]);
                        sum[AT2] = DP4A(FIELD2(word), four.z, sum[AT2]);
                        sum[0] = DP4A(FIELD3(word), four.w, sum[0]);
                    }
#if UNSUMMED
                    lacking[m] = DP4A(0x01010101u, four.x, lacking[m]);
                    lacking[m] = DP4A(0x01010101u, four.y, lacking[m]);
                    lacking[m] = DP4A(0x01010101u, four.z, lacking[m]);
                    lacking[m] = DP4A(0x01010101u, four.w, lacking[m]);
#endif
                }
            }
#if SPANNED
            UNROLL_ALWAYS for (u32 i = 0; i < HALVES * OUTPUTS; ++i) {
                sums[ahead * HALVES * OUTPUTS + i] = joined(part[i]) - lacking[i % OUTPUTS / TILE_N];
            }
#endif
        }

#if SPANNED
        /* Only the integer sum of a whole span may be converted and scaled: its work-items join theirs, and one counts
         * it. */
#if SHARERS > 1
        sum_spans(sums, parts);
#endif
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            const u32 chunk = (batch + ahead) * LANES + lane;
            if (lane % SHARERS == 0 && chunk < CHUNKS) {
                UNROLL_ALWAYS for (u32 i = 0; i < HALVES * TILE_M; ++i) {
                    const u32 m = i % TILE_M, span = A_PER_32 ? 2 * chunk + i / TILE_M : A_PER_BLOCK ? chunk / 4 : 0;
                    const u32 at = (m0 + m < M ? m0 + m : M - 1) * ASPANS + span;
                    const float active_scale = ascale[at];
                    const i32 excess = UNSUMMED ? 0 : qsum[at];
                    UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
                        acc[m * TILE_N + n] += (float)(sums[(ahead * HALVES * TILE_M + i) * TILE_N + n] - excess) *
                            (active_scale * weight_scale[ahead][n]);
                    }
                }
            }
        }
#endif
    }

    PARTIAL total[OUTPUTS];
    UNROLL_ALWAYS for (u32 i = 0; i < OUTPUTS; ++i) {
#if SPANNED
        total[i] = acc[i];
#else
        total[i] = joined(acc[i]);
#endif
    }
    sum_rows(total, scratch);

    UNROLL_ALWAYS for (u32 i = 0; i < OUTPUTS; ++i) {
        const u32 row = row0 + i % TILE_N, m = m0 + i / TILE_N;
        if (lane == i % LANES && row < N && m < M) {
#if SPANNED
            y[(u64)m * N + row] = total[i];
#elif OUT_I32
            y[(u64)m * N + row] = total[i] - excess[i / LANES];
#else
            const float scale = AS_F32(active_scale[i / LANES]) * AS_F32(weight_scale[i / LANES]);
            y[(u64)m * N + row] = (float)(total[i] - excess[i / LANES]) * scale;
#endif
        }
    }
#endif
}
