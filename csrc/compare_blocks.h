// The comparison of two arrays, once per instruction set. Blocks of f32 pairs without a limit are summed straight from memory, on
// the assumption that they are finite; where a block's own sums deny it, and for all other types and rules, a block goes through
// fp64 copies in the first-level cache and the full rules of kparity/compare.py.
//
// Every sum has COMPARE_LANES lanes and products are rounded before they are added (or are exact), so that the bits of the result
// depend neither on the instruction set nor on who computes which part.
#pragma once

#include "compare.h"

#if defined(KP_AVX512) || defined(KP_AVX2)
#include <immintrin.h>
#endif

namespace kparity {
namespace KP_ISA {
namespace {
namespace compare {

#if defined(KP_AVX512)
constexpr int WIDE = 8;
#elif defined(KP_AVX2)
constexpr int WIDE = 4;
#else
constexpr int WIDE = 2;
#endif
constexpr int VECTORS = COMPARE_LANES / WIDE;
constexpr int BLOCK = COMPARE_BLOCK;

typedef double F64 __attribute__((vector_size(8 * WIDE)));
typedef std::int64_t I64 __attribute__((vector_size(8 * WIDE)));

inline F64 widen(const float* p) {
#if defined(KP_AVX512)
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(KP_AVX2)
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    F64 value;
    for (int i = 0; i < WIDE; ++i) value[i] = p[i];
    return value;
#endif
}

inline F64 magnitude(F64 x) { return (F64)((I64)x & INT64_MAX); }

// The larger one; b where either is a NaN.
inline F64 larger(F64 a, F64 b) {
#if defined(KP_AVX512)
    return _mm512_max_pd(a, b);
#elif defined(KP_AVX2)
    return _mm256_max_pd(a, b);
#else
    F64 found;
    for (int i = 0; i < WIDE; ++i) found[i] = a[i] > b[i] ? a[i] : b[i];
    return found;
#endif
}

// a · b + c where a · b is exact in fp64: one rounding or two, the same bits.
inline F64 add_exact_product(F64 a, F64 b, F64 c) {
#if defined(KP_AVX512)
    return _mm512_fmadd_pd(a, b, c);
#elif defined(KP_AVX2)
    return _mm256_fmadd_pd(a, b, c);
#else
    return a * b + c;
#endif
}

inline double most_of(double a, double b) { return a > b ? a : b; }

inline double top_lane(const F64* x) {
    double top = 0;
    for (int v = 0; v < VECTORS; ++v)
        for (int i = 0; i < WIDE; ++i) top = most_of(x[v][i], top);
    return top;
}

inline bool is_nan(double x) { return x != x; }
inline bool is_inf(double x) { return std::fabs(x) == INFINITY; }

inline std::int64_t bits_of(double x) {
    std::int64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// The largest of numbers that are not negative, by their bits: a reduction that compilers vectorise.
struct Largest {
    std::int64_t bits = 0;
    void add(double x) {
        const std::int64_t other = bits_of(x);
        bits = other > bits ? other : bits;
    }
    double value() const {
        double x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
    }
};

// error / size, 0 for no error however small the size; infinite where that is no number.
inline double ratio(double error, double size) {
    const double found = error / size;
    const double bounded = is_nan(found) || error == INFINITY ? INFINITY : found;
    return error == 0.0 ? 0.0 : bounded;
}

// The bits of floats as integers in the order of their values; both zeros are 0.
inline std::uint32_t ordered(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const std::uint32_t negative = static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31);
    return ((bits & 0x7fffffffu) ^ negative) - negative;
}

inline std::uint32_t steps_between(float a, float b) {
    const auto first = static_cast<std::int32_t>(ordered(a)), second = static_cast<std::int32_t>(ordered(b));
    const std::int32_t low = first < second ? first : second, high = first < second ? second : first;
    return static_cast<std::uint32_t>(high) - static_cast<std::uint32_t>(low);
}

// The five sums while they are in registers.
struct Running {
    F64 got2[VECTORS] = {}, truth2[VECTORS] = {}, product[VECTORS] = {}, error2[VECTORS] = {}, error[VECTORS] = {};

