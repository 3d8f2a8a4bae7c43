// glu: the gated activation of a feed-forward block, one work-item per element.
//
//   RELU2 = 0   y = silu(gate) · up          RELU2 = 1   y = max(gate, 0)² · up
//   CLAMP = 1   limits y to ±65504, the largest f16; NaN stays NaN

@group(0) @binding(0) var<storage, read> gate: array<f32>; // [M, D]
@group(0) @binding(1) var<storage, read> up: array<f32>; // [M, D]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [M, D]

//#use item
//#use gate

@compute @workgroup_size(BLOCK)
fn glu(item: Item) {
    let at = place_of(item);
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
