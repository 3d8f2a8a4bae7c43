/* The product of many tokens on matrix cores, exact in int32: mma.sync of CUDA (sm_80 on), v_mfma of CDNA, v_wmma of
 * RDNA 3 and 4.
 *
 * TENSOR says that a case has it (kernels/tgemv/__init__.py); on other devices MATRIX is 0 and the text of tgemv
 * stands. A group takes 32 tokens, and 32 rows of w where there are few of either: then its waves share K, blocks of
 * 256 in turn, and meet once, in local memory. Else it takes 128 rows, each wave its own, and all read the same
 * activations, which the first level of caches holds. The grid is that of the other text, eight tokens a group: three
 * groups of four end at once.
 *
 * A fragment is 16 rows of weights, or 8 or 16 tokens. A lane has one row of each (of mma.sync: rows g and g + 8 of the
 * weights), and a part of the columns. Which columns an instruction gives it does not matter: a sum has no order, so
 * any will do that both sides agree on. It takes pieces of 64 columns, which are 16 bytes of codes, four to a register
 * without any exchange, and 64 bytes of activations. A code is unpacked once and meets every fragment of tokens.
 */
#define MMA 1 /* mma.sync m16n8k32 */
#define MFMA_K16 2 /* v_mfma_i32_16x16x16i8 */
#define MFMA_K32 3 /* v_mfma_i32_16x16x32_i8 */
#define WMMA 4 /* v_wmma_i32_16x16x16_iu8: both halves of a wave have all columns */
#define WMMA_GFX12 5 /* the same, and each half has its own */
#if !TENSOR
#undef MATRIX
#elif defined(MATRIX)
#elif defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 800
#define MATRIX MMA
#endif
#elif defined(__gfx908__) || defined(__gfx90a__)
#define MATRIX MFMA_K16
#elif defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__) || defined(__gfx950__)
#define MATRIX MFMA_K32
#elif defined(__GFX11__) && !defined(WAVE64_)
#define MATRIX WMMA
#elif defined(__GFX12__) && !defined(WAVE64_)
#define MATRIX WMMA_GFX12
#endif
#ifndef MATRIX
#define MATRIX 0
#endif

#if MATRIX
/* Of an instruction: lanes of a wave; parts of the columns that these have; rows of weights of a lane; registers of
 * each; tokens of a fragment; a lane's sums. Then what a lane has: its row, its part; and of each sum row and token. */
#if MATRIX == MMA
#define PORTION_ISSUED() ((void)0) /* ptxas asks for the next activations early enough by itself */
#undef RESIDENT
#define RESIDENT 384 /* 168 registers: sums, codes of two blocks and 16 of activations, without a spill */
#define MATRIX_LANES 32
#define PARTS 4
#define LANE_ROWS 2
#define DEPTH 2
#define TOKENS 8
#define SUM_REGISTERS 4
#define LANE_ROW(lane) ((lane) / 4)
#define LANE_PART(lane) ((lane) % 4)
#define SUM_ROW(lane, at) ((at) / 2 * 8 + (lane) / 4)
#define SUM_TOKEN(lane, at) (2 * ((lane) % 4) + (at) % 2)
#else
#define PORTION_ISSUED() ISSUED()
#define MATRIX_LANES (MATRIX == WMMA || MATRIX == WMMA_GFX12 ? 32 : 64)
#define PARTS (MATRIX == WMMA ? 1 : MATRIX == WMMA_GFX12 ? 2 : 4)
#define LANE_ROWS 1
#define DEPTH (MATRIX == WMMA ? 4 : MATRIX == MFMA_K16 ? 1 : 2)
#define TOKENS 16
#define SUM_REGISTERS (256 / MATRIX_LANES)
#define LANE_ROW(lane) ((lane) % 16)
#define LANE_PART(lane) ((lane) / 16 % PARTS)
#define SUM_ROW(lane, at) (MATRIX == WMMA ? 2 * (at) + (lane) / 16 : (lane) / 16 * SUM_REGISTERS + (at))
#define SUM_TOKEN(lane, at) ((lane) % 16)
#endif

