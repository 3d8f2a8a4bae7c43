// The vocabulary of simd.h in plain C++: the baseline, one lane wide, and the plainest statement of what each word
// means.
#pragma once

inline F set1(float value) { return value; }

template <class Tail>
inline F load(const float* p, Tail) {
    F value;
    std::memcpy(&value, p, sizeof value);
    return value;
}
template <class Tail>
inline void store(float* p, Tail, F value) {
    std::memcpy(p, &value, sizeof value);
}

inline float from_half(std::uint16_t bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1fu;
    const std::uint32_t mantissa = bits & 0x3ffu;
    std::uint32_t word;
    if (exponent == 0) {  // zero or subnormal: mantissa · 2^-24, exact in f32
        const float value = static_cast<float>(mantissa) * 0x1p-24f;
        std::memcpy(&word, &value, sizeof word);
    } else if (exponent == 31) {
        word = 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u);
    } else {
        word = (exponent + 112) << 23 | mantissa << 13;
    }
    word |= sign;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

inline std::uint16_t to_half(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    const auto sign = static_cast<std::uint16_t>(word >> 16 & 0x8000u);
    word &= 0x7fffffffu;
    if (word > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | (word >> 13 & 0x1ffu));
    if (word >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
    if (word < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded to even
        float shifted;
        std::memcpy(&shifted, &word, sizeof shifted);
        shifted += 0.5f;
        std::memcpy(&word, &shifted, sizeof word);
        return static_cast<std::uint16_t>(sign | (word - 0x3f000000u));
    }
    word += 0xfffu + (word >> 13 & 1u);  // to nearest, ties to even
    return static_cast<std::uint16_t>(sign | ((word - 0x38000000u) >> 13));
}

template <class Tail>
inline F load(const Half* p, Tail) {
    std::uint16_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return from_half(bits);
}
template <class Tail>
inline void store(Half* p, Tail, F value) {
    const std::uint16_t bits = to_half(value);
    std::memcpy(p, &bits, sizeof bits);
}

inline F fma(F a, F b, F c) { return a * b + c; }
inline F neg_abs(F x) { return -fabsf(x); }
inline F min(F limit, F x) { return limit < x ? limit : x; }
inline F max(F limit, F x) { return limit > x ? limit : x; }
inline F pick_negative(F test, F if_negative, F otherwise) { return test < 0.0f ? if_negative : otherwise; }

// The largest |x|, compared as bits: above every number comes infinity, and above that NaN.
inline F max_magnitude(F top, F x) {
    std::int32_t a, b;
    x = fabsf(x);
    std::memcpy(&a, &top, sizeof a);
    std::memcpy(&b, &x, sizeof b);
    return a > b ? top : x;
}

inline F exp_neg(F x) {
    if (x < -87.33654f) return 0.0f;
    return expf(x);
}

inline float sum(F x) { return x; }
inline float largest(F x) { return x; }
inline float largest_magnitude(F x) { return x; }
inline void sum4(F a, F b, F c, F d, float* out) { out[0] = a, out[1] = b, out[2] = c, out[3] = d; }

inline bool any_nan(F x) { return x != x; }
template <class Tail>
inline int first_equal(F x, F value, Tail) {
    return x == value ? 0 : -1;
}

// Round half to even, limited to [-128, 127]; a NaN becomes -128 in every set.
template <class Tail>
inline N quantise(F x, Tail) {
    if (!(x > -128.0f)) return -128;
    if (x >= 127.0f) return 127;
    return static_cast<N>((x + 12582912.0f) - 12582912.0f);  // 1.5·2^23 leaves no fraction bits
}
inline N add(N a, N b) { return a + b; }
inline std::int32_t sum(N x) { return x; }
template <class Tail>
inline void store8(std::int8_t* p, Tail, N value) {
    *p = static_cast<std::int8_t>(value);
}

struct Codes {
    std::uint8_t at[CODES];
};
inline Codes decode(const std::uint8_t* w) {
    Codes codes;
    for (int s = 0; s < 4; ++s)
        for (int j = 0; j < 64; ++j) codes.at[64 * s + j] = static_cast<std::uint8_t>(w[j] >> (2 * s) & 3);
    return codes;
}
inline I dot(const Codes& codes, const std::int8_t* p, I acc) {
    std::int32_t total = 0;
    for (int j = 0; j < CODES; ++j) total += codes.at[j] * p[j];
    return acc + total;
}
inline void sum4(I a, I b, I c, I d, std::int32_t* out) { out[0] = a, out[1] = b, out[2] = c, out[3] = d; }

// A quarter of a block alone.
constexpr int PIECES = 4;
inline I dot(int quarter, const std::uint8_t* w, const std::int8_t* p) {
    std::int32_t total = 0;
    for (int s = 0; s < 4; ++s)
        for (int j = 16 * quarter; j < 16 * quarter + 16; ++j) total += (w[j] >> (2 * s) & 3) * p[64 * s + j];
    return total;
}
inline void quarter_sums(I a, I b, I c, I d, std::int32_t (*out)[4]) { sum4(a, b, c, d, *out); }

// 256 activations in the order in which decode() gives their codes; returns their sum.
inline std::int32_t permute(const std::int8_t* q, std::int8_t* p) {
    std::int32_t total = 0;
    for (int w = 0; w < 16; ++w)
        for (int s = 0; s < 4; ++s)
            for (int b = 0; b < 4; ++b) {
                const std::int8_t value = q[16 * w + 4 * s + b];
                p[64 * s + 4 * w + b] = value;
                total += value;
            }
    return total;
}
