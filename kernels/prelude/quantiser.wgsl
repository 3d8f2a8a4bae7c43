// quantiser: how the largest value of a span decides its scale.

const FLOOR_BITS: u32 = 0x3727c5acu; // 1e-5

// What the values of a span are multiplied by, from the bits of the largest.
fn factor_of(top: u32) -> f32 {
    if PER_32 == 1u {
        return select(127.0 / bitcast<f32>(max(magnitude(top), 1u)), 0.0, magnitude(top) == 0u);
    }
    if PER_BLOCK == 0u {
        return 127.0 / bitcast<f32>(max(magnitude(top), FLOOR_BITS));
    }
    if magnitude(top) == 0u {
        return 0.0;
    }
    return -127.0 / bitcast<f32>(top);
}

fn scale_of(top: u32, factor: f32) -> f32 {
    if PER_32 == 1u {
        return through_f16(bitcast<f32>(magnitude(top)) / 127.0);
    }
    if PER_BLOCK == 1u && magnitude(top) == 0u {
        return 0.0;
    }
    return 1.0 / factor;
}

// A magnitude rounded to f16, half to even, as f32.
fn through_f16(value: f32) -> f32 {
    let bits = bitcast<u32>(value);
    if bits >= 0x7f800000u {
        return value; // an infinity, or a NaN
    }
    if bits >= 0x477ff000u {
        return bitcast<f32>(max(0x7f800000u, bits)); // 65520 and above round to infinity
    }
    if bits < 0x38800000u {
        return round(value * 16777216.0) / 16777216.0; // subnormal in f16: steps of 2^-24
    }
    return bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
}
