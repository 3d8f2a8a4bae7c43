/* norm_quant: residual or gated activation, then rmsnorm, then act_quant, row by row.
 *
 * ABI: x [M, D] | a [M, D], b [M, D] | gu [M, 2D] f32, weight [D] f32
 *      -> (h [M, D] f32,) q [M, DP] i8, scale [M, SPANS] f32, qsum [M, SPANS] i32
 * Grid: one group per row.
 * Options: PRE (0 none, 1 add, 2 silu, 3 relu2), CLAMP (limit h to the largest f16), PER_BLOCK (one scale per 256
 * elements, of the sign of the largest), PER_32 (per 32, as f16 has it);
 * else one per row.
 *
 * A work-item holds SHARE times 4 neighbouring elements in registers from the first pass to the last: a row is read
 * once.
 */
#undef BLOCK
#define BLOCK GPU_BLOCK
#define QUADS (DP / 4)
#define SHARE ((QUADS + BLOCK - 1) / BLOCK)
#define NONE 0
#define ADD 1
#define SILU 2
#define RELU2 3

//#use gate
//#use through_f16

/* Magnitudes are compared as integers: the order is the same, and a NaN is larger than everything instead of lost. A
 * block's key has the place counted backwards behind it, so that the first of equals wins, and then the sign. */
#if PER_BLOCK || PER_32
#define HELD SHARE /* spans of which a work-item has elements, over SPAN_LANES each */
#define SPAN_LANES (QUADS / SPANS)
#define SPAN(i) (i)
#else
#define HELD 1
#define SPAN_LANES BLOCK
#define SPAN(i) 0
#endif
#if PER_BLOCK
#define KEY u64
#define KEY_OF(bits, place) ((u64)((bits) & 0x7fffffffu) << 32 | (0x7fffffffu - (place)) << 1 | (bits) >> 31)
#define MAGNITUDE(key) ((u32)((key) >> 32))
#else
#define KEY u32
#define KEY_OF(bits, place) ((bits) & 0x7fffffffu)
#define MAGNITUDE(key) (key)
#endif

REDUCE(sum_f32, float, 1, BLOCK, left + right)
REDUCE(largest, KEY, HELD, SPAN_LANES, left > right ? left : right)
REDUCE(sum_codes, i32, HELD, SPAN_LANES, left + right)

/* Elements 4 * quad ... 4 * quad + 3 of a row; 0 past its end. */
INLINE void load_quad(GLOBAL const float* row, u32 quad, float* out)
{
#if D % 4 == 0 /* then every row begins at a multiple of 16 bytes */
    const u32x4 four = strong_u32x4(row, quad < D / 4 ? quad : 0);
    out[0] = quad < D / 4 ? AS_F32(four.x) : 0.0f;
    out[1] = quad < D / 4 ? AS_F32(four.y) : 0.0f;
    out[2] = quad < D / 4 ? AS_F32(four.z) : 0.0f;
    out[3] = quad < D / 4 ? AS_F32(four.w) : 0.0f;
#else
    UNROLL_ALWAYS for (u32 i = 0; i < 4; ++i) {
        out[i] = 4 * quad + i < D ? row[4 * quad + i] : 0.0f;
    }
#endif
}

/* The same to a row; nothing past its end. */
INLINE void store_quad(GLOBAL float* row, u32 quad, const float* in)
{
#if D % 4 == 0
    if (quad < D / 4) {
        f32x4 four;
        four.x = in[0];
        four.y = in[1];
        four.z = in[2];
        four.w = in[3];
        ((GLOBAL f32x4*)row)[quad] = four;
    }
#else
    UNROLL_ALWAYS for (u32 i = 0; i < 4; ++i) {
        if (4 * quad + i < D) {
            row[4 * quad + i] = in[i];
        }
    }
#endif
}

INLINE float gated(float gate, float up)
{
    const float value = (PRE == RELU2 ? relu2(gate) : silu(gate)) * up;
    return CLAMP ? limited(value) : value;
}

INLINE i32 code_of(float scaled)
{
    const float rounded = RINT(scaled);
    return rounded >= 127.0f ? 127 : (rounded > -128.0f ? (i32)rounded : -128);
}