#define MATRIX_WAVES (GPU_BLOCK / MATRIX_LANES)
#define SLAB_ROWS (GPU_BLOCK / GPU_LANES * TILE_N)
#define SHARERS_OF_K (SLAB_ROWS == 32 ? MATRIX_WAVES : 1)
#define WAVE_ROWS (SLAB_ROWS * SHARERS_OF_K / MATRIX_WAVES)
#define SLABS (WAVE_ROWS / 16)
#define SLAB_TOKENS 32
#define FRAGMENTS (SLAB_TOKENS / TOKENS)
#define PIECES_OF_BLOCK (4 / PARTS) /* that a lane has of a block of 256 columns */
#define PORTION (MATRIX == MMA ? 1 : 4) /* registers of codes whose activations are asked for together */
#define PORTIONS (PIECES_OF_BLOCK * 4 / PORTION)
#define ACTIVE_SPANS (A_PER_32 ? BLOCKS * 8 : A_PER_BLOCK ? BLOCKS : 1)
#define SUM_PITCH (SLAB_ROWS + 4) /* lanes of a wave write to banks of their own */
#define SHARE (SLAB_TOKENS * SUM_PITCH) /* sums of a share of K in local memory */
#if OUT_I32
#define MATRIX_RESULT i32
#else
#define MATRIX_RESULT float
#endif

/* sum += a b, of DEPTH registers for each row; where the instruction is emulated, lanes exchange theirs in `share`. */
#ifdef MATRIX_EMULATED
#define MATRIX_PRODUCT(sum, a, b, share) MATRIX_EMULATED(sum, a, b, share)
/* Waves meet in it: all take as many blocks. */
#define MATRIX_BLOCKS ((BLOCKS + SHARERS_OF_K - 1) / SHARERS_OF_K * SHARERS_OF_K)
#else
#define MATRIX_PRODUCT(sum, a, b, share) matrix_product(sum, a, b)
#define MATRIX_BLOCKS BLOCKS
#if MATRIX == MMA
INLINE void matrix_product(i32* sum, const u32* a, const u32* b)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
typedef i32 i32_sums __attribute__((ext_vector_type(SUM_REGISTERS)));
typedef i32 i32_depth __attribute__((ext_vector_type(DEPTH)));

INLINE void matrix_product(i32* sum, const u32* a, const u32* b)
{
    i32_sums sums;
    i32_depth left, right;
    UNROLL_ALWAYS for (u32 i = 0; i < SUM_REGISTERS; ++i) {
        sums[i] = sum[i];
    }
    UNROLL_ALWAYS for (u32 i = 0; i < DEPTH; ++i) {
        left[i] = (i32)a[i];
        right[i] = (i32)b[i];
    }
#if MATRIX == MFMA_K16
    sums = __builtin_amdgcn_mfma_i32_16x16x16i8(left[0], right[0], sums, 0, 0, 0);
#elif MATRIX == MFMA_K32
    sums = __builtin_amdgcn_mfma_i32_16x16x32_i8(
        __builtin_bit_cast(long, left), __builtin_bit_cast(long, right), sums, 0, 0, 0);
#elif MATRIX == WMMA
    sums = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, left, true, right, sums, false);
#else
    sums = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12(true, left, true, right, sums, false);
#endif
    UNROLL_ALWAYS for (u32 i = 0; i < SUM_REGISTERS; ++i) {
        sum[i] = sums[i];
    }
}
#endif
#endif

/* Codes of a block: pieces of 16 bytes, 64 columns. */
typedef struct {
    u32x4 pieces[SLABS * LANE_ROWS][PIECES_OF_BLOCK];
} SlabCodes;

INLINE SlabCodes slab_codes(GLOBAL const u32* w, u32 row0, u32 block)
{
    const u32 lane = LANE % MATRIX_LANES;
    SlabCodes codes;
    UNROLL for (u32 i = 0; i < SLABS * LANE_ROWS; ++i) {
        const u32 row = row0 + i * (16 / LANE_ROWS) + LANE_ROW(lane); /* past the end the last: it is not stored */
        const u32 safe = block < BLOCKS ? block : BLOCKS - 1;
        GLOBAL const u32* words = w + (u64)(row < N ? row : N - 1) * WORDS;
        UNROLL for (u32 piece = 0; piece < PIECES_OF_BLOCK; ++piece) {
            codes.pieces[i][piece] = stream_u32x4(words, safe * 4 + piece * PARTS + LANE_PART(lane));
        }
    }
    return codes;
}

INLINE u32 word_of(u32x4 four, u32 at) { return at == 0 ? four.x : at == 1 ? four.y : at == 2 ? four.z : four.w; }

/* Activations of a portion of a block's columns. */
INLINE void slab_tokens(u32x4 tokens[PORTION][FRAGMENTS], GLOBAL const i8* q, u32 m0, u32 block, u32 portion)
{
    const u32 lane = LANE % MATRIX_LANES, safe = block < BLOCKS ? block : BLOCKS - 1;
    UNROLL for (u32 i = 0; i < PORTION * FRAGMENTS; ++i) {
        const u32 word = portion * PORTION + i / FRAGMENTS, m = m0 + i % FRAGMENTS * TOKENS + LANE_ROW(lane);
        GLOBAL const i8* token = q + (u64)(m < M ? m : M - 1) * KP; /* past the end the last: it is not stored */
        tokens[i / FRAGMENTS][i % FRAGMENTS] =
            LOAD_U32X4(token, (safe * 4 + word / 4 * PARTS + LANE_PART(lane)) * 4 + word % 4);
    }
}

