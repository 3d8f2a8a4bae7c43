/* The activations of a gated feed-forward block. */
INLINE float relu2(float gate)
{
    const float positive = gate < 0.0f ? 0.0f : gate; /* not FMAX, which would lose a NaN */
    return positive * positive;
}

/* exp of a value that is never positive cannot overflow: both tails come out right without a special case. */
INLINE float silu(float gate)
{
    const float decay = EXP(gate < 0.0f ? gate : -gate);
    return gate * ((gate < 0.0f ? decay : 1.0f) / (1.0f + decay));
}

/* Limited to the largest f16; a NaN passes both comparisons. */
INLINE float limited(float value) { return value > 65504.0f ? 65504.0f : (value < -65504.0f ? -65504.0f : value); }
