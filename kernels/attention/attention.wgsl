// attention: causal grouped-query attention with an online softmax; one work-group per head and row, BLOCK keys at a
// time. In turn a lane is a key (its score) and a pair of elements of the output (its weighted sum).

@group(0) @binding(0) var<storage, read> q: array<f32>; // [M, H, D]
@group(0) @binding(1) var<storage, read> kcache: array<u32>; // [L, G, D] f32 bits, or f16 two to a word
@group(0) @binding(2) var<storage, read> vcache: array<u32>; // [L, G, D] likewise
@group(0) @binding(3) var<storage, read> pos: array<i32>; // [M]; keys 0 … pos are seen; none where pos < 0
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [M, H, D]
@group(0) @binding(5) var<storage, read_write> lse: array<u32>; // [M, H] f32 bits

var<workgroup> query: array<vec2<f32>, PAIRS>;
var<workgroup> weight: array<f32, BLOCK>; // exp(score - top) of the keys at hand

const PAIRS: u32 = D / 2u;
const OWNED: u32 = (PAIRS + BLOCK - 1u) / BLOCK; // pairs of the output that a lane sums
const LOWEST: f32 = -3.4028234e38; // stands for minus infinity: differences with it stay finite or overflow to exp = 0
const MINUS_INFINITY_BITS: u32 = 0xff800000u;

//#use fold

fn key_pair(at: u32) -> vec2<f32> {
    if F16 == 1u {
        return unpack2x16float(kcache[at]);
    }
    return bitcast<vec2<f32>>(vec2<u32>(kcache[2u * at], kcache[2u * at + 1u]));
}

fn value_pair(at: u32) -> vec2<f32> {
    if F16 == 1u {
        return unpack2x16float(vcache[at]);
    }
    return bitcast<vec2<f32>>(vec2<u32>(vcache[2u * at], vcache[2u * at + 1u]));
}

@compute @workgroup_size(BLOCK)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y * H + group.x;
    let lane = local.x;
    let head = group.x / (H / G);
    let keys = u32(clamp(pos[group.y], -1, i32(L) - 1) + 1);

    for (var p = lane; p < PAIRS; p += BLOCK) {
        query[p] = vec2<f32>(q[row * D + 2u * p], q[row * D + 2u * p + 1u]);
    }
    workgroupBarrier();

    var acc: array<vec2<f32>, OWNED>;
    var top = LOWEST; // the largest score so far, the same in every lane
    var sum = 0.0; // of this lane's own weights, relative to top
    for (var base = 0u; base < keys; base += BLOCK) {
        var score = LOWEST;
        if base + lane < keys {
            let key = ((base + lane) * G + head) * PAIRS;
            var product = 0.0;
            for (var at = key; at < key + PAIRS; at++) {
                product += dot(query[at - key], key_pair(at));
            }
            score = product * SCALE;
        }
        fold(MAX_F32, lane, bitcast<u32>(score));
        let new_top = max(top, bitcast<f32>(joined(MAX_F32, 0u, FOLD)));
        let decay = exp(top - new_top);
        top = new_top;
        var mine = 0.0;
        if base + lane < keys {
            mine = exp(score - top);
        }
        sum = sum * decay + mine;
        weight[lane] = mine;
        workgroupBarrier();
        let count = min(keys - base, BLOCK);
        for (var i = 0u; i < OWNED; i++) {
            let p = lane + i * BLOCK;
            if p < PAIRS {
                var part = acc[i] * decay;
                for (var j = 0u; j < count; j++) {
                    part += weight[j] * value_pair(((base + j) * G + head) * PAIRS + p);
                }
                acc[i] = part;
            }
        }
    }

    fold(SUM_F32, lane, bitcast<u32>(sum));
    let total = bitcast<f32>(joined(SUM_F32, 0u, FOLD));
    for (var i = 0u; i < OWNED; i++) {
        let p = lane + i * BLOCK;
        if p < PAIRS {
            var value = vec2<f32>(0.0, 0.0);
            if keys > 0u {
                value = acc[i] / total;
            }
            out[row * D + 2u * p] = value.x;
            out[row * D + 2u * p + 1u] = value.y;
        }
    }
    if lane == 0u {
        if keys > 0u {
            lse[row] = bitcast<u32>(top + log(total));
        } else {
            lse[row] = MINUS_INFINITY_BITS;
        }
    }
}
