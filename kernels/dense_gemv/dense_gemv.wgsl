// dense_gemv: floating-point weights times f32 activations, f32 accumulation. LANES work-items share a row of weights,
// side by side; a work-group computes ROWS rows for TILE_M rows of activations.
//
// Where K is a multiple of 8, w and x are vectors of four, so that a load moves 16 bytes.

//#if K % 8 == 0
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>; // [NROWS, K] f32 bits, or f16 two to a word
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [M, K]
//#else
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//#endif
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [M, N]; columns ROW0 … ROW0 + NROWS - 1 written

const FLOAT_SUMS: bool = true;
const STEPS: u32 = K / (select(1u, 2u, F16 == 1u) * select(1u, 4u, K % 8u == 0u)); // loads of a row of weights

// The share of one load of weights in the product with row m of x.
//#if K % 8 == 0
fn product(words: vec4<u32>, m: u32, step: u32) -> f32 {
    if F16 == 0u {
        return dot(bitcast<vec4<f32>>(words), x[m * STEPS + step]);
    }
    let at = (m * STEPS + step) * 2u;
    return dot(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)), x[at])
        + dot(vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)), x[at + 1u]);
}
//#else
fn product(word: u32, m: u32, step: u32) -> f32 {
    if F16 == 0u {
        return bitcast<f32>(word) * x[m * STEPS + step];
    }
    let at = (m * STEPS + step) * 2u;
    return dot(unpack2x16float(word), vec2<f32>(x[at], x[at + 1u]));
}
//#endif

//#use item
//#use rows

@compute @workgroup_size(BLOCK)
fn dense_gemv(item: Item) {
    let thread = item.local.x;
    let lane = thread % LANES;
    let row0 = group_of(item) * ROWS;
    let row = min(row0 + thread / LANES, NROWS - 1u); // excess lanes repeat the last row: control flow stays uniform
    let m0 = item.group.z * TILE_M;

    var acc: array<f32, TILE_M>;
    for (var step = lane; step < STEPS; step += LANES) {
        let weights = w[row * STEPS + step];
        for (var t = 0u; t < TILE_M; t++) {
            acc[t] += product(weights, min(m0 + t, M - 1u), step);
        }
    }
    for (var t = 0u; t < TILE_M; t++) {
        partial[t * BLOCK + thread] = bitcast<u32>(acc[t]);
    }
    fold_rows(thread);
    for (var output = thread; output < ROWS * TILE_M; output += BLOCK) {
        let r = row0 + output % ROWS;
        let m = m0 + output / ROWS;
        if r < NROWS && m < M {
            y[m * N + ROW0 + r] = bitcast<f32>(row_sum(output));
        }
    }
}
