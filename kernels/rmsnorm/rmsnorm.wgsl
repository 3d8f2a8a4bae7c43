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

// ---- main
@compute @workgroup_size(BLOCK)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x * D;
    let lane = local.x;
    var acc = 0.0;
    for (var d = lane; d < D; d += BLOCK) {
        acc += x[row + d] * x[row + d];
    }
    partial[lane] = acc;
    workgroupBarrier();
    for (var half = BLOCK / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let scale = inverseSqrt(partial[0] / f32(D) + EPS);
    for (var d = lane; d < D; d += BLOCK) {
        y[row + d] = x[row + d] * scale * weight[d];
    }
}
