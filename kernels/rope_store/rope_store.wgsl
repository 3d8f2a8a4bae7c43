// rope_store: rope on queries and keys, and the new keys and values into the cache; one work-item per two neighbouring
// elements of a row of qkv (a word of an f16 cache). A row holds H heads of queries, G of keys and G of values.

@group(0) @binding(0) var<storage, read> qkv: array<u32>; // [M, HEADS, D] f32 bits
@group(0) @binding(1) var<storage, read> pos: array<i32>; // [M]; rows outside 0 … L-1 are not stored
@group(0) @binding(2) var<storage, read> freq: array<f32>; // [R / 2], radians per position
@group(0) @binding(3) var<storage, read_write> q: array<u32>; // [M, H, D] f32 bits
@group(0) @binding(4) var<storage, read_write> kcache: array<u32>; // [L, G, D] f32 bits, or f16 two to a word
@group(0) @binding(5) var<storage, read_write> vcache: array<u32>; // [L, G, D] likewise

//#use item
//#use angle
//#use half

const HEADS: u32 = H + 2u * G;
const PAIRS: u32 = D / 2u; // of a head

// Element e < R of the head that begins at `head`: turned together with its partner, a half of R away or its neighbour.
fn turned(head: u32, e: u32, cs: vec2<f32>) -> u32 {
    var partner = e ^ 1u;
    var leads = (e & 1u) == 0u;
    if NEOX == 1u {
        leads = e < R / 2u;
        partner = select(e - R / 2u, e + R / 2u, leads);
    }
    let own = bitcast<f32>(qkv[head + e]);
    let other = bitcast<f32>(qkv[head + partner]);
    return bitcast<u32>(own * cs.x + other * select(cs.y, -cs.y, leads));
}

// Elements e and e + 1 of a head of queries or keys, e even. Those from R on are copied, bit by bit.
fn turned_pair(head: u32, e: u32, position: f32) -> vec2<u32> {
    if e >= R {
        return vec2<u32>(qkv[head + e], qkv[head + e + 1u]);
    }
    if NEOX == 1u {
        let first = rotation(position * freq[e % (R / 2u)]);
        let second = rotation(position * freq[(e + 1u) % (R / 2u)]);
        return vec2<u32>(turned(head, e, first), turned(head, e + 1u, second));
    }
    let cs = rotation(position * freq[e / 2u]);
    return vec2<u32>(turned(head, e, cs), turned(head, e + 1u, cs));
}

@compute @workgroup_size(BLOCK)
fn rope_store(item: Item) {
    let at = place_of(item); // pair within [M, HEADS, PAIRS]
    if at >= M * HEADS * PAIRS {
        return;
    }
    let row = at / (HEADS * PAIRS);
    let head = at / PAIRS % HEADS;
    let e = at % PAIRS * 2u;
    let position = pos[row];

    var pair = vec2<u32>(qkv[2u * at], qkv[2u * at + 1u]);
    if head < H + G {
        pair = turned_pair((row * HEADS + head) * D, e, f32(position));
    }
    if head < H {
        let target_pair = ((row * H + head) * D + e) / 2u;
        q[2u * target_pair] = pair.x;
        q[2u * target_pair + 1u] = pair.y;
        return;
    }
    if position < 0 || position >= i32(L) {
        return;
    }
    let target_pair = (u32(position) * G + (head - H) % G) * PAIRS + e / 2u;
    if F16 == 1u {
        if head < H + G {
            kcache[target_pair] = narrow_pair(pair.x, pair.y);
        } else {
            vcache[target_pair] = narrow_pair(pair.x, pair.y);
        }
    } else if head < H + G {
        kcache[2u * target_pair] = pair.x;
        kcache[2u * target_pair + 1u] = pair.y;
    } else {
        vcache[2u * target_pair] = pair.x;
        vcache[2u * target_pair + 1u] = pair.y;
    }
}
