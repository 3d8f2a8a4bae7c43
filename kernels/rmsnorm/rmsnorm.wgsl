// rmsnorm: y = x / sqrt(mean(x²) + EPS) · weight, one work-group per row.
//
//   0  x       array<f32>  [M, D]
//   1  weight  array<f32>  [D]
//   2  y       array<f32>  [M, D]   written

// ---- bindings
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// ---- shared memory
var<workgroup> partial: array<f32, BLOCK>;

// ---- helpers

// A reduction has two stages: FOLD lanes take CHUNK neighbours each, then whoever needs the result joins those. Two
// barriers instead of a tree's six or eight. The first stage's bounds depend on the lane, so that a compiler for CPUs
// does not unroll it for the lanes that have no part in it.
const FOLD: u32 = select(8u, 16u, BLOCK > 64u);
const CHUNK: u32 = BLOCK / FOLD;

// ---- main
@compute @workgroup_size(BLOCK)
fn rmsnorm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x * D;
    let lane = local.x;
    var acc = 0.0;
    for (var d = lane; d < D; d += BLOCK) {
        acc += x[row + d] * x[row + d];
    }
    partial[lane] = acc;
    workgroupBarrier();
    if lane < FOLD {
        var sum = partial[lane * CHUNK];
        for (var i = lane * CHUNK + 1u; i < (lane + 1u) * CHUNK; i++) {
            sum += partial[i];
        }
        partial[lane * CHUNK] = sum;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < FOLD; i++) {
        total += partial[i * CHUNK];
    }
    let scale = inverseSqrt(total / f32(D) + EPS);
    for (var d = lane; d < D; d += BLOCK) {
        y[row + d] = x[row + d] * scale * weight[d];
    }
}
