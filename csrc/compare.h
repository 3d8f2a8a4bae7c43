// What a comparison of two arrays reads and what it finds in a part of them. Plain data: seen by every instruction set.
#pragma once

#include <cstdint>

namespace kparity {

enum class Element : int { f32, f16, f64, i64, i32, u32, i8 };

// What makes an element wrong: nothing, an error above its limit, or other bits than truth has in the type of got.
enum class Rule : int { none, limit, bits };

constexpr std::int64_t COMPARE_BLOCK = 2048;  // elements whose sums are added up before they join the larger ones
constexpr int COMPARE_LANES = 8;  // of every sum, for all instruction sets: their results have the same bits

struct Pair {
    const void* got;
    const void* truth;
    const double* limit;  // with Rule::limit
    Element got_type, truth_type;
    Rule rule;
    double range;     // the least fp64 value that rounds to infinity in the type of got; NaN for integers
    double overflow;  // the same, where a result may be infinite because truth is that large; else NaN
    std::int64_t count;
};

// Σ got², Σ truth², Σ got · truth, Σ (got - truth)², Σ (got - truth).
enum SumName { GOT_SQ, TRUTH_SQ, PRODUCT, ERROR_SQ, ERROR_SUM, SUM_COUNT };
struct Sums {
    double at[SUM_COUNT][COMPARE_LANES];
};

enum CountName { GOT_NAN, TRUTH_NAN, GOT_INF, TRUTH_INF, WRONG, NEGATIVE, COUNTS };  // NEGATIVE: limits below zero

struct Extremes {
    double worst_used, worst_error;  // of the worst element: by used, then error, then index
    double max_abs, max_rel, max_ulp;
};

struct Findings : Extremes {
    std::int64_t worst;  // index; -1 before the first
    std::int64_t counts[COUNTS];
    Sums sums;
};

}  // namespace kparity
