/* tgemv: packed ternary weights times int8 activations, exact in int32, then scaled.
 *
 * ABI: w [N, WORDS] u32, wscale [1] | [N] | [N, BLOCKS] f32, q [M, KP] i8, ascale [M, 1 | BLOCKS] f32, qsum [M, 1 | BLOCKS] i32
 *      -> y [M, N] f32|i32
 * Grid: x walks the rows of w (ROWS a group), y the rows of q (TILE_M a group). LANES work-items share a row.
 * Options: W_PER_BLOCK, A_PER_BLOCK (a scale per 256 elements, else one), W_PER_ROW (a scale per row of w), OUT_I32 (the accumulators themselves).
 *
 * A word holds 16 codes w + 1; (word >> 2s) & 0x03030303 is a dp4a operand. The code's 1 is undone by subtracting sum(q) once per span
 * of qsum; where scales change within a row and qsum does not, the codes are made signed instead.
 */
#define CHUNKS (WORDS / 4) /* pieces of 16 bytes, 64 weights, a load each */
#define SPANNED ((W_PER_BLOCK || A_PER_BLOCK) && !OUT_I32)
#define SIGNED (SPANNED && !A_PER_BLOCK)
#define ASPANS (A_PER_BLOCK ? BLOCKS : 1)

/* Where scales change every 256 weights, a work-item takes whole blocks, so that the sum of a block is an integer until it is complete
 * and its one conversion is exact. */
#if SPANNED
#define STEP 4
#define PARTIAL float
#else
#define STEP 1
#define PARTIAL i32
#endif

/* The codes of 4 weights in the bytes of an operand; 0, 1, 2 become -1, 0, 1 where the sum is not corrected afterwards. */
INLINE u32 operand(u32 word, u32 shift)
{
    const u32 codes = (word >> shift) & 0x03030303u;
#if SIGNED
    return ((codes | 0x80808080u) - 0x01010101u) ^ 0x80808080u; /* the top bits keep the bytes from borrowing */
#else
    return codes;
#endif
}

KERNEL tgemv(GLOBAL const u32* RESTRICT w, GLOBAL const float* RESTRICT wscale, GLOBAL const i8* RESTRICT q,
    GLOBAL const float* RESTRICT ascale, GLOBAL const i32* RESTRICT qsum,
#if OUT_I32
    GLOBAL i32* RESTRICT y)
#else
    GLOBAL float* RESTRICT y)
#endif
{
    SHARED PARTIAL scratch[TILE_M * BLOCK];
    const u32 lane = LANE % LANES, row = GROUP_X * ROWS + LANE / LANES, m0 = GROUP_Y * TILE_M;
    /* Work-items past the end repeat the last row: they must reach the barriers, and they store nothing. */
    const u32 safe_row = row < N ? row : N - 1;
    GLOBAL const u32* words = w + (u64)safe_row * WORDS;

    PARTIAL acc[TILE_M];
    GLOBAL const i8* codes[TILE_M];
#pragma unroll
    for (u32 m = 0; m < TILE_M; ++m) {
        acc[m] = 0;
        codes[m] = q + (u64)(m0 + m < M ? m0 + m : M - 1) * KP;
    }

    for (u32 chunk = lane * STEP; chunk < CHUNKS; chunk += LANES * STEP) {
        i32 sum[TILE_M];
#pragma unroll
        for (u32 m = 0; m < TILE_M; ++m) {
            sum[m] = 0;
        }
#if TILE_M == 1 /* one row leaves registers for four loads in flight; more would only blow up the code */
#pragma unroll
#else
#pragma unroll 1
#endif
        for (u32 step = 0; step < STEP; ++step) {
            const u32x4 packed = LOAD_U32X4(words, chunk + step);
            const u32 four[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const u32 w0 = operand(four[i], 0), w1 = operand(four[i], 2);
                const u32 w2 = operand(four[i], 4), w3 = operand(four[i], 6);
#pragma unroll
                for (u32 m = 0; m < TILE_M; ++m) {
                    const u32x4 active = LOAD_U32X4(codes[m], 4 * (chunk + step) + i);
                    sum[m] = DP4A(w0, active.x, sum[m]);
                    sum[m] = DP4A(w1, active.y, sum[m]);
                    sum[m] = DP4A(w2, active.z, sum[m]);
                    sum[m] = DP4A(w3, active.w, sum[m]);
                }
            }
        }
#if SPANNED
        const u32 block = chunk / 4;
        const float weight_scale = wscale[W_PER_BLOCK ? safe_row * BLOCKS + block : (W_PER_ROW ? safe_row : 0)];
#pragma unroll
        for (u32 m = 0; m < TILE_M; ++m) {
            const u32 at = (m0 + m < M ? m0 + m : M - 1) * ASPANS + (A_PER_BLOCK ? block : 0);
            acc[m] += (float)(SIGNED ? sum[m] : sum[m] - qsum[at]) * (ascale[at] * weight_scale);
        }
#else
#pragma unroll
        for (u32 m = 0; m < TILE_M; ++m) {
            acc[m] += sum[m];
        }
#endif
    }

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

    if (row >= N) {
        return;
    }
    for (u32 m = lane; m < TILE_M && m0 + m < M; m += LANES) {
        const PARTIAL total = scratch[m * BLOCK + LANE - lane];
        const u64 at = (u64)(m0 + m) * N + row;
#if SPANNED
        y[at] = total;
#else
        i32 excess = 0; /* sum(q) over the row: what the code's 1 added */
        for (u32 span = 0; span < ASPANS; ++span) {
            excess += qsum[(m0 + m) * ASPANS + span];
        }
#if OUT_I32
        y[at] = total - excess;
#else
        y[at] = (float)(total - excess) * (ascale[m0 + m] * wscale[W_PER_ROW ? row : 0]);
#endif
#endif
    }
}
