/* The product of many tokens on the tensor cores of CUDA (sm_80 on): mma.sync m16n8k32 of int8, exact in int32.
 *
 * TENSOR says that a case has it (kernels/tgemv/__init__.py); elsewhere, and for other compilers, TENSOR_CORES is 0 and
 * the text of tgemv stands. A group takes 32 rows of w and 32 tokens; its four warps share K, blocks of 256 in turn,
 * and meet once, in local memory. The grid is that of the other text, eight tokens a group: three groups of four end
 * at once.
 *
 * Lane 4g + t of a warp has row g of a fragment of weights, and token g of one of activations. PTX gives it columns
 * 4t ... 4t + 3 and 16 + 4t ... of 32. A sum has no order, so any columns will do that both sides agree on: the lane
 * takes columns 64t ... 64t + 63 of a block, which are 16 bytes of codes, four to a register without any exchange, and
 * 64 bytes of activations. A code is unpacked once and meets four fragments of tokens.
 */
#if TENSOR && defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
#endif
#endif
#ifndef TENSOR_CORES
#define TENSOR_CORES 0
#endif

#if TENSOR_CORES
#undef RESIDENT
#define RESIDENT 384 /* 168 registers: sums, codes of two blocks and 16 of activations, without a spill */
#define SLAB 2 /* fragments of 16 rows */
#define TOKENS 4 /* fragments of 8 tokens */
#define SLAB_ROWS (SLAB * 16)
#define SLAB_TOKENS (TOKENS * 8)
#define ACTIVE_SPANS (A_PER_32 ? BLOCKS * 8 : A_PER_BLOCK ? BLOCKS : 1)
#define WARPS (GPU_BLOCK / 32)
#define SUM_PITCH (SLAB_ROWS + 4) /* lanes of a warp write to banks of their own */

INLINE void mma_s8(i32* sum, const u32* a, u32 b0, u32 b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 16 bytes of a row's codes: 64 columns of a block. */
struct SlabCodes {
    u32x4 rows[SLAB][2];
};

INLINE SlabCodes slab_codes(const u32* w, u32 row0, u32 block)
{
    const u32 g = LANE % 32 / 4, t = LANE % 4;
    SlabCodes codes;
    UNROLL_ALWAYS for (u32 i = 0; i < SLAB * 2; ++i) {
        const u32 row = row0 + i * 8 + g; /* past the end the last: it is not stored */
        const u32 safe = block < BLOCKS ? block : BLOCKS - 1;
        codes.rows[i / 2][i % 2] = stream_u32x4(w + (u64)(row < N ? row : N - 1) * WORDS, safe * 4 + t);
    }
    return codes;
}

INLINE u32 word_of(u32x4 four, u32 at) { return at == 0 ? four.x : at == 1 ? four.y : at == 2 ? four.z : four.w; }

/* The products of one block of 256 columns. */
INLINE void slab_products(i32 sums[SLAB][TOKENS][4], const SlabCodes& codes, const i8* q, u32 m0, u32 block)
{
    const u32 g = LANE % 32 / 4, t = LANE % 4;
    UNROLL_ALWAYS for (u32 word = 0; word < 4; ++word) {
        u32x4 tokens[TOKENS];
        UNROLL_ALWAYS for (u32 n = 0; n < TOKENS; ++n) {
            const u32 m = m0 + n * 8 + g;
            tokens[n] = LOAD_U32X4(q + (u64)(m < M ? m : M - 1) * KP, block * 16 + t * 4 + word);
        }
        UNROLL_ALWAYS for (u32 step = 0; step < 2; ++step) {
            UNROLL_ALWAYS for (u32 slab = 0; slab < SLAB; ++slab) {
                const u32 upper = word_of(codes.rows[slab][0], word) >> 4 * step;
                const u32 lower = word_of(codes.rows[slab][1], word) >> 4 * step;
                const u32 fragment[4] = {upper & 0x03030303u, lower & 0x03030303u, (upper >> 2) & 0x03030303u,
                    (lower >> 2) & 0x03030303u};
                UNROLL_ALWAYS for (u32 n = 0; n < TOKENS; ++n) {
                    mma_s8(sums[slab][n], fragment, step == 0 ? tokens[n].x : tokens[n].z,
                        step == 0 ? tokens[n].y : tokens[n].w);
                }
            }
        }
    }
}

/* The whole of a group's work. */
template <typename Result>
INLINE void tensor_tile(const u32* w, const float* wscale, const i8* q, const float* ascale, const i32* qsum, Result* y)
{
    SHARED i32 shares[WARPS][SLAB_TOKENS * SUM_PITCH];
    const u32 row0 = GROUP_X * SLAB_ROWS, m0 = GROUP_Y * 8, warp = LANE / 32;
    if (GROUP_Y % TOKENS != 0) {
        return;
    }
    i32 sums[SLAB][TOKENS][4] = {};
    SlabCodes codes = slab_codes(w, row0, warp);
#pragma unroll 1
    for (u32 block = warp; block < BLOCKS; block += WARPS) {
        const SlabCodes next = slab_codes(w, row0, block + WARPS); /* under way while these are multiplied */
        slab_products(sums, codes, q, m0, block);
        codes = next;
    }

    const u32 g = LANE % 32 / 4, t = LANE % 4;
    UNROLL_ALWAYS for (u32 i = 0; i < SLAB * TOKENS * 4; ++i) {
        const u32 slab = i / (TOKENS * 4), n = i / 4 % TOKENS, at = i % 4;
        const u32 row = slab * 16 + at / 2 * 8 + g, token = n * 8 + 2 * t + at % 2;
        shares[warp][token * SUM_PITCH + row] = sums[slab][n][at];
    }
    BARRIER();
    for (u32 output = LANE; output < SLAB_ROWS * SLAB_TOKENS; output += GPU_BLOCK) {
        const u32 row = row0 + output % SLAB_ROWS, m = m0 + output / SLAB_ROWS;
        if (row < N && m < M) {
            i32 total = 0;
            UNROLL_ALWAYS for (u32 share = 0; share < WARPS; ++share) {
                total += shares[share][output / SLAB_ROWS * SUM_PITCH + output % SLAB_ROWS];
            }
            i32 excess = 0; /* sum(q) over the row: what the code's 1 added */
            for (u32 span = 0; span < ACTIVE_SPANS; ++span) {
                excess += qsum[m * ACTIVE_SPANS + span];
            }
#if OUT_I32
            y[(u64)m * N + row] = total - excess;
#else
            const float scale = ascale[m] * wscale[W_PER_ROW ? row : 0];
            y[(u64)m * N + row] = (float)(total - excess) * scale;
#endif
        }
    }
}
#endif
