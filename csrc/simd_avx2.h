// The vocabulary of simd.h for AVX2, FMA and F16C: eight lanes; codes through vpmaddubsw, widened before int16 can
// overflow.
#pragma once

inline __m256i mask(Part tail) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(tail.n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F set1(float value) { return _mm256_set1_ps(value); }

inline F load(const float* p, Full) { return _mm256_loadu_ps(p); }
inline F load(const float* p, Part tail) { return _mm256_maskload_ps(p, mask(tail)); }
inline void store(float* p, Full, F value) { _mm256_storeu_ps(p, value); }
inline void store(float* p, Part tail, F value) { _mm256_maskstore_ps(p, mask(tail), value); }

inline F load(const Half* p, Full) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store(Half* p, Full, F value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F neg_abs(F x) { return _mm256_or_ps(x, set1(-0.0f)); }
inline F min(F limit, F x) { return _mm256_min_ps(limit, x); }  // the second operand is the result when one is a NaN
inline F max(F limit, F x) { return _mm256_max_ps(limit, x); }
inline F pick_negative(F test, F if_negative, F otherwise) {
    return _mm256_blendv_ps(otherwise, if_negative, _mm256_cmp_ps(test, zero(), _CMP_LT_OQ));
}

inline F max_magnitude(F top, F x) {
    const __m256i bits = _mm256_castps_si256(_mm256_andnot_ps(set1(-0.0f), x));
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(top), bits));
}

inline F to_whole(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F times_power(F p, F n, F x) {
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    const F normal = _mm256_cmp_ps(x, set1(-87.33654f), _CMP_NLT_UQ);
    return _mm256_and_ps(normal, mul(p, _mm256_castsi256_ps(power)));
}

inline float sum(F x) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
inline float largest(F x) {
    float lane[W], top;
    _mm256_storeu_ps(lane, x);
    top = lane[0];
    for (int i = 1; i < W; ++i) top = lane[i] > top ? lane[i] : top;
    return top;
}
inline float largest_magnitude(F x) {
    std::int32_t bits[W], top;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), _mm256_castps_si256(x));
    top = bits[0];
    for (int i = 1; i < W; ++i) top = bits[i] > top ? bits[i] : top;
    float value;
    std::memcpy(&value, &top, sizeof value);
    return value;
}
inline void sum4(F a, F b, F c, F d, float* out) {
    const F ab = add(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const F cd = add(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const F all = add(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

inline bool any_nan(F x) { return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0; }
inline int first(int found) { return found ? __builtin_ctz(static_cast<unsigned>(found)) : -1; }
inline int first_equal(F x, F value, Full) { return first(_mm256_movemask_ps(_mm256_cmp_ps(x, value, _CMP_EQ_OQ))); }
inline int first_equal(F x, F value, Part tail) {
    return first(_mm256_movemask_ps(_mm256_cmp_ps(x, value, _CMP_EQ_OQ)) & ((1 << tail.n) - 1));
}

inline N quantise(F x, Full) {  // a NaN converts to the smallest integer
    const N rounded = _mm256_cvtps_epi32(_mm256_max_ps(set1(-128.0f), _mm256_min_ps(set1(127.0f), x)));
    return _mm256_max_epi32(rounded, _mm256_set1_epi32(-128));
}
inline N quantise(F x, Part tail) { return _mm256_and_si256(mask(tail), quantise(x, Full{})); }
inline N add(N a, N b) { return _mm256_add_epi32(a, b); }
inline std::int32_t sum(N x) {
    const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i pair = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
    return _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32(pair, 1)));
}
inline void store8(std::int8_t* p, Part tail, N value) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
    std::int8_t part[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(part), _mm_packs_epi16(words, words));
    std::memcpy(p, part, static_cast<unsigned>(tail.n));
}
inline void store8(std::int8_t* p, Full, N value) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

struct Codes {
    __m256i at[8];  // [s][half]
};
inline Codes decode(const std::uint8_t* w) {
    const __m256i three = _mm256_set1_epi8(3);
    Codes codes;
    for (int half = 0; half < 2; ++half) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * half));
        codes.at[half] = _mm256_and_si256(words, three);
        codes.at[2 + half] = _mm256_and_si256(_mm256_srli_epi16(words, 2), three);
        codes.at[4 + half] = _mm256_and_si256(_mm256_srli_epi16(words, 4), three);
        codes.at[6 + half] = _mm256_and_si256(_mm256_srli_epi16(words, 6), three);
    }
    return codes;
}
inline I dot(const Codes& codes, const std::int8_t* p, I acc) {
    // One vpmaddubsw lane is at most 2·3·128 = 768 in magnitude, eight of them 6144: int16 holds the block.
    __m256i pairs = _mm256_setzero_si256();
    for (int i = 0; i < 8; ++i) {
        const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * i));
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes.at[i], q));
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// The sums of each 128 bits of four vectors, side by side.
inline I sum4(I a, I b, I c, I d) {
    const I ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const I cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}
inline void sum4(I a, I b, I c, I d, std::int32_t* out) {
    const I all = sum4(a, b, c, d);
    const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), half);
}

// Half a block alone; 128 bits of a vector of codes are a quarter of one.
constexpr int PIECES = 2;
inline I dot(int half, const std::uint8_t* w, const std::int8_t* p) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * half));
    __m256i pairs = _mm256_setzero_si256();
    for (int s = 0; s < 4; ++s) {
        const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(words, 2 * s), _mm256_set1_epi8(3));
        const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 64 * s + 32 * half));
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes, q));
    }
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
inline void quarter_sums(I a, I b, I c, I d, std::int32_t (*out)[4]) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sum4(a, b, c, d));
}

inline std::int32_t permute(const std::int8_t* q, std::int8_t* p) {
    __m256i total = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {  // four words of four u32 at a time: a 4×4 transposition
        const auto* from = reinterpret_cast<const __m128i*>(q + 64 * i);
        const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
        const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
        const __m128i ab01 = _mm_unpacklo_epi32(a, b), cd01 = _mm_unpacklo_epi32(c, d);
        const __m128i ab23 = _mm_unpackhi_epi32(a, b), cd23 = _mm_unpackhi_epi32(c, d);
        const __m128i s[4] = {_mm_unpacklo_epi64(ab01, cd01), _mm_unpackhi_epi64(ab01, cd01),
                              _mm_unpacklo_epi64(ab23, cd23), _mm_unpackhi_epi64(ab23, cd23)};
        for (int j = 0; j < 4; ++j) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 64 * j + 16 * i), s[j]);
            const __m256i wide = _mm256_cvtepi8_epi16(s[j]);
            total = _mm256_add_epi32(total, _mm256_madd_epi16(wide, _mm256_set1_epi16(1)));
        }
    }
    return sum(total);
}
