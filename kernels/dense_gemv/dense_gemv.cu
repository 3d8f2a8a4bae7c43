/* dense_gemv: floating-point weights times f32 activations, accumulated in f32.
 *
 * ABI: w [NROWS, K] f16|f32, x [M, K] f32 -> y [M, N] f32, of which columns ROW0 ... ROW0 + NROWS - 1 are written
 * Grid: x and y fold the rows of w (ROWS a group), z walks the rows of x (TILE_M a group). LANES work-items share a row.
 * Options: F16 (type of the weights).
 */
#if F16
#define ELEMENT f16
#define LOAD(pointer, at) LOAD_F16(pointer, at)
#define LOAD8 load_f16x8
#else
#define ELEMENT float
#define LOAD(pointer, at) (pointer)[at]
#define LOAD8 load_f32x8
#endif

KERNEL dense_gemv(GLOBAL const ELEMENT* RESTRICT w, GLOBAL const float* RESTRICT x, GLOBAL float* RESTRICT y)
{
    SHARED float scratch[TILE_M * BLOCK];
    const u32 lane = LANE % LANES, row = GROUP_FOLDED * ROWS + LANE / LANES, m0 = GROUP_Z * TILE_M;
    /* Work-items past the end repeat the last row: they must reach the barriers, and they store nothing. */
    GLOBAL const ELEMENT* weights = w + (u64)(row < NROWS ? row : NROWS - 1) * K;

    float acc[TILE_M];
    GLOBAL const float* active[TILE_M];
#pragma unroll
    for (u32 m = 0; m < TILE_M; ++m) {
        acc[m] = 0.0f;
        active[m] = x + (u64)(m0 + m < M ? m0 + m : M - 1) * K;
    }

#if K % 8 == 0 /* then every row begins at a multiple of 16 bytes */
    float part[TILE_M][8]; /* eight sums side by side: no chain of dependent additions */
#pragma unroll
    for (u32 m = 0; m < TILE_M; ++m) {
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            part[m][i] = 0.0f;
        }
    }
    for (u32 chunk = lane; chunk < K / 8; chunk += LANES) {
        float weight[8];
        LOAD8(weights, chunk, weight);
#pragma unroll
        for (u32 m = 0; m < TILE_M; ++m) {
            float value[8];
            load_f32x8(active[m], chunk, value);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) {
                part[m][i] = FMA(weight[i], value[i], part[m][i]);
            }
        }
    }
#pragma unroll
    for (u32 m = 0; m < TILE_M; ++m) {
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            acc[m] += part[m][i];
        }
    }
#else
    for (u32 k = lane; k < K; k += LANES) {
        const float weight = LOAD(weights, k);
#pragma unroll
        for (u32 m = 0; m < TILE_M; ++m) {
            acc[m] = FMA(weight, active[m][k], acc[m]);
        }
    }
#endif

#pragma unroll
    for (u32 m = 0; m < TILE_M; ++m) {
        scratch[m * BLOCK + LANE] = acc[m];
    }
    BARRIER();
    for (u32 width = LANES; width > 1;) {
        const u32 half_width = (width + 1) / 2;
        if (lane + half_width < width) {
#pragma unroll
            for (u32 m = 0; m < TILE_M; ++m) {
                scratch[m * BLOCK + LANE] += scratch[m * BLOCK + LANE + half_width];
            }
        }
        BARRIER();
        width = half_width;
    }

    if (row >= NROWS) {
        return;
    }
    for (u32 m = lane; m < TILE_M && m0 + m < M; m += LANES) {
        y[(u64)(m0 + m) * N + ROW0 + row] = scratch[m * BLOCK + LANE - lane];
    }
}
