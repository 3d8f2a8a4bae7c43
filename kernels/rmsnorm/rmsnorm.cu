/* rmsnorm: y = x / sqrt(mean(x^2) + EPS) * weight, row by row.
 *
 * ABI: x [M, D] f32, weight [D] f32 -> y [M, D] f32
 * Grid: one group per row.
 */
REDUCE(sum_row, float, 1, BLOCK, left + right)

KERNEL rmsnorm(GLOBAL const float* RESTRICT x, GLOBAL const float* RESTRICT weight, GLOBAL float* RESTRICT y)
{
    SHARED float scratch[SCRATCH(1)];
    const u32 row = GROUP_X, lane = LANE;
    GLOBAL const float* source = x + (u64)row * D;
    GLOBAL float* target = y + (u64)row * D;

    float acc[1] = {0.0f};
    for (u32 d = lane; d < D; d += BLOCK) {
        acc[0] = FMA(source[d], source[d], acc[0]);
    }
    sum_row(acc, scratch);

    const float gain = 1.0f / SQRT(acc[0] / (float)D + EPS);
    for (u32 d = lane; d < D; d += BLOCK) {
        target[d] = source[d] * gain * weight[d];
    }
}
