// argmax: the index of the largest value of each row, one work-group per row; the lowest index wins a tie, a NaN gives
// -1.

@group(0) @binding(0) var<storage, read> x: array<u32>; // [M, N] f32 bits
@group(0) @binding(1) var<storage, read_write> idx: array<i32>; // [M]

var<workgroup> top_key: array<u32, BLOCK>;
var<workgroup> top_at: array<u32, BLOCK>;

const NAN_KEY: u32 = 0xffffffffu;

//#use fold

// An integer in the order of the numbers, with NaN above them all: a compiler may assume that floats are never NaN, and
// a device may take subnormals for zero.
fn key_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return NAN_KEY;
    }
    if magnitude == 0u {
        return 0x80000000u; // -0 equals +0
    }
    return select(bits | 0x80000000u, ~bits, bits != magnitude);
}

// Whether (key, at) comes before (best, best_at): a larger key, or an equal one at a lower index.
fn before(key: u32, at: u32, best: u32, best_at: u32) -> bool {
    return key > best || (key == best && at < best_at);
}

@compute @workgroup_size(BLOCK)
fn argmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x;
    let lane = local.x;
    var best = 0u; // below the key of minus infinity
    var best_at = N;
    for (var n = lane; n < N; n += BLOCK) {
        let key = key_of(x[row * N + n]);
        if key > best {
            best = key;
            best_at = n;
        }
    }
    top_key[lane] = best;
    top_at[lane] = best_at;
    workgroupBarrier();
    if lane < FOLD {
        for (var i = lane * CHUNK; i < (lane + 1u) * CHUNK; i++) {
            if before(top_key[i], top_at[i], best, best_at) {
                best = top_key[i];
                best_at = top_at[i];
            }
        }
        top_key[lane * CHUNK] = best;
        top_at[lane * CHUNK] = best_at;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var i = 0u; i < BLOCK; i += CHUNK) {
            if before(top_key[i], top_at[i], best, best_at) {
                best = top_key[i];
                best_at = top_at[i];
            }
        }
        idx[row] = select(i32(best_at), -1, best == NAN_KEY);
    }
}
