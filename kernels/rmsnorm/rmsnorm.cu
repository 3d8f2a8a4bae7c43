/* rmsnorm: y = x / sqrt(mean(x^2) + EPS) * weight, row by row.
 *
 * ABI: x [M, D] f32, weight [D] f32 -> y [M, D] f32
 * Grid: one group per row.
 */
KERNEL rmsnorm(GLOBAL const float* RESTRICT x, GLOBAL const float* RESTRICT weight, GLOBAL float* RESTRICT y)
{
    SHARED float scratch[BLOCK];
    const u32 row = GROUP_X, lane = LANE;
    GLOBAL const float* source = x + (u64)row * D;
    GLOBAL float* target = y + (u64)row * D;

    float acc = 0.0f;
    for (u32 d = lane; d < D; d += BLOCK) {
        acc += source[d] * source[d];
    }

    /* A tree over local memory: right for every BLOCK and for every width of a wavefront. */
    scratch[lane] = acc;
    BARRIER();
    for (u32 width = BLOCK; width > 1;) {
        const u32 half_width = (width + 1) / 2;
        if (lane + half_width < width) {
            scratch[lane] += scratch[lane + half_width];
        }
        BARRIER();
        width = half_width;
    }

    const float gain = 1.0f / SQRT(scratch[0] / (float)D + EPS);
    for (u32 d = lane; d < D; d += BLOCK) {
        target[d] = source[d] * gain * weight[d];
    }
}
