// tgemv: ternary weights times int8 activations, exact in i32, then scaled. LANES work-items share a row of weights; a
// work-group computes ROWS rows for TILE_M rows of activations, so that a weight is decoded once for all of them.

@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>; // [N, WORDS] u32, 16 codes a word, code = weight + 1
@group(0) @binding(1) var<storage, read> wscale: array<f32>; // [1]; [N] if W_PER_ROW; [N, SPANS] if W_PER_BLOCK
@group(0) @binding(2) var<storage, read> q: array<vec4<u32>>; // [M, KP] i8, 16 to a vector
@group(0) @binding(3) var<storage, read> ascale: array<f32>; // [M]; [M, BLOCKS] if A_PER_BLOCK; [M, KP/32] if A_PER_32
@group(0) @binding(4) var<storage, read> qsum: array<i32>; // like ascale: Σq over the span of the scale
@group(0) @binding(5) var<storage, read_write> y: array<u32>; // [M, N] f32 bits, or i32 if OUT_I32

const QUADS: u32 = WORDS / 4u; // vectors of 64 weights in a row
const SPANS: u32 = KP / SPAN; // of a row: SPAN elements are summed, then scaled
const SPAN_QUADS: u32 = SPAN / 64u;
const SPANS_OF_BLOCK: u32 = 256u / SPAN;
const WITHIN: bool = W_PER_BLOCK == 1u || A_PER_BLOCK == 1u || A_PER_32 == 1u; // scales within a row
const FLOAT_SUMS: bool = WITHIN && OUT_I32 == 0u; // of whole spans, scaled
const UNSUMMED: bool = A_PER_BLOCK == 0u || SPAN < 256u; // qsum does not have the spans
const A_SPANS: u32 = select(select(1u, BLOCKS, A_PER_BLOCK == 1u), KP / 32u, A_PER_32 == 1u); // scales, sums of a row

//#use rows

// Σ code · q over 16 weights: elements 4s … 4s+3 of a word are the bytes of (word >> 2s) & 0x03030303.
fn dot16(word: u32, act: vec4<u32>) -> i32 {
    return dot4I8Packed(word & 0x03030303u, act.x)
        + dot4I8Packed((word >> 2u) & 0x03030303u, act.y)
        + dot4I8Packed((word >> 4u) & 0x03030303u, act.z)
        + dot4I8Packed((word >> 6u) & 0x03030303u, act.w);
}

// Σq of 16 activations: what the codes' excess of 1 adds, where no span of qsum fits.
fn sum16(act: vec4<u32>) -> i32 {
    return dot4I8Packed(0x01010101u, act.x) + dot4I8Packed(0x01010101u, act.y)
        + dot4I8Packed(0x01010101u, act.z) + dot4I8Packed(0x01010101u, act.w);
}

// Σ code · q over the 64 weights of one vector; `at` is the first of its four activation vectors.
fn dot64(words: vec4<u32>, at: u32) -> i32 {
    return dot16(words.x, q[at]) + dot16(words.y, q[at + 1u])
        + dot16(words.z, q[at + 2u]) + dot16(words.w, q[at + 3u]);
}

fn sum64(at: u32) -> i32 {
    return sum16(q[at]) + sum16(q[at + 1u]) + sum16(q[at + 2u]) + sum16(q[at + 3u]);
}

// A scale per row: a lane takes every LANES-th vector, neighbours side by side. Partial sums are i32.
fn row_sums(row: u32, m0: u32, lane: u32, thread: u32) {
    var acc: array<i32, TILE_M>;
    for (var quad = lane; quad < QUADS; quad += LANES) {
        let words = w[row * QUADS + quad];
        for (var t = 0u; t < TILE_M; t++) {
            acc[t] += dot64(words, (min(m0 + t, M - 1u) * QUADS + quad) * 4u);
        }
    }
    for (var t = 0u; t < TILE_M; t++) {
        partial[t * BLOCK + thread] = bitcast<u32>(acc[t]);
    }
}

