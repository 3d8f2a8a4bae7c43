// dense_gemv: floating-point weights times f32 activations, f32 accumulation. LANES work-items share a row of weights, side by
// side; a work-group computes ROWS rows for TILE_M rows of activations.
//
//   0  w  array<u32>  [NROWS, K] f32 bits, or f16 two to a word
//   1  x  array<f32>  [M, K]
//   2  y  array<f32>  [M, N]   columns ROW0 … ROW0 + NROWS - 1 written

// ---- bindings
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// ---- shared memory
var<workgroup> partial: array<f32, BLOCK * TILE_M>;

// ---- helpers
const STEPS: u32 = select(K, K / 2u, F16 == 1u); // words of a row of weights

// A reduction has two stages: FOLD lanes of a row take every FOLD-th partial sum, then one work-item per output joins those.
// Two barriers instead of a tree's five.
const FOLD: u32 = min(LANES, 8u);

// Sum every `step`-th of `count` partial sums into the first of them.
fn fold(first: u32, step: u32, count: u32) -> f32 {
    var total = partial[first];
    for (var i = step; i < count; i += step) {
        total += partial[first + i];
    }
    partial[first] = total;
    return total;
}

// ---- main
@compute @workgroup_size(BLOCK)
fn dense_gemv(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let thread = local.x;
    let lane = thread % LANES;
    let row0 = (group.y * groups.x + group.x) * ROWS;
    let row = min(row0 + thread / LANES, NROWS - 1u); // excess lanes repeat the last row: control flow stays uniform
    let m0 = group.z * TILE_M;

    var acc: array<f32, TILE_M>;
    for (var step = lane; step < STEPS; step += LANES) {
        let word = w[row * STEPS + step];
        if F16 == 1u {
            let pair = unpack2x16float(word);
            for (var t = 0u; t < TILE_M; t++) {
                let at = min(m0 + t, M - 1u) * K + 2u * step;
                acc[t] += pair.x * x[at] + pair.y * x[at + 1u];
            }
        } else {
            for (var t = 0u; t < TILE_M; t++) {
                acc[t] += bitcast<f32>(word) * x[min(m0 + t, M - 1u) * K + step];
            }
        }
    }
    for (var t = 0u; t < TILE_M; t++) {
        partial[t * BLOCK + thread] = acc[t];
    }
    workgroupBarrier();
    if LANES > FOLD {
        if lane < FOLD {
            for (var t = 0u; t < TILE_M; t++) {
                fold(t * BLOCK + thread, FOLD, LANES);
            }
        }
        workgroupBarrier();
    }
    for (var output = thread; output < ROWS * TILE_M; output += BLOCK) {
        let r = row0 + output % ROWS;
        let m = m0 + output / ROWS;
        if r < NROWS && m < M {
            y[m * N + ROW0 + r] = fold((output / ROWS) * BLOCK + (output % ROWS) * LANES, 1u, FOLD);
        }
    }
}
