// The comparison of two arrays, once per instruction set. Blocks of f32 pairs without a limit are summed straight from
// memory, on the assumption that they are finite; where a block's own sums deny it, and for all other types and rules,
// a block goes through fp64 copies in the first-level cache and the full rules of kparity/numerics/aggregates.py.
//
// Every sum has COMPARE_LANES lanes and products are rounded before they are added (or are exact), so that the bits of
// the result depend neither on the instruction set nor on who computes which part.
#pragma once

namespace compare {

#include "compare_lanes.h"
#include "compare_tile.h"

// Blocks of finite f32 pairs.

struct Quick {
    Sums sums;
    double max_abs, above;  // above: how far an error is beyond the largest known error / |truth|
};

inline Quick quick_sums(const float* got, const float* truth, int count, double known_ratio) {
    Running sums;
    F64 top[VECTORS] = {}, above[VECTORS] = {};
    const F64 slope = (F64){} - known_ratio * (1 - 0x1p-50);
    for (int i = 0; i < count; i += COMPARE_LANES) {
        prefetch(got + i, AHEAD);
        prefetch(truth + i, AHEAD);
        for (int v = 0; v < VECTORS; ++v) {
            const F64 g = widen(got + i + v * WIDE), t = widen(truth + i + v * WIDE);
            const F64 difference = g - t, size = magnitude(difference);
            sums.at[GOT_SQ][v] = add_exact_product(g, g, sums.at[GOT_SQ][v]);
            sums.at[TRUTH_SQ][v] = add_exact_product(t, t, sums.at[TRUTH_SQ][v]);
            sums.at[PRODUCT][v] = add_exact_product(g, t, sums.at[PRODUCT][v]);
            sums.at[ERROR_SQ][v] += difference * difference;
            sums.at[ERROR_SUM][v] += difference;
            top[v] = larger(size, top[v]);
            above[v] = larger(add_exact_product(slope, magnitude(t), size), above[v]);
        }
    }
    return {sums.stored(), top_lane(top), top_lane(above)};
}

// The squares of finite f32 differences cannot overflow fp64, so a block is finite if their sum is.
inline bool all_finite(const Sums& sums) {
    double total = 0;
    for (const double lane : sums.at[ERROR_SQ]) total += lane;
    return total < INFINITY;
}

inline double largest_ratio(const float* got, const float* truth, int count) {
    Largest top;
    for (int i = 0; i < count; ++i) {
        const double t = truth[i], error = std::fabs(static_cast<double>(got[i]) - t);
        top.add(ratio(error, std::fabs(t)));
    }
    return top.value();
}

inline std::int64_t last_of_error(const float* got, const float* truth, int count, double error) {
    for (int i = count - 1; i >= 0; --i)
        if (std::fabs(static_cast<double>(got[i]) - static_cast<double>(truth[i])) == error) return i;
    return count - 1;
}

// False if the block is not finite: nothing was taken from it.
inline bool quick_block(const float* got, const float* truth, std::int64_t at, int count, Findings& out) {
    alignas(64) float padded[2][COMPARE_LANES] = {};
    const int whole = count / COMPARE_LANES * COMPARE_LANES, rest = count - whole;
    Quick quick = quick_sums(got, truth, whole, out.max_rel);
    if (rest > 0) {  // zeros add nothing
        std::memcpy(padded[0], got + whole, sizeof(float) * static_cast<std::size_t>(rest));
        std::memcpy(padded[1], truth + whole, sizeof(float) * static_cast<std::size_t>(rest));
        const Quick last = quick_sums(padded[0], padded[1], COMPARE_LANES, out.max_rel);
        add_sums(quick.sums, last.sums);
        quick.max_abs = most_of(last.max_abs, quick.max_abs);
        quick.above = most_of(last.above, quick.above);
    }
    if (!all_finite(quick.sums)) return false;
    add_sums(out.sums, quick.sums);
    out.max_ulp = most_of(largest_steps(got, truth, count), out.max_ulp);
    if (quick.above > 0) out.max_rel = most_of(largest_ratio(got, truth, count), out.max_rel);
    if (quick.max_abs >= out.worst_error && out.worst_used == 0) {
        out.worst_error = quick.max_abs;
        out.worst = at + (quick.max_abs > 0 ? last_of_error(got, truth, count, quick.max_abs) : count - 1);
    }
    out.max_abs = most_of(quick.max_abs, out.max_abs);
    return true;
}

// Elements [begin, end), a multiple of a block apart from the last one.
void part(const Pair& pair, std::int64_t begin, std::int64_t end, Findings& out) {
    const bool quick = pair.got_type == Element::f32 && pair.truth_type == Element::f32 && pair.rule == Rule::none;
    Tile tile;
    std::memset(tile.limit, 0, sizeof tile.limit);
    std::memset(tile.used, 0, sizeof tile.used);
    for (std::int64_t at = begin; at < end; at += BLOCK) {
        const int count = static_cast<int>(least(BLOCK, end - at));
        const auto* got = static_cast<const float*>(pair.got);
        const auto* truth = static_cast<const float*>(pair.truth);
        if (!quick || !quick_block(got + at, truth + at, at, count, out)) full_block(pair, at, count, tile, out);
    }
}

}  // namespace compare
