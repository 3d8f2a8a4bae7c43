// quantiser: how the largest value of a span decides its scale.

const FLOOR_BITS: u32 = 0x3727c5acu; // 1e-5

// What the values of a span are multiplied by, from the bits of the largest.
fn factor_of(top: u32) -> f32 {
    if PER_BLOCK == 0u {
        return 127.0 / bitcast<f32>(max(magnitude(top), FLOOR_BITS));
    }
    if magnitude(top) == 0u {
        return 0.0;
    }
    return -127.0 / bitcast<f32>(top);
}

fn scale_of(top: u32, factor: f32) -> f32 {
    if PER_BLOCK == 1u && magnitude(top) == 0u {
        return 0.0;
    }
    return 1.0 / factor;
}