// A scale per span: a lane takes whole spans, because only the exact sum of a span may be multiplied. Partial sums are
// f32.
fn span_sums(row: u32, m0: u32, lane: u32, thread: u32) {
    var acc: array<f32, TILE_M>;
    for (var span = lane; span < SPANS; span += LANES) {
        var wide = wscale[row * W_PER_ROW];
        if W_PER_BLOCK == 1u {
            wide = wscale[row * SPANS + span];
        }
        for (var t = 0u; t < TILE_M; t++) {
            let m = min(m0 + t, M - 1u);
            var sum = 0;
            for (var quad = SPAN_QUADS * span; quad < SPAN_QUADS * span + SPAN_QUADS; quad++) {
                let at = (m * QUADS + quad) * 4u;
                sum += dot64(w[row * QUADS + quad], at);
                if UNSUMMED {
                    sum -= sum64(at);
                }
            }
            var narrow = ascale[m];
            if A_PER_BLOCK == 1u {
                narrow = ascale[m * BLOCKS + span / SPANS_OF_BLOCK];
            }
            if !UNSUMMED {
                sum -= qsum[m * BLOCKS + span];
            }
            acc[t] += f32(sum) * (narrow * wide);
        }
    }
    for (var t = 0u; t < TILE_M; t++) {
        partial[t * BLOCK + thread] = bitcast<u32>(acc[t]);
    }
}

// The same with a scale per 32 activations, whose sums qsum has: a lane takes pairs of spans, whole vectors.
fn half_sums(row: u32, m0: u32, lane: u32, thread: u32) {
    var acc: array<f32, TILE_M>;
    for (var pair = lane; pair < QUADS; pair += LANES) {
        let words = w[row * QUADS + pair];
        var wide = wscale[row * W_PER_ROW];
        if W_PER_BLOCK == 1u {
            wide = wscale[row * SPANS + pair / SPAN_QUADS];
        }
        for (var t = 0u; t < TILE_M; t++) {
            let m = min(m0 + t, M - 1u);
            let first = (m * QUADS + pair) * 4u;
            let span = m * A_SPANS + 2u * pair;
            let low = dot16(words.x, q[first]) + dot16(words.y, q[first + 1u]) - qsum[span];
            let high = dot16(words.z, q[first + 2u]) + dot16(words.w, q[first + 3u]) - qsum[span + 1u];
            acc[t] += f32(low) * (ascale[span] * wide);
            acc[t] += f32(high) * (ascale[span + 1u] * wide);
        }
    }
    for (var t = 0u; t < TILE_M; t++) {
        partial[t * BLOCK + thread] = bitcast<u32>(acc[t]);
    }
}

// Σq of a whole row, to be subtracted once from a sum of codes.
fn row_qsum(m: u32) -> i32 {
    var sum = 0;
    for (var span = 0u; span < A_SPANS; span++) {
        sum += qsum[m * A_SPANS + span];
    }
    return sum;
}

fn finish(total: u32, m: u32, n: u32) -> u32 {
    if FLOAT_SUMS {
        return total;
    }
    let acc = bitcast<i32>(total) - row_qsum(m);
    if OUT_I32 == 1u {
        return bitcast<u32>(acc);
    }
    return bitcast<u32>(f32(acc) * (ascale[m] * wscale[n * W_PER_ROW]));
}

@compute @workgroup_size(BLOCK)
fn tgemv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let thread = local.x;
    let lane = thread % LANES;
    // Excess lanes repeat the last row: control flow stays uniform.
    let row = min(group.x * ROWS + thread / LANES, N - 1u);
    let m0 = group.y * TILE_M;
    if FLOAT_SUMS && A_PER_32 == 1u {
        half_sums(row, m0, lane, thread);
    } else if FLOAT_SUMS {
        span_sums(row, m0, lane, thread);
    } else {
        row_sums(row, m0, lane, thread);
    }
    fold_rows(thread);
    for (var output = thread; output < ROWS * TILE_M; output += BLOCK) {
        let n = group.x * ROWS + output % ROWS;
        let m = m0 + output / ROWS;
        if n < N && m < M {
            y[m * N + n] = finish(row_sum(output), m, n);
        }
    }
}
