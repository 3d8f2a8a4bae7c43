/* NORMED: a row of activations normed and quantised by each group for itself (norm_quant, one scale a row), in the
 * order of norm_quant's own text: a work-item stands for several of the NORM_BLOCK that a row has there, so that the
 * bits are those. PRE: 0 none, 1 add. D is a multiple of 4.
 */
#ifndef NORMED
#define NORMED 0
#endif
#if NORMED
#undef BLOCK
#define BLOCK GPU_BLOCK
#define TURNS ((NORM_BLOCK + BLOCK - 1) / BLOCK)            /* work-items that one stands for */
#define EACH ((KP / 4 + NORM_BLOCK - 1) / NORM_BLOCK)      /* four elements at a time that each of them has */
#define HELD (TURNS * EACH)
#define STANDS_FOR(turn) (LANE + (turn) * BLOCK)
#if PRE
#define STREAM h
#define OTHER right
#else
#define STREAM 0
#define OTHER left
#endif
/* Four elements' place in the row; past its end for who stands for nobody. */
#define QUAD(i) (STANDS_FOR((i) / EACH) < NORM_BLOCK ? STANDS_FOR((i) / EACH) + (i) % EACH * NORM_BLOCK : KP / 4)

FOLD(fold_squares, float, TURNS, NORM_BLOCK, left + right)
REDUCE(largest, u32, 1, BLOCK, left > right ? left : right)
REDUCE(sum_codes, i32, 1, BLOCK, left + right)

/* Four elements of each of HELD places, on their way. */
INLINE void load_quads(GLOBAL const float* row, u32x4* out)
{
    UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
        out[i] = early_u32x4(row, QUAD(i) < D / 4 ? QUAD(i) : 0);
    }
}

/* As numbers; 0 past the end of the row. */
INLINE void numbers(u32x4 waiting, u32 quad, float* out)
{
    const u32 words[4] = {waiting.x, waiting.y, waiting.z, waiting.w};
    UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
        out[j] = quad < D / 4 ? AS_F32(words[j]) : 0.0f;
    }
}

INLINE i32 code_of(float scaled)
{
    const float rounded = RINT(scaled);
    return rounded >= 127.0f ? 127 : (rounded > -128.0f ? (i32)rounded : -128);
}

/* `left` (and `right`, PRE 1) become h, which the first group stores, and h becomes words of codes. Gives their scale,
 * and their sum. */
INLINE float quantised(const u32x4* left, const u32x4* right, const u32x4* gain, GLOBAL float* h, u32* words, i32* sum,
    LOCAL float* squares, LOCAL u32* tops, LOCAL i32* sums)
{
    float value[HELD][4], acc[TURNS] = {0.0f};
    UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
        numbers(left[i], QUAD(i), value[i]);
#if PRE
        float more[4];
        numbers(right[i], QUAD(i), more);
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            value[i][j] = value[i][j] + more[j];
        }
#endif
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            acc[i / EACH] = FMA(value[i][j], value[i][j], acc[i / EACH]);
        }
    }
#if PRE
    if (GROUP_X == 0) {
        UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
            if (QUAD(i) < D / 4) {
                f32x4 four;
                four.x = value[i][0];
                four.y = value[i][1];
                four.z = value[i][2];
                four.w = value[i][3];
                ((GLOBAL f32x4*)h)[QUAD(i)] = four;
            }
        }
    }
#endif
    const float inverse_root = 1.0f / SQRT(fold_squares(acc, squares) / (float)D + EPS);
    u32 top[1] = {0};
    UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
        float gains[4];
        numbers(gain[i], QUAD(i), gains);
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            value[i][j] = value[i][j] * inverse_root * gains[j];
            const u32 magnitude = AS_U32(value[i][j]) & 0x7fffffffu; /* a NaN is larger than everything */
            top[0] = magnitude > top[0] ? magnitude : top[0];
        }
    }
    largest(top, tops);
    const float absmax = AS_F32(top[0]), factor = 127.0f / (absmax < 1e-5f ? 1e-5f : absmax);
    i32 total[1] = {0};
    UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
        words[i] = 0;
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            const i32 code = QUAD(i) < D / 4 ? code_of(value[i][j] * factor) : 0;
            words[i] |= ((u32)code & 0xffu) << (8 * j);
            total[0] += code;
        }
    }
    sum_codes(total, sums);
    sum[0] = total[0];
    return 1.0f / factor;
}
#endif
