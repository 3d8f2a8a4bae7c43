// rmsnorm: y = x / sqrt(mean(x²) + EPS) · weight, one work-group per row.

@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, D]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [D]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [M, D]

//#use fold

@compute @workgroup_size(BLOCK)
fn rmsnorm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x * D;
    let lane = local.x;
    var acc = 0.0;
    for (var d = lane; d < D; d += BLOCK) {
        acc += x[row + d] * x[row + d];
    }
    fold(SUM_F32, lane, bitcast<u32>(acc));
    let total = bitcast<f32>(joined(SUM_F32, 0u, FOLD));
    let scale = inverseSqrt(total / f32(D) + EPS);
    for (var d = lane; d < D; d += BLOCK) {
        y[row + d] = x[row + d] * scale * weight[d];
    }
}
