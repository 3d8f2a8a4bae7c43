// embed: rows of a table, gathered by id; one work-group per id. Values are moved as bits, so that nothing is flushed
// or quieted. Row 0 of the table is row ROW0 of the vocabulary; rows of x that are of other parts are left as they are.

@group(0) @binding(0) var<storage, read> table: array<u32>; // [ROWS, D] f32 bits, or f16 two to a word
@group(0) @binding(1) var<storage, read> ids: array<i32>; // [M]
@group(0) @binding(2) var<storage, read_write> x: array<u32>; // [M, D] f32 bits

const NAN_BITS: u32 = 0x7fc00000u;

// f16 to f32 on the bits: unpack2x16float may flush the subnormals of f16, which are ordinary f32 numbers.
fn widen(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let exponent = (half >> 10u) & 31u;
    let fraction = half & 0x3ffu;
    if exponent == 0u {
        return sign | bitcast<u32>(f32(fraction) * 5.9604644775390625e-8); // fraction · 2^-24, exact
    }
    let biased = select(exponent + 112u, 255u, exponent == 31u);
    return sign | (biased << 23u) | (fraction << 13u);
}

@compute @workgroup_size(BLOCK)
fn embed(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x;
    let id = ids[row];
    let here = id >= i32(ROW0) && id < i32(ROW0 + ROWS);
    if !here && ROWS < V {
        return; // another part's row
    }
    let source = u32(id - i32(ROW0)) * (D / 2u);
    for (var pair = local.x; pair < D / 2u; pair += BLOCK) {
        var first = NAN_BITS; // an id outside the vocabulary fails closed
        var second = NAN_BITS;
        if here {
            if F16 == 1u {
                let word = table[source + pair];
                first = widen(word & 0xffffu);
                second = widen(word >> 16u);
            } else {
                first = table[2u * (source + pair)];
                second = table[2u * (source + pair) + 1u];
            }
        }
        x[row * D + 2u * pair] = first;
        x[row * D + 2u * pair + 1u] = second;
    }
}
