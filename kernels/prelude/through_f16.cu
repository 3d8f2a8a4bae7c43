/* A magnitude rounded to f16, half to even, as f32: the same arithmetic in every dialect. */
INLINE float through_f16(float value)
{
    const u32 bits = AS_U32(value);
    if (!(value < 65520.0f)) {
        return value * AS_F32(0x7f800000u); /* past the largest f16; a NaN stays one */
    }
    if (value < 6.103515625e-5f) { /* subnormal in f16: steps of 2^-24 */
        return RINT(value * 16777216.0f) * 5.9604644775390625e-8f;
    }
    return AS_F32((bits + 0xfffu + ((bits >> 13) & 1u)) & 0xffffe000u);
}
