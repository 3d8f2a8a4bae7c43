// argmax: the index of the largest value of each row, one work-group per row; the lowest index wins a tie, a NaN gives -1.
//
//   0  x    array<u32>  [M, N] f32 bits
//   1  idx  array<i32>  [M]   written

// ---- bindings
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> idx: array<i32>;

// ---- shared memory
var<workgroup> top_key: array<u32, BLOCK>;
var<workgroup> top_at: array<u32, BLOCK>;

// ---- helpers
const NAN_KEY: u32 = 0xffffffffu;

// An integer in the order of the numbers, with NaN above them all: a compiler may assume that floats are never NaN, and a
// device may take subnormals for zero.
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

// ---- main
@compute @workgroup_size(BLOCK)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
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
    for (var half = BLOCK / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let key = top_key[lane + half];
            let at = top_at[lane + half];
            if key > top_key[lane] || (key == top_key[lane] && at < top_at[lane]) {
                top_key[lane] = key;
                top_at[lane] = at;
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        idx[row] = select(i32(top_at[0]), -1, top_key[0] == NAN_KEY);
    }
}