    Sums stored() const {
        Sums out;
        std::memcpy(out.got2, got2, sizeof got2);
        std::memcpy(out.truth2, truth2, sizeof truth2);
        std::memcpy(out.product, product, sizeof product);
        std::memcpy(out.error2, error2, sizeof error2);
        std::memcpy(out.error, error, sizeof error);
        return out;
    }
};

// Blocks of finite f32 pairs.

struct Quick {
    Sums sums;
    double max_abs, above;  // above: how far an error is beyond the largest known error / |truth|
};

inline Quick quick_sums(const float* got, const float* truth, int count, double known_ratio) {
    Running sums;
    F64 top[VECTORS] = {}, above[VECTORS] = {};
    const F64 slope = (F64){} - known_ratio * (1 - 0x1p-50);
    for (int i = 0; i < count; i += COMPARE_LANES)
        for (int v = 0; v < VECTORS; ++v) {
            const F64 g = widen(got + i + v * WIDE), t = widen(truth + i + v * WIDE);
            const F64 difference = g - t, size = magnitude(difference);
            sums.got2[v] = add_exact_product(g, g, sums.got2[v]);
            sums.truth2[v] = add_exact_product(t, t, sums.truth2[v]);
            sums.product[v] = add_exact_product(g, t, sums.product[v]);
            sums.error2[v] += difference * difference;
            sums.error[v] += difference;
            top[v] = larger(size, top[v]);
            above[v] = larger(add_exact_product(slope, magnitude(t), size), above[v]);
        }
    return {sums.stored(), top_lane(top), top_lane(above)};
}

inline void add_sums(Sums& total, const Sums& more) {
    for (int i = 0; i < COMPARE_LANES; ++i) {
        total.got2[i] += more.got2[i];
        total.truth2[i] += more.truth2[i];
        total.product[i] += more.product[i];
        total.error2[i] += more.error2[i];
        total.error[i] += more.error[i];
    }
}

// The squares of finite f32 differences cannot overflow fp64, so a block is finite if their sum is.
inline bool all_finite(const Sums& sums) {
    double total = 0;
    for (int i = 0; i < COMPARE_LANES; ++i) total += sums.error2[i];
    return total < INFINITY;
}

inline double largest_steps(const float* got, const float* truth, int count) {
    std::uint32_t top = 0, signs = 0;
    for (int i = 0; i < count; ++i) {
        std::uint32_t a, b;
        std::memcpy(&a, got + i, sizeof a);
        std::memcpy(&b, truth + i, sizeof b);
        const auto apart = static_cast<std::int32_t>(a - b);
        const auto steps = static_cast<std::uint32_t>(apart < 0 ? -static_cast<std::uint32_t>(apart) : apart);
        signs |= a ^ b;
        top = steps > top ? steps : top;
    }
    if (!(signs >> 31)) return top;  // the bits of floats of one sign are in the order of their sizes
    top = 0;
    for (int i = 0; i < count; ++i) {
        const std::uint32_t steps = steps_between(got[i], truth[i]);
        top = steps > top ? steps : top;
    }
    return top;
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

// Blocks of any kind: fp64 copies first.

inline double from_f16(std::uint16_t bits) {
    const std::uint64_t size = bits & 0x7fffu;
    const std::uint64_t word = (size + (std::uint64_t{1008} << 10)) << 42;
    double found;
    std::memcpy(&found, &word, sizeof found);
    found = size < 0x400u ? static_cast<double>(static_cast<std::int32_t>(size)) * 0x1p-24 : found;
    found = size == 0x7c00u ? INFINITY : found;
    found = size > 0x7c00u ? NAN : found;
    return bits & 0x8000u ? -found : found;
}

// Rounded to f16, ties to even.
inline double round_f16(double x) {
    const double size = std::fabs(x), inside = size < 65520.0 ? size : 0.0;
    std::uint64_t bits;
    std::memcpy(&bits, &inside, sizeof bits);
    const std::uint64_t exponent = bits >> 52, least = 1023 - 14;
    const std::uint64_t word = ((exponent > least ? exponent : least) + 42) << 52;  // its last place is that of the f16
    double shift;
    std::memcpy(&shift, &word, sizeof shift);
    const double rounded = (inside + shift) - shift;
    const double found = size >= 65520.0 ? INFINITY : rounded;
    return is_nan(x) ? x : std::copysign(found, x);
}

// The bits of a value that f16 has, as an integer in the order of values.
inline std::int32_t ordered_f16(double x) {
    const double size = std::fabs(x);
    std::uint64_t bits;
    std::memcpy(&bits, &size, sizeof bits);
    const auto normal = static_cast<std::int32_t>((bits >> 42) - (std::uint64_t{1008} << 10));
    const std::int32_t found = size < 0x1p-14 ? static_cast<std::int32_t>(size * 0x1p24) : normal;
    return x < 0 ? -found : found;
}

template <class T>
inline void copy_block(const void* from, std::int64_t at, int count, double* to) {
    const T* p = static_cast<const T*>(from) + at;
    for (int i = 0; i < count; ++i) to[i] = static_cast<double>(p[i]);
}

inline void load_block(Element type, const void* from, std::int64_t at, int count, double* to) {
    switch (type) {
        case Element::f32: return copy_block<float>(from, at, count, to);
        case Element::f64: return copy_block<double>(from, at, count, to);
        case Element::i64: return copy_block<std::int64_t>(from, at, count, to);
        case Element::i32: return copy_block<std::int32_t>(from, at, count, to);
        case Element::u32: return copy_block<std::uint32_t>(from, at, count, to);
        case Element::i8: return copy_block<std::int8_t>(from, at, count, to);
        case Element::f16: {
            const std::uint16_t* p = static_cast<const std::uint16_t*>(from) + at;
            for (int i = 0; i < count; ++i) to[i] = from_f16(p[i]);
        }
    }
}

struct Tile {
    alignas(64) double got[BLOCK], truth[BLOCK], limit[BLOCK], error[BLOCK], used[BLOCK];
};

inline void sum_tile(Tile& tile, int count, Findings& out) {
    for (int i = count; i % COMPARE_LANES != 0; ++i) tile.got[i] = tile.truth[i] = 0;
    Running sums;
    for (int i = 0; i < count; i += COMPARE_LANES)
        for (int v = 0; v < VECTORS; ++v) {
            F64 g, t;
            std::memcpy(&g, tile.got + i + v * WIDE, sizeof g);
            std::memcpy(&t, tile.truth + i + v * WIDE, sizeof t);
            const F64 difference = g - t;
            sums.got2[v] += g * g;
            sums.truth2[v] += t * t;
            sums.product[v] += g * t;
            sums.error2[v] += difference * difference;
            sums.error[v] += difference;
        }
    add_sums(out.sums, sums.stored());
}

inline void count_kinds(const Tile& tile, int count, Findings& out) {
    std::int64_t got_nan = 0, truth_nan = 0, got_inf = 0, truth_inf = 0, negative = 0;
    for (int i = 0; i < count; ++i) {
        got_nan += is_nan(tile.got[i]);
        truth_nan += is_nan(tile.truth[i]);
        got_inf += is_inf(tile.got[i]);
        truth_inf += is_inf(tile.truth[i]);
        negative += tile.limit[i] < 0;
    }
    out.got_nan += got_nan;
    out.truth_nan += truth_nan;
    out.got_inf += got_inf;
    out.truth_inf += truth_inf;
    out.negative += negative;
}

// |got - truth|: NaN equals NaN only, an infinity itself only, or a truth that with its limit is out of got's range.
inline void find_errors(Tile& tile, int count, double overflow) {
    for (int i = 0; i < count; ++i) {
        const double g = tile.got[i], t = tile.truth[i];
        const double difference = std::fabs(g - t);
        const bool beyond = is_inf(g) & (std::fabs(t) + tile.limit[i] >= overflow) & (g * t > 0);
        const bool equal = (g == t) | beyond | (is_nan(g) & is_nan(t));
        const double mismatch = is_nan(difference) ? INFINITY : difference;
        tile.error[i] = equal ? 0.0 : mismatch;
    }
}

inline void find_extremes(const Tile& tile, int count, Findings& out) {
    Largest error, relative;
    for (int i = 0; i < count; ++i) error.add(tile.error[i]);
    for (int i = 0; i < count; ++i) relative.add(ratio(tile.error[i], std::fabs(tile.truth[i])));
    out.max_abs = most_of(error.value(), out.max_abs);
    out.max_rel = most_of(relative.value(), out.max_rel);
}

template <class Round, class Steps>
inline void find_steps(const Tile& tile, int count, Round round, Steps steps, Findings& out) {
    Largest top;
    for (int i = 0; i < count; ++i) {
        const double g = tile.got[i], want = round(tile.truth[i]), between = steps(g, want);
        const bool finite = (std::fabs(g) < INFINITY) & (std::fabs(want) < INFINITY);
        const double far = finite ? between : INFINITY;
        top.add(tile.error[i] == 0.0 ? 0.0 : far);
    }
    out.max_ulp = most_of(top.value(), out.max_ulp);
}

inline double f32_steps(double a, double b) { return steps_between(static_cast<float>(a), static_cast<float>(b)); }
inline double f16_steps(double a, double b) { return std::abs(ordered_f16(a) - ordered_f16(b)); }
inline double round_f32(double x) { return static_cast<float>(x); }
inline double keep(double x) { return x; }

inline void judge_limits(Tile& tile, int count, Findings& out) {
    std::int64_t wrong = 0;
    for (int i = 0; i < count; ++i) {
        const double error = tile.error[i], limit = tile.limit[i];
        wrong += (!(error <= limit) | (error == INFINITY)) & (error != 0.0);
        tile.used[i] = ratio(error, limit);
    }
    out.wrong += wrong;
}

template <class Round>
inline void judge_bits(Tile& tile, int count, Round round, Findings& out) {
    std::int64_t wrong = 0;
    for (int i = 0; i < count; ++i) {
        const double g = tile.got[i], want = round(tile.truth[i]);
        const bool differs = (bits_of(g) != bits_of(want)) & !(is_nan(g) & is_nan(want));
        wrong += differs;
        tile.error[i] = differs ? tile.error[i] : 0.0;
        tile.used[i] = differs ? INFINITY : 0.0;
    }
    out.wrong += wrong;
}

inline void find_worst(const Tile& tile, std::int64_t at, int count, Findings& out) {
    Largest top_used, top_error;
    for (int i = 0; i < count; ++i) {
        top_used.add(tile.used[i]);
        top_error.add(tile.error[i]);
    }
    const double used = top_used.value(), error = top_error.value();
    if (used < out.worst_used || (used == out.worst_used && error < out.worst_error)) return;
    if (used == 0 && error == 0) {
        out.worst = at + count - 1;
        return;
    }
    for (int i = 0; i < count; ++i) {
        const double u = tile.used[i], e = tile.error[i];
        if (u < out.worst_used || (u == out.worst_used && e < out.worst_error)) continue;
        out.worst_used = u;
        out.worst_error = e;
        out.worst = at + i;
    }
}

inline void full_block(const Pair& pair, std::int64_t at, int count, Tile& tile, Findings& out) {
    load_block(pair.got_type, pair.got, at, count, tile.got);
    load_block(pair.truth_type, pair.truth, at, count, tile.truth);
    if (pair.rule == Rule::limit) std::memcpy(tile.limit, pair.limit + at, sizeof(double) * static_cast<std::size_t>(count));
    sum_tile(tile, count, out);
    count_kinds(tile, count, out);
    find_errors(tile, count, pair.overflow);
    find_extremes(tile, count, out);
    const bool single = pair.got_type == Element::f32, half = pair.got_type == Element::f16;
    if (single) find_steps(tile, count, round_f32, f32_steps, out);
    if (half) find_steps(tile, count, round_f16, f16_steps, out);
    if (pair.rule == Rule::limit) judge_limits(tile, count, out);
    if (pair.rule == Rule::bits && single) judge_bits(tile, count, round_f32, out);
    if (pair.rule == Rule::bits && half) judge_bits(tile, count, round_f16, out);
    if (pair.rule == Rule::bits && !single && !half) judge_bits(tile, count, keep, out);
    find_worst(tile, at, count, out);
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
}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
