// rows: the sums of rows of weights that LANES work-items share, each for TILE_M rows of activations, in two stages:
// FOLD lanes of a row take every FOLD-th partial sum, then one work-item per output joins those. Two barriers instead
// of a tree's five. A text says with FLOAT_SUMS whether it sums floats or integers.

const FOLD: u32 = min(LANES, 8u);

var<workgroup> partial: array<u32, BLOCK * TILE_M>; // i32 or f32 bits, one per lane and row of activations

fn join(left: u32, right: u32) -> u32 {
    if FLOAT_SUMS {
        return bitcast<u32>(bitcast<f32>(left) + bitcast<f32>(right));
    }
    return left + right;
}

// Join every `step`-th of `count` partial sums into the first of them. The loop's bounds depend on the lane, so that a
// compiler for CPUs does not unroll it for the lanes that have no part in it.
fn fold(first: u32, step: u32, count: u32) -> u32 {
    var total = partial[first];
    for (var i = first + step; i < first + count; i += step) {
        total = join(total, partial[i]);
    }
    partial[first] = total;
    return total;
}

// The first stage, behind which every work-item may ask for `row_sum`.
fn fold_rows(thread: u32) {
    workgroupBarrier();
    if LANES > FOLD {
        if thread % LANES < FOLD {
            for (var t = 0u; t < TILE_M; t++) {
                fold(t * BLOCK + thread, FOLD, LANES);
            }
        }
        workgroupBarrier();
    }
}

// Output `output` of the ROWS · TILE_M of a work-group, rows of weights first.
fn row_sum(output: u32) -> u32 {
    return fold((output / ROWS) * BLOCK + (output % ROWS) * LANES, 1u, FOLD);
}
