/* act_quant: activations to int8, with the scale that undoes it and the sum of the codes.
 *
 * ABI: x [M, K] f32 -> q [M, KP] i8, scale [M, SPANS] f32, qsum [M, SPANS] i32
 * Grid: one group per row (x) and span of a scale (y): the whole row, or 256 elements.
 * Options: PER_BLOCK (one scale per 256 activations, of the sign of the largest; else one per row).
 */
#define SPAN (KP / SPANS)

KERNEL act_quant(GLOBAL const float* RESTRICT x, GLOBAL i8* RESTRICT q, GLOBAL float* RESTRICT scale,
    GLOBAL i32* RESTRICT qsum)
{
    SHARED u32 largest[BLOCK];
    SHARED u32 where[BLOCK];
    SHARED i32 sums[BLOCK];
    const u32 row = GROUP_X, span = GROUP_Y, lane = LANE;
    const u32 begin = span * SPAN;
    GLOBAL const float* source = x + (u64)row * K;
    GLOBAL i8* target = q + (u64)row * KP;

    /* Magnitudes are compared as integers: the order is the same, and a NaN is larger than everything instead of lost. */
    u32 top = 0, at = begin;
    for (u32 k = begin + lane; k < begin + SPAN && k < K; k += BLOCK) {
        const u32 magnitude = AS_U32(source[k]) & 0x7fffffffu;
        if (magnitude > top) {
            top = magnitude;
            at = k;
        }
    }
    largest[lane] = top;
    where[lane] = at;
    BARRIER();
    for (u32 width = BLOCK; width > 1;) {
        const u32 half_width = (width + 1) / 2;
        if (lane + half_width < width) {
            const u32 other = largest[lane + half_width], place = where[lane + half_width];
            /* Of equal magnitudes the first counts: its sign is the scale's. */
            if (other > largest[lane] || (other == largest[lane] && place < where[lane])) {
                largest[lane] = other;
                where[lane] = place;
            }
        }
        BARRIER();
        width = half_width;
    }

#if PER_BLOCK
    const float extreme = source[where[0]];
    const float factor = largest[0] == 0 ? 0.0f : -127.0f / extreme;
    const float inverse = largest[0] == 0 ? 0.0f : 1.0f / factor;
#else
    const float absmax = AS_F32(largest[0]);
    const float factor = 127.0f / (absmax < 1e-5f ? 1e-5f : absmax); /* a NaN stays one, and so does the scale */
    const float inverse = 1.0f / factor;
#endif

    i32 acc = 0;
    for (u32 k = begin + lane; k < begin + SPAN; k += BLOCK) {
        i32 code = 0;
        if (k < K) {
            const float rounded = RINT(source[k] * factor);
            code = rounded >= 127.0f ? 127 : (rounded > -128.0f ? (i32)rounded : -128);
        }
        target[k] = (i8)code;
        acc += code;
    }
    sums[lane] = acc;
    BARRIER();
    for (u32 width = BLOCK; width > 1;) {
        const u32 half_width = (width + 1) / 2;
        if (lane + half_width < width) {
            sums[lane] += sums[lane + half_width];
        }
        BARRIER();
        width = half_width;
    }
    if (lane == 0) {
        scale[row * SPANS + span] = inverse;
        qsum[row * SPANS + span] = sums[0];
    }
}
