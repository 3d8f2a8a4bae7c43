// What both ways of comparing a block share: lanes of fp64, sums, extremes, ratios, units of the last place.
#pragma once

#if defined(KP_AVX512)
constexpr int WIDE = 8;
#elif defined(KP_AVX2)
constexpr int WIDE = 4;
#else
constexpr int WIDE = 2;
#endif
constexpr int VECTORS = COMPARE_LANES / WIDE;
constexpr int BLOCK = COMPARE_BLOCK;
constexpr std::int64_t AHEAD = 4096;  // bytes that are asked for while others are computed on; measured

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
    return _mm512_max_pd(a, b);  // GCC 12 makes a mask and a blend of the comparison within a loop
#else
    return a > b ? a : b;
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
    F64 at[SUM_COUNT][VECTORS] = {};

    Sums stored() const {
        Sums out;
        std::memcpy(out.at, at, sizeof at);
        return out;
    }
};

inline void add_sums(Sums& total, const Sums& more) {
    for (int s = 0; s < SUM_COUNT; ++s)
        for (int i = 0; i < COMPARE_LANES; ++i) total.at[s][i] += more.at[s][i];
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
