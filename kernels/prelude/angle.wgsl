// angle: cosine and sine of an angle of any size, as rotary embeddings need them.

// 2/π as a stream of bits behind 26 zeros. The 64 bits from bit s on are 2^(s-24) · 2/π, modulo 4, in steps of 2^-62.
const STREAM_0: u32 = 0x00000028u;
const STREAM_1: u32 = 0xbe60db93u;
const STREAM_2: u32 = 0x91054a7fu;

// An angle as a quarter turn 0 … 3 and a rest within ±π/4.
struct Turn {
    quarter: u32,
    rest: f32,
}

// Argument reduction of a non-negative angle below 2^31 in integers (Payne & Hanek, 1983). WGSL promises the accuracy
// of sin and cos near zero only, and lets a compiler reassociate the cancelling sums of a reduction in f32.
fn reduce(angle: f32) -> Turn {
    let bits = bitcast<u32>(angle);
    if angle < 0.5 {
        return Turn(0u, angle);
    }
    let significand = (bits & 0x7fffffu) | 0x800000u; // angle = significand · 2^(s-24)
    let s = min((bits >> 23u) - 126u, 31u);
    var high = STREAM_0;
    var low = STREAM_1;
    if s > 0u {
        high = (STREAM_0 << s) | (STREAM_1 >> (32u - s));
        low = (STREAM_1 << s) | (STREAM_2 >> (32u - s));
    }
    // The upper word of significand · (high, low) modulo 2^64: quarter turns in steps of 2^-30, at most 3 steps too
    // small.
    let a1 = significand >> 16u;
    let a0 = significand & 0xffffu;
    let b1 = low >> 16u;
    let b0 = low & 0xffffu;
    let turns = significand * high + a1 * b1 + ((a0 * b1) >> 16u) + ((a1 * b0) >> 16u);
    let quarter = (turns + 0x20000000u) >> 30u;
    let rest = bitcast<i32>(turns - (quarter << 30u));
    return Turn(quarter & 3u, f32(rest) * 1.4629180792671596e-9); // π/2 · 2^-30
}

// Taylor series on ±π/4: the first omitted terms are below 2e-9 and 3e-10.
fn sine(r: f32) -> f32 {
    let z = r * r;
    return r + r * z * (-1.6666667e-1 + z * (8.3333333e-3 + z * (-1.9841270e-4 + z * 2.7557319e-6)));
}

fn cosine(r: f32) -> f32 {
    let z = r * r;
    return 1.0 - z * (0.5 - z * (4.1666667e-2 - z * (1.3888889e-3 - z * (2.4801587e-5 - z * 2.7557319e-7))));
}

// (cos, sin) of an angle of either sign.
fn rotation(angle: f32) -> vec2<f32> {
    let turn = reduce(abs(angle));
    let c = cosine(turn.rest);
    let s = sine(turn.rest);
    var cs = vec2<f32>(c, s);
    if (turn.quarter & 1u) == 1u {
        cs = vec2<f32>(-s, c);
    }
    if (turn.quarter & 2u) == 2u {
        cs = -cs;
    }
    return vec2<f32>(cs.x, select(cs.y, -cs.y, angle < 0.0));
}