/* Their products with the codes of a block; past the last block codes are 0, and add nothing. */
INLINE void slab_products(i32* sums, const SlabCodes* codes, u32x4 tokens[PORTION][FRAGMENTS], u32 block, u32 portion,
    LOCAL i32* share)
{
    const u32 field = block < BLOCKS ? 0x03030303u : 0;
    UNROLL for (u32 at = 0; at < PORTION; ++at) {
        const u32 word = portion * PORTION + at;
        UNROLL for (u32 first = 0; first < 4; first += DEPTH) {
            UNROLL for (u32 slab = 0; slab < SLABS; ++slab) {
                u32 fragment[LANE_ROWS * DEPTH];
                UNROLL for (u32 i = 0; i < LANE_ROWS * DEPTH; ++i) {
                    const u32x4 four = codes->pieces[slab * LANE_ROWS + i % LANE_ROWS][word / 4];
                    fragment[i] = word_of(four, word % 4) >> 2 * (first + i / LANE_ROWS) & field;
                }
                UNROLL for (u32 n = 0; n < FRAGMENTS; ++n) {
                    u32 active[DEPTH];
                    UNROLL for (u32 i = 0; i < DEPTH; ++i) {
                        active[i] = word_of(tokens[at][n], first + i);
                    }
                    MATRIX_PRODUCT(sums + (slab * FRAGMENTS + n) * SUM_REGISTERS, fragment, active, share);
                }
            }
        }
    }
}

/* The whole of a group's work; local memory has SHARE sums for each share of K. */
INLINE void tensor_tile(GLOBAL const u32* w, GLOBAL const float* wscale, GLOBAL const i8* q,
    GLOBAL const float* ascale, GLOBAL const i32* qsum, GLOBAL MATRIX_RESULT* y, LOCAL i32* shares)
{
    const u32 lane = LANE % MATRIX_LANES, wave = LANE / MATRIX_LANES, part = wave % SHARERS_OF_K;
    const u32 row0 = GROUP_X * SLAB_ROWS, own = wave / SHARERS_OF_K * WAVE_ROWS, m0 = GROUP_Y * 8;
    LOCAL i32* exchange = shares + wave * (SHARE * SHARERS_OF_K / MATRIX_WAVES);
    i32 sums[SLABS * FRAGMENTS * SUM_REGISTERS] = {0};
    SlabCodes codes = slab_codes(w, row0 + own, part);
#pragma unroll 1
    for (u32 block = part; block < MATRIX_BLOCKS; block += SHARERS_OF_K) {
        u32x4 tokens[PORTION][FRAGMENTS];
        slab_tokens(tokens, q, m0, block, 0); /* first: AMD's loads are waited for in their order */
        SlabCodes next = slab_codes(w, row0 + own, block + SHARERS_OF_K); /* under way while these are multiplied */
        PORTION_ISSUED();
        slab_products(sums, &codes, tokens, block, 0, exchange);
        UNROLL for (u32 portion = 1; portion < PORTIONS; ++portion) {
            slab_tokens(tokens, q, m0, block, portion);
            PORTION_ISSUED();
            slab_products(sums, &codes, tokens, block, portion, exchange);
        }
        PORTION_ISSUED();
        UNROLL for (u32 i = 0; i < SLABS * LANE_ROWS * PIECES_OF_BLOCK; ++i) {
            KEEP(next.pieces[i / PIECES_OF_BLOCK][i % PIECES_OF_BLOCK]);
        }
        codes = next;
    }

    UNROLL for (u32 i = 0; i < SLABS * FRAGMENTS * SUM_REGISTERS; ++i) {
        const u32 slab = i / (FRAGMENTS * SUM_REGISTERS), n = i / SUM_REGISTERS % FRAGMENTS, at = i % SUM_REGISTERS;
        const u32 row = own + slab * 16 + SUM_ROW(lane, at), token = n * TOKENS + SUM_TOKEN(lane, at);
        shares[part * SHARE + token * SUM_PITCH + row] = sums[i];
    }
    BARRIER();
    for (u32 output = LANE; output < SLAB_ROWS * SLAB_TOKENS; output += GPU_BLOCK) {
        const u32 row = row0 + output % SLAB_ROWS, m = m0 + output / SLAB_ROWS;
        if (row < N && m < M) {
            i32 total = 0;
            UNROLL for (u32 other = 0; other < SHARERS_OF_K; ++other) {
                total += shares[other * SHARE + output / SLAB_ROWS * SUM_PITCH + output % SLAB_ROWS];
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
