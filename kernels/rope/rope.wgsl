// rope: rotary position embedding, one work-item per pair of elements; pairs from R / 2 on are copied.

@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, H, D]
@group(0) @binding(1) var<storage, read> pos: array<i32>; // [M]
@group(0) @binding(2) var<storage, read> freq: array<f32>; // [R / 2], radians per position
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [M, H, D]

//#use item
//#use angle

@compute @workgroup_size(BLOCK)
fn rope(item: Item) {
    let at = place_of(item); // pair within [M, H, D / 2]
    if at >= M * H * D / 2u {
        return;
    }
    let row = at / (H * D / 2u);
    let head = (at / (D / 2u)) * D;
    let i = at % (D / 2u);
    if i >= R / 2u {
        y[head + 2u * i] = x[head + 2u * i];
        y[head + 2u * i + 1u] = x[head + 2u * i + 1u];
        return;
    }
    var first = head + 2u * i;
    var second = first + 1u;
    if NEOX == 1u {
        first = head + i;
        second = first + R / 2u;
    }
    let cs = rotation(f32(pos[row]) * freq[i]);
    let x1 = x[first];
    let x2 = x[second];
    y[first] = x1 * cs.x - x2 * cs.y;
    y[second] = x2 * cs.x + x1 * cs.y;
}
