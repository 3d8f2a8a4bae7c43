// norm_quant: residual or gated activation, then rmsnorm, then act_quant; one work-group per row. A lane takes words of
// q (four neighbouring elements), BLOCK words apart, and keeps their values from pass to pass: every input is read
// once.
//
//   PRE = 0   h = x                    PRE = 2   h = silu(g) · u          gu holds g and u, the two halves of a row
//   PRE = 1   h = a + b                PRE = 3   h = max(g, 0)² · u       CLAMP = 1 limits h to ±65504

//#if PRE == 0
@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, D]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [D]
@group(0) @binding(2) var<storage, read_write> q: array<u32>; // [M, DP] i8, four to a word; 0 from D on
@group(0) @binding(3) var<storage, read_write> scale: array<f32>; // [M, SPANS]
@group(0) @binding(4) var<storage, read_write> qsum: array<i32>; // [M, SPANS]
//#endif
//#if PRE == 1
@group(0) @binding(0) var<storage, read> a: array<f32>; // [M, D]
@group(0) @binding(1) var<storage, read> b: array<f32>; // [M, D]
@group(0) @binding(2) var<storage, read> weight: array<f32>; // [D]
@group(0) @binding(3) var<storage, read_write> h: array<f32>; // [M, D]
@group(0) @binding(4) var<storage, read_write> q: array<u32>; // [M, DP] i8, four to a word; 0 from D on
@group(0) @binding(5) var<storage, read_write> scale: array<f32>; // [M, SPANS]
@group(0) @binding(6) var<storage, read_write> qsum: array<i32>; // [M, SPANS]
//#endif
//#if PRE > 1
@group(0) @binding(0) var<storage, read> gu: array<f32>; // [M, 2D]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [D]
@group(0) @binding(2) var<storage, read_write> h: array<f32>; // [M, D]
@group(0) @binding(3) var<storage, read_write> q: array<u32>; // [M, DP] i8, four to a word; 0 from D on
@group(0) @binding(4) var<storage, read_write> scale: array<f32>; // [M, SPANS]
@group(0) @binding(5) var<storage, read_write> qsum: array<i32>; // [M, SPANS]
//#endif

//#use fold
//#use gate
//#use quantiser

const WORDS: u32 = DP / 4u; // of a row of q
const STEPS: u32 = (WORDS + BLOCK - 1u) / BLOCK; // words of a lane
const WITHIN: bool = PER_BLOCK == 1u || PER_32 == 1u; // scales within a row
const SPAN_STEPS: u32 = select(STEPS, 1u, WITHIN); // of one scale: all, or one of 64 or 8 neighbouring lanes
const SPAN_LANES: u32 = select(select(BLOCK, 64u, PER_BLOCK == 1u), 8u, PER_32 == 1u);
const SPAN_FOLD: u32 = SPAN_LANES / CHUNK;

// The first stage for the spans of this step: of eight lanes in one go, which a chunk of fold may exceed.
fn fold_spans(how: u32, lane: u32, value: u32) {
    if PER_32 == 0u {
        fold(how, lane, value);
        return;
    }
    partial[lane] = value;
    workgroupBarrier();
}

// The second, of the span that begins with lane `leader`.
fn span_joined(how: u32, leader: u32) -> u32 {
    if PER_32 == 0u {
        return joined(how, leader, SPAN_FOLD);
    }
    var total = partial[leader];
    for (var i = 1u; i < 8u; i++) {
        total = join(how, total, partial[leader + i]);
    }
    return total;
}

// Element d of a row before the norm.
fn before(row: u32, d: u32) -> f32 {
//#if PRE == 0
    return x[row * D + d];
//#endif
//#if PRE == 1
    return a[row * D + d] + b[row * D + d];
//#endif
//#if PRE > 1
    let g = gu[row * 2u * D + d];
    let u = gu[row * 2u * D + D + d];
    var acc: f32;
    if PRE == 3u {
        acc = relu2(g) * u;
    } else {
        acc = silu(g) * u;
    }
    if CLAMP == 1u {
        acc = limit(acc);
    }
    return acc;
//#endif
}

@compute @workgroup_size(BLOCK)
fn norm_quant(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x;
    let lane = local.x;
    var held: array<f32, 4u * STEPS>; // h, then y; 0 from D on

    var square = 0.0;
    for (var step = 0u; step < STEPS; step++) {
        for (var i = 0u; i < 4u; i++) {
            let d = (step * BLOCK + lane) * 4u + i;
            let value = select(0.0, before(row, min(d, D - 1u)), d < D);
            held[4u * step + i] = value;
            square += value * value;
//#if PRE > 0
            if d < D {
                h[row * D + d] = value;
            }
//#endif
        }
    }
    fold(SUM_F32, lane, bitcast<u32>(square));
    let total = bitcast<f32>(joined(SUM_F32, 0u, FOLD));
    let inverse = inverseSqrt(total / f32(D) + EPS);
    for (var step = 0u; step < STEPS; step++) {
        for (var i = 0u; i < 4u; i++) {
            let d = (step * BLOCK + lane) * 4u + i;
            held[4u * step + i] = select(0.0, held[4u * step + i] * inverse * weight[min(d, D - 1u)], d < D);
        }
    }

    var leader = 0u; // the first lane of this lane's span
    if WITHIN {
        leader = lane / SPAN_LANES * SPAN_LANES;
    }
    for (var first = 0u; first < STEPS; first += SPAN_STEPS) {
        workgroupBarrier(); // the last reduction was read
        // Lanes are joined in their order: of equal magnitudes within 256 activations (one word a lane) the first one
        // wins, which decides the sign of a block's scale.
        var top = 0u;
        for (var step = first; step < first + SPAN_STEPS; step++) {
            for (var i = 0u; i < 4u; i++) {
                top = larger(top, bitcast<u32>(held[4u * step + i]));
            }
        }
        fold_spans(LARGER, lane, top);
        top = span_joined(LARGER, leader);
        workgroupBarrier(); // the maxima were read
        let s = factor_of(top);

        var acc = 0;
        for (var step = first; step < first + SPAN_STEPS; step++) {
            let word = step * BLOCK + lane;
            var packed = 0u;
            for (var i = 0u; i < 4u; i++) {
                let scaled = round(held[4u * step + i] * s); // round is half to even
                // Padding stays 0 beside a NaN.
                let code = select(0, i32(clamp(scaled, -128.0, 127.0)), word * 4u + i < D);
                acc += code;
                packed |= (bitcast<u32>(code) & 255u) << (8u * i);
            }
            if word < WORDS {
                q[row * WORDS + word] = packed;
            }
        }
        fold_spans(SUM_I32, lane, bitcast<u32>(acc));
        if lane == leader && first * BLOCK + lane < WORDS {
            let at = row * SPANS + select(0u, (first * BLOCK + lane) / SPAN_LANES, WITHIN);
            qsum[at] = bitcast<i32>(span_joined(SUM_I32, leader));
            scale[at] = scale_of(top, s);
        }
    }
}
