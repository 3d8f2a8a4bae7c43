// kv_store: new keys and values into their places in the cache, one work-item per pair of elements (a word of an f16
// cache).

@group(0) @binding(0) var<storage, read> k: array<u32>; // [M, D] f32 bits
@group(0) @binding(1) var<storage, read> v: array<u32>; // [M, D] f32 bits
@group(0) @binding(2) var<storage, read> pos: array<i32>; // [M]; rows outside 0 … L-1 are not stored
@group(0) @binding(3) var<storage, read_write> kcache: array<u32>; // [L, D] f32 bits, or f16 two to a word
@group(0) @binding(4) var<storage, read_write> vcache: array<u32>; // [L, D] likewise

//#use item
//#use half

@compute @workgroup_size(BLOCK)
fn kv_store(item: Item) {
    let at = place_of(item); // pair within [M, D / 2]
    if at >= M * D / 2u {
        return;
    }
    let row = pos[at / (D / 2u)];
    if row < 0 || row >= i32(L) {
        return;
    }
    let target_pair = u32(row) * (D / 2u) + at % (D / 2u);
    if F16 == 1u {
        kcache[target_pair] = narrow_pair(k[2u * at], k[2u * at + 1u]);
        vcache[target_pair] = narrow_pair(v[2u * at], v[2u * at + 1u]);
    } else {
        kcache[2u * target_pair] = k[2u * at];
        kcache[2u * target_pair + 1u] = k[2u * at + 1u];
        vcache[2u * target_pair] = v[2u * at];
        vcache[2u * target_pair + 1u] = v[2u * at + 1u];
    }
}
