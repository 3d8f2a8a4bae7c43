// fold: reductions over the lanes of a work-group in two stages. FOLD lanes take CHUNK neighbours each, then whoever
// needs it joins those: two barriers instead of a tree's six or eight. The bounds of the first depend on the lane, so
// that a compiler for CPUs does not unroll it for the lanes that have no part in it.

const FOLD: u32 = select(8u, 16u, BLOCK > 64u);
const CHUNK: u32 = BLOCK / FOLD;

const SUM_F32: u32 = 0u;
const MAX_F32: u32 = 1u;
const SUM_I32: u32 = 2u;
const LARGER: u32 = 3u;

var<workgroup> partial: array<u32, BLOCK>; // f32 bits, or i32

fn magnitude(bits: u32) -> u32 {
    return bits & 0x7fffffffu;
}

// The operand with the larger magnitude, the left one in a tie. Magnitudes compare as integers: that orders them like
// the numbers, and a NaN exceeds them all, so it reaches the scale and spoils the row visibly.
fn larger(left: u32, right: u32) -> u32 {
    return select(left, right, magnitude(right) > magnitude(left));
}

fn join(how: u32, left: u32, right: u32) -> u32 {
    switch how {
        case SUM_I32: { return left + right; }
        case LARGER: { return larger(left, right); }
        case MAX_F32: { return bitcast<u32>(max(bitcast<f32>(left), bitcast<f32>(right))); }
        default: { return bitcast<u32>(bitcast<f32>(left) + bitcast<f32>(right)); }
    }
}

// The first stage. A second fold must not begin before `joined` has read the first: a barrier stands in between.
fn fold(how: u32, lane: u32, value: u32) {
    partial[lane] = value;
    workgroupBarrier();
    if lane < FOLD {
        var part = partial[lane * CHUNK];
        for (var i = lane * CHUNK + 1u; i < (lane + 1u) * CHUNK; i++) {
            part = join(how, part, partial[i]);
        }
        partial[lane * CHUNK] = part;
    }
    workgroupBarrier();
}

// The second: `count` chunks from that of lane `first` on, in their order.
fn joined(how: u32, first: u32, count: u32) -> u32 {
    var total = partial[first];
    for (var i = 1u; i < count; i++) {
        total = join(how, total, partial[first + i * CHUNK]);
    }
    return total;
}
