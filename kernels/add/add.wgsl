// add: the residual connection, y = a + b, one work-item per element.

@group(0) @binding(0) var<storage, read> a: array<f32>; // [M, D]
@group(0) @binding(1) var<storage, read> b: array<f32>; // [M, D]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [M, D]

//#use item

@compute @workgroup_size(BLOCK)
fn add(item: Item) {
    let at = place_of(item);
    if at < M * D {
        y[at] = a[at] + b[at];
    }
}
