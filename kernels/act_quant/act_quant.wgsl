// act_quant: activations to int8 with their scale and their sum; one work-group per row (PER_BLOCK = 0) or per 256
// activations.

@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, K]
@group(0) @binding(1) var<storage, read_write> q: array<u32>; // [M, KP] i8, four to a word; 0 from K on
@group(0) @binding(2) var<storage, read_write> scale: array<f32>; // [M, SPANS]
@group(0) @binding(3) var<storage, read_write> qsum: array<i32>; // [M, SPANS]

var<workgroup> largest: array<u32, BLOCK>;
var<workgroup> partial: array<i32, BLOCK>;

const WORDS: u32 = KP / SPANS / 4u; // words of q in one span
const FLOOR_BITS: u32 = 0x3727c5acu; // 1e-5

//#use fold
//#use magnitude

fn load(row: u32, k: u32) -> f32 {
    if k < K {
        return x[row * K + k];
    }
    return 0.0;
}

@compute @workgroup_size(BLOCK)
fn act_quant(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x;
    let span = group.y;
    let lane = local.x;

    // Lanes hold neighbouring words and are joined in their order: of equal magnitudes within 256 activations (one word
    // a lane) the first one wins, which decides the sign of a block's scale.
    var top = 0u;
    for (var word = lane; word < WORDS; word += BLOCK) {
        for (var i = 0u; i < 4u; i++) {
            top = larger(top, bitcast<u32>(load(row, (span * WORDS + word) * 4u + i)));
        }
    }
    largest[lane] = top;
    workgroupBarrier();
    if lane < FOLD {
        var most = largest[lane * CHUNK];
        for (var i = lane * CHUNK + 1u; i < (lane + 1u) * CHUNK; i++) {
            most = larger(most, largest[i]);
        }
        largest[lane * CHUNK] = most;
    }
    workgroupBarrier();
    var top_bits = largest[0];
    for (var i = 1u; i < FOLD; i++) {
        top_bits = larger(top_bits, largest[i * CHUNK]);
    }

    var s = 0.0;
    if PER_BLOCK == 0u {
        s = 127.0 / bitcast<f32>(max(magnitude(top_bits), FLOOR_BITS));
    } else if magnitude(top_bits) != 0u {
        s = -127.0 / bitcast<f32>(top_bits);
    }

    var acc = 0;
    for (var word = lane; word < WORDS; word += BLOCK) {
        var packed = 0u;
        for (var i = 0u; i < 4u; i++) {
            let scaled = round(load(row, (span * WORDS + word) * 4u + i) * s); // round is half to even
            let code = i32(clamp(scaled, -128.0, 127.0));
            acc += code;
            packed |= (bitcast<u32>(code) & 255u) << (8u * i);
        }
        q[row * (KP / 4u) + span * WORDS + word] = packed;
    }
    partial[lane] = acc;
    workgroupBarrier();
    if lane < FOLD {
        var sum = partial[lane * CHUNK];
        for (var i = lane * CHUNK + 1u; i < (lane + 1u) * CHUNK; i++) {
            sum += partial[i];
        }
        partial[lane * CHUNK] = sum;
    }
    workgroupBarrier();
    if lane == 0u {
        let at = row * SPANS + span;
        var total = 0;
        for (var i = 0u; i < FOLD; i++) {
            total += partial[i * CHUNK];
        }
        qsum[at] = total;
        if PER_BLOCK == 1u && magnitude(top_bits) == 0u {
            scale[at] = 0.0;
        } else {
            scale[at] = 1.0 / s;
        }
    }
}
