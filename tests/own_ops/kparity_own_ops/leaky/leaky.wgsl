// leaky: y = x for x > 0, else SLOPE * x
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(BLOCK)
fn leaky(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let at = (group.y * groups.x + group.x) * BLOCK + local.x;
    if at < N {
        y[at] = select(SLOPE * x[at], x[at], x[at] > 0.0);
    }
}
