/* glu: the gated activation, y = act(gate) * up.
 *
 * ABI: gate [M, D] f32, up [M, D] f32 -> y [M, D] f32
 * Grid: one work-item per element, folded.
 * Options: RELU2 (squared ReLU, else SiLU), CLAMP (limit the result to the largest f16).
 */
//#use gate

KERNEL glu(GLOBAL const float* RESTRICT gate, GLOBAL const float* RESTRICT up, GLOBAL float* RESTRICT y)
{
    const u32 at = GROUP_FOLDED * BLOCK + LANE;
    if (at < M * D) {
        const float value = (RELU2 ? relu2(gate[at]) : silu(gate[at])) * up[at];
        y[at] = CLAMP ? limited(value) : value;
    }
}
