// add: the residual connection, y = a + b, one work-item per element.
//
//   0  a  array<f32>  [M, D]
//   1  b  array<f32>  [M, D]
//   2  y  array<f32>  [M, D]   written

// ---- bindings
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// ---- main
@compute @workgroup_size(BLOCK)
fn add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    // The grid is folded into two dimensions where it exceeds the cap of one; the excess does nothing.
    let at = (group.y * groups.x + group.x) * BLOCK + local.x;
    if at < M * D {
        y[at] = a[at] + b[at];
    }
}
