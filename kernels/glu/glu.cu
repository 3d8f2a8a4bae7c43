/* glu: the gated activation, y = act(gate) * up.
 *
 * ABI: gate [M, D] f32, up [M, D] f32 -> y [M, D] f32
 * Grid: one work-item per element, folded.
 * Options: RELU2 (squared ReLU, else SiLU), CLAMP (limit the result to the largest f16).
 */
#define LIMIT 65504.0f

INLINE float activate(float gate)
{
#if RELU2
    const float positive = gate < 0.0f ? 0.0f : gate; /* not FMAX, which would lose a NaN */
    return positive * positive;
#else
    /* exp of a value that is never positive cannot overflow: both tails come out right without a special case. */
    const float decay = EXP(gate < 0.0f ? gate : -gate);
    return gate * ((gate < 0.0f ? decay : 1.0f) / (1.0f + decay));
#endif
}

KERNEL glu(GLOBAL const float* RESTRICT gate, GLOBAL const float* RESTRICT up, GLOBAL float* RESTRICT y)
{
    const u32 at = GROUP_FOLDED * BLOCK + LANE;
    if (at < M * D) {
        float value = activate(gate[at]) * up[at];
#if CLAMP
        value = value > LIMIT ? LIMIT : (value < -LIMIT ? -LIMIT : value); /* a NaN passes both comparisons */
#endif
        y[at] = value;
    }
}
