// gate: the activations of a gated feed-forward block.

const F16_MAX_BITS: u32 = 0x477fe000u; // 65504 in f32
const INFINITY_BITS: u32 = 0x7f800000u;

// The exponential of a number that is never positive cannot overflow, however large the gate is.
fn silu(g: f32) -> f32 {
    let decay = exp(-abs(g));
    return g * select(decay, 1.0, g >= 0.0) / (1.0 + decay);
}

// select instead of max, which may drop a NaN.
fn relu2(g: f32) -> f32 {
    let positive = select(g, 0.0, g < 0.0);
    return positive * positive;
}

// On the bits, because a compiler may assume that no value is NaN.
fn limit(value: f32) -> f32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    let beyond = magnitude > F16_MAX_BITS && magnitude <= INFINITY_BITS;
    return bitcast<f32>(select(bits, (bits & 0x80000000u) | F16_MAX_BITS, beyond));
}
