// glu: the gated activation of a feed-forward block, one work-item per element.
//
//   RELU2 = 0   y = silu(gate) · up          RELU2 = 1   y = max(gate, 0)² · up
//   CLAMP = 1   limits y to ±65504, the largest f16; NaN stays NaN
//
//   0  gate  array<f32>  [M, D]
//   1  up    array<f32>  [M, D]
//   2  y     array<f32>  [M, D]   written

// ---- bindings
@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> up: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// ---- helpers
//#use gate

// ---- main
@compute @workgroup_size(BLOCK)
fn glu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let at = (group.y * groups.x + group.x) * BLOCK + local.x;
    if at >= M * D {
        return;
    }
    let g = gate[at];
    var acc: f32;
    if RELU2 == 1u {
        acc = relu2(g) * up[at];
    } else {
        acc = silu(g) * up[at];
    }
    if CLAMP == 1u {
        acc = limit(acc);
    }
    y[at] = acc;
}
