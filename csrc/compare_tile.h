// Blocks of any type under any rule: fp64 copies of both sides in the first-level cache, then one short loop per
// question. The rules are those of kparity/numerics/aggregates.py.
#pragma once

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
    constexpr int LINE = 64 / static_cast<int>(sizeof(T));
    const T* p = static_cast<const T*>(from) + at;
    int i = 0;
    for (; i + LINE <= count; i += LINE) {
        prefetch(p + i, AHEAD);
        for (int lane = 0; lane < LINE; ++lane) to[i + lane] = static_cast<double>(p[i + lane]);
    }
    for (; i < count; ++i) to[i] = static_cast<double>(p[i]);
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
            sums.at[GOT_SQ][v] += g * g;
            sums.at[TRUTH_SQ][v] += t * t;
            sums.at[PRODUCT][v] += g * t;
            sums.at[ERROR_SQ][v] += difference * difference;
            sums.at[ERROR_SUM][v] += difference;
        }
    add_sums(out.sums, sums.stored());
}

// Whether no element is a NaN or an infinity, nor truth beyond the range of got.
inline bool plain_tile(const Tile& tile, int count, double overflow) {
    Largest got, truth;  // by their bits NaNs are above infinity
    for (int i = 0; i < count; ++i) {
        got.add(std::fabs(tile.got[i]));
        truth.add(std::fabs(tile.truth[i]));
    }
    return got.value() < INFINITY && truth.value() < INFINITY && !(truth.value() >= overflow);
}

inline void count_kinds(const Tile& tile, int count, Findings& out) {
    for (int i = 0; i < count; ++i) {
        out.counts[GOT_NAN] += is_nan(tile.got[i]);
        out.counts[TRUTH_NAN] += is_nan(tile.truth[i]);
        out.counts[GOT_INF] += is_inf(tile.got[i]);
        out.counts[TRUTH_INF] += is_inf(tile.truth[i]);
    }
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

// Errors that may be as large a part of their size as `known` says, or larger: most tiles have none, and need no
// divisions.
inline std::int64_t candidates(const double* error, const double* size, int count, double known) {
    // A quotient may be infinite by overflow alone.
    const double finite = known < INFINITY ? known : 0x1.fffffffffffffp1023;
    const double slope = known < 1e-290 ? 0.0 : finite * (1 - 0x1p-50);
    std::int64_t found = 0;
    for (int i = 0; i < count; ++i) found += !(error[i] < slope * std::fabs(size[i])) & (error[i] > 0);
    return found;
}

inline void find_extremes(const Tile& tile, int count, Findings& out) {
    Largest error, relative;
    for (int i = 0; i < count; ++i) error.add(tile.error[i]);
    out.max_abs = most_of(error.value(), out.max_abs);
    if (candidates(tile.error, tile.truth, count, out.max_rel) == 0) return;
    for (int i = 0; i < count; ++i) relative.add(ratio(tile.error[i], std::fabs(tile.truth[i])));
    out.max_rel = most_of(relative.value(), out.max_rel);
}

inline void find_plain_steps(const Tile& tile, int count, Findings& out) {
    alignas(64) float got[BLOCK], want[BLOCK];
    for (int i = 0; i < count; ++i) {
        got[i] = static_cast<float>(tile.got[i]);
        want[i] = static_cast<float>(tile.truth[i]);
    }
    out.max_ulp = most_of(largest_steps(got, want, count), out.max_ulp);
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

// The worst element so far, from errors and what they use of their limits.
inline void find_worst(const Tile& tile, std::int64_t at, int count, Findings& out) {
    Largest top_used, top_error;
    for (int i = 0; i < count; ++i) {
        top_used.add(tile.used[i]);
        top_error.add(tile.error[i]);
    }
    const double used = top_used.value(), error = top_error.value();
    if (used < out.worst_used || (used == out.worst_used && error < out.worst_error)) return;
    for (int i = 0; i < count; ++i) {
        const double u = tile.used[i], e = tile.error[i];
        if (u < out.worst_used || (u == out.worst_used && e < out.worst_error)) continue;
        out.worst_used = u;
        out.worst_error = e;
        out.worst = at + i;
    }
}

// The worst element of a tile in which there is no error: the last one, if there has been none before.
inline void find_none(std::int64_t at, int count, Findings& out) {
    if (out.worst_used == 0 && out.worst_error == 0) out.worst = at + count - 1;
}

inline void judge_limits(Tile& tile, std::int64_t at, int count, Findings& out) {
    std::int64_t wrong = 0, negative = 0;
    for (int i = 0; i < count; ++i) {
        const double error = tile.error[i], limit = tile.limit[i];
        wrong += (!(error <= limit) | (error == INFINITY)) & (error != 0.0);
        negative += limit < 0;
    }
    out.counts[WRONG] += wrong;
    out.counts[NEGATIVE] += negative;
    if (candidates(tile.error, tile.limit, count, out.worst_used) == 0) return find_none(at, count, out);
    for (int i = 0; i < count; ++i) tile.used[i] = ratio(tile.error[i], tile.limit[i]);
    find_worst(tile, at, count, out);
}

template <class Round>
inline void judge_bits(Tile& tile, std::int64_t at, int count, Round round, Findings& out) {
    std::int64_t wrong = 0;
    for (int i = 0; i < count; ++i) {
        const double g = tile.got[i], want = round(tile.truth[i]);
        const bool differs = (bits_of(g) != bits_of(want)) & !(is_nan(g) & is_nan(want));
        wrong += differs;
        tile.error[i] = differs ? tile.error[i] : 0.0;
        tile.used[i] = differs ? INFINITY : 0.0;
    }
    out.counts[WRONG] += wrong;
    if (wrong == 0) return find_none(at, count, out);
    find_worst(tile, at, count, out);
}

inline void full_block(const Pair& pair, std::int64_t at, int count, Tile& tile, Findings& out) {
    const bool single = pair.got_type == Element::f32, half = pair.got_type == Element::f16;
    load_block(pair.got_type, pair.got, at, count, tile.got);
    load_block(pair.truth_type, pair.truth, at, count, tile.truth);
    if (pair.rule == Rule::limit) copy_block<double>(pair.limit, at, count, tile.limit);
    sum_tile(tile, count, out);
    const bool plain = plain_tile(tile, count, pair.range);
    if (!plain) count_kinds(tile, count, out);
    find_errors(tile, count, pair.overflow);
    find_extremes(tile, count, out);
    if (single && plain) find_plain_steps(tile, count, out);
    if (single && !plain) find_steps(tile, count, round_f32, f32_steps, out);
    if (half) find_steps(tile, count, round_f16, f16_steps, out);
    if (pair.rule == Rule::none) find_worst(tile, at, count, out);
    if (pair.rule == Rule::limit) judge_limits(tile, at, count, out);
    if (pair.rule == Rule::bits && single) judge_bits(tile, at, count, round_f32, out);
    if (pair.rule == Rule::bits && half) judge_bits(tile, at, count, round_f16, out);
    if (pair.rule == Rule::bits && !single && !half) judge_bits(tile, at, count, keep, out);
}
