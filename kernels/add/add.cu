/* add: the residual connection, y = a + b.
 *
 * ABI: a [M, D] f32, b [M, D] f32 -> y [M, D] f32
 * Grid: one work-item per element, folded.
 */
KERNEL add(GLOBAL const float* RESTRICT a, GLOBAL const float* RESTRICT b, GLOBAL float* RESTRICT y)
{
    const u32 at = GROUP_FOLDED * BLOCK + LANE;
    if (at < M * D) {
        y[at] = a[at] + b[at];
    }
}