KERNEL norm_quant(
#if PRE == NONE
    GLOBAL const float* RESTRICT x,
#elif PRE == ADD
    GLOBAL const float* RESTRICT a, GLOBAL const float* RESTRICT b,
#else
    GLOBAL const float* RESTRICT gu,
#endif
    GLOBAL const float* RESTRICT weight,
#if PRE != NONE
    GLOBAL float* RESTRICT h,
#endif
    GLOBAL i8* RESTRICT q, GLOBAL float* RESTRICT scale, GLOBAL i32* RESTRICT qsum)
{
    SHARED float floats[SCRATCH(1)];
    const u32 row = GROUP_X, lane = LANE;

    /* All that the row needs is asked for at once. */
    float value[SHARE][4], gain[SHARE][4];
#if PRE != NONE
    float right[SHARE][4];
#endif
    UNROLL_ALWAYS for (u32 i = 0; i < SHARE; ++i) {
        const u32 quad = lane + i * BLOCK;
        load_quad(weight, quad, gain[i]);
#if PRE == NONE
        load_quad(x + (u64)row * D, quad, value[i]);
#elif PRE == ADD
        load_quad(a + (u64)row * D, quad, value[i]);
        load_quad(b + (u64)row * D, quad, right[i]);
#else
        load_quad(gu + (u64)row * (2 * D), quad, value[i]);
        load_quad(gu + (u64)row * (2 * D) + D, quad, right[i]);
#endif
    }
    ISSUED();

    float acc[1] = {0.0f};
    UNROLL_ALWAYS for (u32 i = 0; i < SHARE; ++i) {
#if PRE != NONE
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
#if PRE == ADD
            value[i][j] = value[i][j] + right[i][j];
#else
            value[i][j] = gated(value[i][j], right[i][j]);
#endif
        }
        store_quad(h + (u64)row * D, lane + i * BLOCK, value[i]);
#endif
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            acc[0] = FMA(value[i][j], value[i][j], acc[0]);
        }
    }
    sum_f32(acc, floats);
    const float inverse_root = 1.0f / SQRT(acc[0] / (float)D + EPS);
    UNROLL_ALWAYS for (u32 i = 0; i < SHARE; ++i) {
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            value[i][j] = value[i][j] * inverse_root * gain[i][j];
#if PER_32 /* a span of padding alone stays 0 beside a NaN */
            value[i][j] = 4 * (lane + i * BLOCK) + j < D ? value[i][j] : 0.0f;
#endif
        }
    }

    SHARED KEY keys[SCRATCH(HELD)];
    KEY best[HELD] = {0};
    UNROLL_ALWAYS for (u32 i = 0; i < SHARE; ++i) {
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            const KEY key = KEY_OF(AS_U32(value[i][j]), 4 * (lane + i * BLOCK) + j);
            best[SPAN(i)] = key > best[SPAN(i)] ? key : best[SPAN(i)];
        }
    }
    largest(best, keys);
    float factor[HELD], inverse[HELD];
    UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
        const u32 magnitude = MAGNITUDE(best[i]);
#if PER_BLOCK
        factor[i] = magnitude == 0 ? 0.0f : -127.0f / AS_F32(magnitude | (u32)(best[i] & 1) << 31);
        inverse[i] = magnitude == 0 ? 0.0f : 1.0f / factor[i];
#elif PER_32
        factor[i] = magnitude == 0 ? 0.0f : 127.0f / AS_F32(magnitude);
        inverse[i] = through_f16(AS_F32(magnitude) / 127.0f);
#else
        const float absmax = AS_F32(magnitude);
        factor[i] = 127.0f / (absmax < 1e-5f ? 1e-5f : absmax); /* a NaN stays one, and so does the scale */
        inverse[i] = 1.0f / factor[i];
#endif
    }

    i32 codes[HELD] = {0};
    UNROLL_ALWAYS for (u32 i = 0; i < SHARE; ++i) {
        const u32 quad = lane + i * BLOCK;
        u32 word = 0;
        UNROLL_ALWAYS for (u32 j = 0; j < 4; ++j) {
            const i32 code = 4 * quad + j < D ? code_of(value[i][j] * factor[SPAN(i)]) : 0;
            word |= ((u32)code & 0xffu) << (8 * j);
            codes[SPAN(i)] += code;
        }
        if (quad < QUADS) {
            ((GLOBAL u32*)(q + (u64)row * DP))[quad] = word;
        }
    }
    SHARED i32 sums[SCRATCH(HELD)];
    sum_codes(codes, sums);
    UNROLL_ALWAYS for (u32 i = 0; i < HELD; ++i) {
        const u32 quad = lane + i * BLOCK, span = quad / SPAN_LANES;
        if (quad < QUADS && quad % SPAN_LANES == 0) {
            scale[row * SPANS + span] = inverse[i];
            qsum[row * SPANS + span] = codes[i];
        }
    }
}
