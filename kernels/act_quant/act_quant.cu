/* act_quant: activations to int8, with the scale that undoes it and the sum of the codes.
 *
 * ABI: x [M, K] f32 -> q [M, KP] i8, scale [M, SPANS] f32, qsum [M, SPANS] i32
 * Grid: one group per row (x) and span of a scale (y): the whole row, 256 elements or 32.
 * Options: PER_BLOCK (one scale per 256 activations, of the sign of the largest), PER_32 (per 32, as f16 has it);
 * else one per row.
 */
#define SPAN (KP / SPANS)

//#use through_f16

REDUCE(largest, u64, 1, BLOCK, left > right ? left : right)
REDUCE(sum_span, i32, 1, BLOCK, left + right)

KERNEL act_quant(GLOBAL const float* RESTRICT x, GLOBAL i8* RESTRICT q, GLOBAL float* RESTRICT scale,
    GLOBAL i32* RESTRICT qsum)
{
    SHARED u64 keys[SCRATCH(1)];
    SHARED i32 sums[SCRATCH(1)];
    const u32 row = GROUP_X, span = GROUP_Y, lane = LANE;
    const u32 begin = span * SPAN;
    GLOBAL const float* source = x + (u64)row * K;
    GLOBAL i8* target = q + (u64)row * KP;

    /* Magnitudes are compared as integers: the order is the same, and a NaN is larger than everything instead of lost.
     * Of equal ones the first counts: its sign is the scale's. A key is magnitude, place counted backwards, sign. */
    u64 best[1] = {0};
    for (u32 k = begin + lane; k < begin + SPAN && k < K; k += BLOCK) {
        const u32 bits = AS_U32(source[k]);
        const u64 key = (u64)(bits & 0x7fffffffu) << 32 | (0x7fffffffu - k) << 1 | bits >> 31;
        best[0] = key > best[0] ? key : best[0];
    }
    largest(best, keys);
    const u32 magnitude = (u32)(best[0] >> 32);

#if PER_BLOCK
    const float extreme = AS_F32(magnitude | (u32)(best[0] & 1) << 31);
    const float factor = magnitude == 0 ? 0.0f : -127.0f / extreme;
    const float inverse = magnitude == 0 ? 0.0f : 1.0f / factor;
#elif PER_32
    const float factor = magnitude == 0 ? 0.0f : 127.0f / AS_F32(magnitude);
    const float inverse = through_f16(AS_F32(magnitude) / 127.0f);
#else
    const float absmax = AS_F32(magnitude);
    const float factor = 127.0f / (absmax < 1e-5f ? 1e-5f : absmax); /* a NaN stays one, and so does the scale */
    const float inverse = 1.0f / factor;
#endif

    i32 acc[1] = {0};
    for (u32 k = begin + lane; k < begin + SPAN; k += BLOCK) {
        i32 code = 0;
        if (k < K) {
            const float rounded = RINT(source[k] * factor);
            code = rounded >= 127.0f ? 127 : (rounded > -128.0f ? (i32)rounded : -128);
        }
        target[k] = (i8)code;
        acc[0] += code;
    }
    sum_span(acc, sums);
    if (lane == 0) {
        scale[row * SPANS + span] = inverse;
        qsum[row * SPANS + span] = acc[0];
    }
}
