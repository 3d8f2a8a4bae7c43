// The vocabulary of simd.h for AArch64 NEON with the dot-product extension: four lanes; codes through sdot.
#pragma once

inline F set1(float value) { return vdupq_n_f32(value); }

inline F load(const float* p, Full) { return vld1q_f32(p); }
inline void store(float* p, Full, F value) { vst1q_f32(p, value); }

inline F load(const Half* p, Full) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p))));
}
inline void store(Half* p, Full, F value) {
    vst1_u16(reinterpret_cast<std::uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(value)));
}

inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline F neg_abs(F x) { return vnegq_f32(vabsq_f32(x)); }
inline F min(F limit, F x) { return vminq_f32(limit, x); }
inline F max(F limit, F x) { return vmaxq_f32(limit, x); }
inline F pick_negative(F test, F if_negative, F otherwise) {
    return vbslq_f32(vcltzq_f32(test), if_negative, otherwise);
}

inline F max_magnitude(F top, F x) {
    return vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(top), vreinterpretq_s32_f32(vabsq_f32(x))));
}

inline F to_whole(F x) { return vrndnq_f32(x); }
inline F times_power(F p, F n, F x) {
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vbslq_f32(vcltq_f32(x, set1(-87.33654f)), zero(), mul(p, vreinterpretq_f32_s32(power)));
}

inline float sum(F x) { return vaddvq_f32(x); }
inline float largest(F x) { return vmaxvq_f32(x); }
inline float largest_magnitude(F x) {
    const std::int32_t top = vmaxvq_s32(vreinterpretq_s32_f32(x));
    float value;
    std::memcpy(&value, &top, sizeof value);
    return value;
}
inline void sum4(F a, F b, F c, F d, float* out) { vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))); }

inline bool any_nan(F x) { return vminvq_u32(vceqq_f32(x, x)) == 0; }
template <class Tail>
inline int first_equal(F x, F value, Tail tail) {
    float lane[W], wanted[W];
    vst1q_f32(lane, x);
    vst1q_f32(wanted, value);
    int n = W;
    if constexpr (sizeof(tail) == sizeof(Part)) n = tail.n;
    for (int i = 0; i < n; ++i)
        if (lane[i] == wanted[i]) return i;
    return -1;
}

inline N quantise(F x, Full) {  // vmaxnm: the number wins over a NaN
    return vcvtnq_s32_f32(vmaxnmq_f32(vminq_f32(x, set1(127.0f)), set1(-128.0f)));
}
inline N quantise(F x, Part tail) {
    const std::int32_t lane[W] = {0, 1, 2, 3};
    return vandq_s32(vreinterpretq_s32_u32(vcltq_s32(vld1q_s32(lane), vdupq_n_s32(tail.n))), quantise(x, Full{}));
}
inline N add(N a, N b) { return vaddq_s32(a, b); }
inline std::int32_t sum(N x) { return vaddvq_s32(x); }
inline void store8(std::int8_t* p, Part tail, N value) {
    std::int32_t lane[W];
    vst1q_s32(lane, value);
    for (int i = 0; i < tail.n; ++i) p[i] = static_cast<std::int8_t>(lane[i]);
}
inline void store8(std::int8_t* p, Full, N value) { store8(p, Part{W}, value); }

struct Codes {
    int8x16_t at[16];  // [s][quarter]
};
inline Codes decode(const std::uint8_t* w) {
    const uint8x16_t three = vdupq_n_u8(3);
    Codes codes;
    for (int quarter = 0; quarter < 4; ++quarter) {
        const uint8x16_t words = vld1q_u8(w + 16 * quarter);
        codes.at[quarter] = vreinterpretq_s8_u8(vandq_u8(words, three));
        codes.at[4 + quarter] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(words, 2), three));
        codes.at[8 + quarter] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(words, 4), three));
        codes.at[12 + quarter] = vreinterpretq_s8_u8(vshrq_n_u8(words, 6));
    }
    return codes;
}
inline I dot(const Codes& codes, const std::int8_t* p, I acc) {
    for (int i = 0; i < 16; ++i) acc = vdotq_s32(acc, codes.at[i], vld1q_s8(p + 16 * i));
    return acc;
}
inline void sum4(I a, I b, I c, I d, std::int32_t* out) {
    vst1q_s32(out, vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
}

// A quarter of a block alone.
constexpr int PIECES = 4;
inline I dot(int quarter, const std::uint8_t* w, const std::int8_t* p) {
    const uint8x16_t words = vld1q_u8(w + 16 * quarter);
    I acc = vdupq_n_s32(0);
    for (int s = 0; s < 4; ++s) {
        const uint8x16_t codes = vandq_u8(vshlq_u8(words, vdupq_n_s8(static_cast<std::int8_t>(-2 * s))), vdupq_n_u8(3));
        acc = vdotq_s32(acc, vreinterpretq_s8_u8(codes), vld1q_s8(p + 64 * s + 16 * quarter));
    }
    return acc;
}
inline void quarter_sums(I a, I b, I c, I d, std::int32_t (*out)[4]) { sum4(a, b, c, d, *out); }

inline std::int32_t permute(const std::int8_t* q, std::int8_t* p) {
    int32x4_t total = vdupq_n_s32(0);
    for (int i = 0; i < 4; ++i) {
        // De-interleaves the four shifts.
        const int32x4x4_t s = vld4q_s32(reinterpret_cast<const std::int32_t*>(q + 64 * i));
        for (int j = 0; j < 4; ++j) {
            const int8x16_t bytes = vreinterpretq_s8_s32(s.val[j]);
            vst1q_s8(p + 64 * j + 16 * i, bytes);
            total = vdotq_s32(total, vdupq_n_s8(1), bytes);
        }
    }
    return vaddvq_s32(total);
}
