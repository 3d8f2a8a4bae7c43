// magnitude: which of two numbers is the larger, by their bits, as the scale of a row needs it.

fn magnitude(bits: u32) -> u32 {
    return bits & 0x7fffffffu;
}

// The operand with the larger magnitude, the left one in a tie. Magnitudes compare as integers: that orders them like
// the numbers, and a NaN exceeds them all, so it reaches the scale and spoils the row visibly.
fn larger(left: u32, right: u32) -> u32 {
    return select(left, right, magnitude(right) > magnitude(left));
}
