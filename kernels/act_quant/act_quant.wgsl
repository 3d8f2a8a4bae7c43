// act_quant: activations to int8 with their scale and their sum; one work-group per row, per 256 (PER_BLOCK = 1)
// or per 32 activations (PER_32 = 1).

@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, K]
@group(0) @binding(1) var<storage, read_write> q: array<u32>; // [M, KP] i8, four to a word; 0 from K on
@group(0) @binding(2) var<storage, read_write> scale: array<f32>; // [M, SPANS]
@group(0) @binding(3) var<storage, read_write> qsum: array<i32>; // [M, SPANS]

const WORDS: u32 = KP / SPANS / 4u; // words of q in one span

//#use fold
//#use quantiser

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
    fold(LARGER, lane, top);
    top = joined(LARGER, 0u, FOLD);
    workgroupBarrier(); // the maxima were read
    let s = factor_of(top);

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
    fold(SUM_I32, lane, bitcast<u32>(acc));
    if lane == 0u {
        let at = row * SPANS + span;
        qsum[at] = bitcast<i32>(joined(SUM_I32, 0u, FOLD));
        scale[at] = scale_of(top, s);
    }
}
