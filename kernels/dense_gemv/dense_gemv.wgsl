// dense_gemv: floating-point weights times f32 activations, f32 accumulation. LANES work-items share a row of weights, side by side;
// a work-group computes ROWS rows for TILE_M rows of activations.
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

// ---- main
@compute @workgroup_size(BLOCK)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let thread = local.x;
    let lane = thread % LANES;
    let row = (group.y * groups.x + group.x) * ROWS + thread / LANES;
    let m0 = group.z * TILE_M;
    let safe_row = min(row, NROWS - 1u); // excess groups compute the last row again: control flow stays uniform

    var acc: array<f32, TILE_M>;
    for (var step = lane; step < STEPS; step += LANES) {
        let word = w[safe_row * STEPS + step];
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
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            for (var t = 0u; t < TILE_M; t++) {
                partial[t * BLOCK + thread] += partial[t * BLOCK + thread + half];
            }
        }
        workgroupBarrier();
    }
    if lane == 0u && row < NROWS {
        for (var t = 0u; t < TILE_M; t++) {
            if m0 + t < M {
                y[(m0 + t) * N + ROW0 + row] = partial[t * BLOCK + thread];
            }
        }
    }
}
