// rmsnorm: y = x / sqrt(mean(x²) + EPS) · weight, one work-group per row.

@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, D]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [D]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [M, D]

var<workgroup> partial: array<f32, BLOCK>;

//#use fold

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
