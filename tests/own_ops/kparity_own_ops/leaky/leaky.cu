/* leaky: y = x for x > 0, else SLOPE * x. ABI: x [N] f32 -> y [N] f32 */
KERNEL leaky(GLOBAL const float* RESTRICT x, GLOBAL float* RESTRICT y)
{
    const u32 at = GROUP_FOLDED * BLOCK + LANE;
    if (at < N) {
        y[at] = x[at] > 0.0f ? x[at] : SLOPE * x[at];
    }
}
