/* dense_gemv: floating-point weights times f32 activations, accumulated in f32.
 *
 * ABI: w [NROWS, K] f16|f32, x [M, K] f32 -> y [M, N] f32, of which columns ROW0 ... ROW0 + NROWS - 1 are written
 * Grid: x and y fold the rows of w (ROWS a group), z walks the rows of x (TILE_M a group). LANES work-items share
 * TILE_N rows.
 * Options: F16 (type of the weights).
 *
 * AHEAD loads of 16 bytes per row are under way before the first is used; rows that are taken together share the
 * activations.
 */
#undef BLOCK
#undef LANES
#undef ROWS
#define BLOCK GPU_BLOCK
#define LANES GPU_LANES
#define ROWS (BLOCK / LANES * TILE_N)
#define OUTPUTS (TILE_N * TILE_M)
#define CHUNKS (K / 8) /* pieces of 8 weights */
#define COMPLETE (CHUNKS % (LANES * AHEAD) == 0) /* no work-item reaches past the end of a row */
#define EARLY (AHEAD * TILE_M <= 4) /* activations are asked for with the weights: registers, 8 for each */
#define QUARTERS (F16 ? 1 : 2) /* loads of 16 bytes in a piece */

//#use element

REDUCE(sum_rows, float, OUTPUTS, LANES, left + right)

/* The weights of a piece, as they came, become numbers. */
INLINE void numbers(const u32x4* packed, float* out)
{
#if F16
    unpack_f16x8(packed[0], out);
#else
    UNROLL_ALWAYS for (u32 i = 0; i < 2; ++i) {
        out[4 * i] = AS_F32(packed[i].x);
        out[4 * i + 1] = AS_F32(packed[i].y);
        out[4 * i + 2] = AS_F32(packed[i].z);
        out[4 * i + 3] = AS_F32(packed[i].w);
    }
#endif
}

INLINE void load_values(GLOBAL const float* x, u32 m0, u32 chunk, float values[TILE_M][8])
{
    UNROLL_ALWAYS for (u32 m = 0; m < TILE_M; ++m) {
        load_f32x8(x + (u64)(m0 + m < M ? m0 + m : M - 1) * K, chunk, values[m]);
    }
}

KERNEL dense_gemv(GLOBAL const ELEMENT* RESTRICT w, GLOBAL const float* RESTRICT x, GLOBAL float* RESTRICT y)
{
    SHARED float scratch[SCRATCH(OUTPUTS)];
    const u32 lane = LANE % LANES, row0 = GROUP_FOLDED * ROWS + LANE / LANES * TILE_N, m0 = GROUP_Z * TILE_M;

    /* Rows past the end repeat the last: their work-items must reach the barriers, and they store nothing. */
    GLOBAL const ELEMENT* weights[TILE_N];
    UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
        weights[n] = w + (u64)(row0 + n < NROWS ? row0 + n : NROWS - 1) * K;
    }
    float acc[OUTPUTS] = {0.0f};

#if K % 8 == 0 /* then every row begins at a multiple of 16 bytes */
#pragma unroll 1
    for (u32 batch = lane; batch < CHUNKS; batch += LANES * AHEAD) {
        u32x4 packed[AHEAD][TILE_N][QUARTERS];
        float values[AHEAD][TILE_M][8];
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            const u32 next = batch + ahead * LANES, chunk = COMPLETE || next < CHUNKS ? next : CHUNKS - 1;
            if (EARLY) {
                load_values(x, m0, chunk, values[ahead]);
            }
            UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
                UNROLL_ALWAYS for (u32 part = 0; part < QUARTERS; ++part) {
                    packed[ahead][n][part] = stream_u32x4(weights[n], chunk * QUARTERS + part);
                }
            }
        }
        if (COMPLETE) { /* else lanes of a warp may leave the loop before others */
            ISSUED();
        }
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ++ahead) {
            const u32 chunk = batch + ahead * LANES;
            if (COMPLETE || chunk < CHUNKS) {
                if (!EARLY) {
                    load_values(x, m0, chunk, values[ahead]);
                }
                UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
                    float weight[8];
                    numbers(packed[ahead][n], weight);
                    UNROLL_ALWAYS for (u32 m = 0; m < TILE_M; ++m) {
                        float even = 0.0f, odd = 0.0f; /* side by side: a shorter chain of dependent additions */
                        UNROLL_ALWAYS for (u32 i = 0; i < 8; i += 2) {
                            even = FMA(weight[i], values[ahead][m][i], even);
                            odd = FMA(weight[i + 1], values[ahead][m][i + 1], odd);
                        }
                        acc[m * TILE_N + n] += even + odd;
                    }
                }
            }
        }
    }
#else
    for (u32 k = lane; k < K; k += LANES) {
        UNROLL_ALWAYS for (u32 n = 0; n < TILE_N; ++n) {
            const float weight = LOAD(weights[n], k);
            UNROLL_ALWAYS for (u32 m = 0; m < TILE_M; ++m) {
                const float value = x[(u64)(m0 + m < M ? m0 + m : M - 1) * K + k];
                acc[m * TILE_N + n] = FMA(weight, value, acc[m * TILE_N + n]);
            }
        }
    }
#endif

    sum_rows(acc, scratch);
    UNROLL_ALWAYS for (u32 i = 0; i < OUTPUTS; ++i) {
        const u32 row = row0 + i % TILE_N, m = m0 + i / TILE_N;
        if (lane == i % LANES && row < NROWS && m < M) {
            y[(u64)m * N + ROW0 + row] = acc[i];
        }
    }
}
