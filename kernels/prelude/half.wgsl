// half: f32 to f16.

// To nearest even, on the bits: WGSL leaves the rounding of pack2x16float, its subnormals and its overflow open.
fn narrow(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu); // NaN, quiet, with the upper payload
    }
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u; // 65520 and above round to infinity
    }
    var wide: u32; // the result, before `drop` bits are rounded away
    var drop: u32;
    if magnitude >= 0x38800000u {
        wide = magnitude - 0x38000000u; // the exponent's bias is 15 instead of 127
        drop = 13u;
    } else {
        // A subnormal counts in steps of 2^-24: shift the whole significand to there.
        let shift = 126u - (magnitude >> 23u);
        if shift > 24u {
            return sign; // below half a step
        }
        wide = (magnitude & 0x7fffffu) | 0x800000u;
        drop = shift;
    }
    let half = 1u << (drop - 1u);
    let rounded = (wide + half - 1u + ((wide >> drop) & 1u)) >> drop;
    return sign | rounded; // a carry out of the fraction is the next exponent, as it should be
}

fn narrow_pair(first: u32, second: u32) -> u32 {
    return narrow(first) | (narrow(second) << 16u);
}
