// The vocabulary of simd.h for AVX-512 F, BW, DQ, VL and VNNI: sixteen lanes, masks for tails, vpdpbusd for codes.
#pragma once

inline __mmask16 mask(Part tail) { return static_cast<__mmask16>((1u << tail.n) - 1u); }

inline F set1(float value) { return _mm512_set1_ps(value); }

inline F load(const float* p, Full) { return _mm512_loadu_ps(p); }
inline F load(const float* p, Part tail) { return _mm512_maskz_loadu_ps(mask(tail), p); }
inline void store(float* p, Full, F value) { _mm512_storeu_ps(p, value); }
inline void store(float* p, Part tail, F value) { _mm512_mask_storeu_ps(p, mask(tail), value); }

inline F load(const Half* p, Full) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F load(const Half* p, Part tail) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(tail), p)); }
inline void store(Half* p, Full, F value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(Half* p, Part tail, F value) {
    _mm256_mask_storeu_epi16(p, mask(tail), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F neg_abs(F x) { return _mm512_or_ps(x, _mm512_set1_ps(-0.0f)); }
inline F min(F limit, F x) { return _mm512_min_ps(limit, x); }  // the second operand is the result when one is a NaN
inline F max(F limit, F x) { return _mm512_max_ps(limit, x); }
inline F pick_negative(F test, F if_negative, F otherwise) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(test, zero(), _CMP_LT_OQ), otherwise, if_negative);
}

inline F max_magnitude(F top, F x) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(top), _mm512_castps_si512(_mm512_abs_ps(x))));
}

inline F to_whole(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F times_power(F p, F n, F x) {
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, set1(-87.33654f), _CMP_NLT_UQ), p, n);
}

inline float sum(F x) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
inline float largest(F x) { return _mm512_reduce_max_ps(x); }
inline float largest_magnitude(F x) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(_mm512_castps_si512(x)))));
}
inline void sum4(F a, F b, F c, F d, float* out) {
    const F ab = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const F cd = add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const F all = add(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

inline bool any_nan(F x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }
inline int first(__mmask16 found) { return found ? __builtin_ctz(found) : -1; }
inline int first_equal(F x, F value, Full) { return first(_mm512_cmp_ps_mask(x, value, _CMP_EQ_OQ)); }
inline int first_equal(F x, F value, Part tail) {
    return first(_mm512_mask_cmp_ps_mask(mask(tail), x, value, _CMP_EQ_OQ));
}

inline N rounded(F x) {  // a NaN converts to the smallest integer
    return _mm512_cvtps_epi32(_mm512_max_ps(set1(-128.0f), _mm512_min_ps(set1(127.0f), x)));
}
inline N quantise(F x, Full) { return _mm512_max_epi32(rounded(x), _mm512_set1_epi32(-128)); }
inline N quantise(F x, Part tail) { return _mm512_maskz_max_epi32(mask(tail), rounded(x), _mm512_set1_epi32(-128)); }
inline N add(N a, N b) { return _mm512_add_epi32(a, b); }
inline std::int32_t sum(N x) { return _mm512_reduce_add_epi32(x); }
inline void store8(std::int8_t* p, Full, N value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(value));
}
inline void store8(std::int8_t* p, Part tail, N value) { _mm512_mask_cvtepi32_storeu_epi8(p, mask(tail), value); }

// The sums of each 128 bits of four vectors, side by side.
inline I sum4(I a, I b, I c, I d) {
    const I ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const I cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}
inline void sum4(I a, I b, I c, I d, std::int32_t* out) {
    const I all = sum4(a, b, c, d);
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    const __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), quarter);
}

// lanes + code·q, four products to a lane. GCC (12) copies the accumulators of its own intrinsic to other registers and
// to the stack in every turn of a loop with sixteen of them, which costs a third of the speed; it leaves those of an
// instruction alone.
inline I dot(I lanes, I codes, I q) {
#if defined(__GNUC__) && !defined(__clang__)
    asm("vpdpbusd %2, %1, %0" : "+v"(lanes) : "v"(codes), "v"(q));
    return lanes;
#else
    return _mm512_dpbusd_epi32(lanes, codes, q);
#endif
}

// All of a block; 128 bits of a vector of codes are a quarter of it.
constexpr int PIECES = 1;
inline I dot(int, const std::uint8_t* w, const std::int8_t* p) {
    I words = _mm512_loadu_si512(w), lanes = I{};
    for (int s = 0; s < 4; ++s, words = _mm512_srli_epi16(words, 2))
        lanes = dot(lanes, _mm512_and_si512(words, _mm512_set1_epi8(3)), _mm512_loadu_si512(p + 64 * s));
    return lanes;
}
inline void quarter_sums(I a, I b, I c, I d, std::int32_t (*out)[4]) { _mm512_storeu_si512(out, sum4(a, b, c, d)); }

// One row of activations: the four codes of a byte are multiplied where they stand, as 1, 4, 16 and 64 times their
// value, in accumulators of their own, and those are shifted back once at the end: every lane is an exact multiple.
inline void products(Tile<1>, const std::uint8_t* const* w, const std::int8_t* p, std::int64_t, std::int64_t blocks,
                     std::int64_t ahead, std::int32_t (*acc)[4]) {
    const __m512i place[4] = {_mm512_set1_epi8(0x03), _mm512_set1_epi8(0x0c), _mm512_set1_epi8(0x30),
                              _mm512_set1_epi8(static_cast<char>(0xc0))};
    I lanes[4][4];
    for (int r = 0; r < 4; ++r)
        for (int s = 0; s < 4; ++s) lanes[r][s] = I{};
    for (std::int64_t b = 0; b < blocks; ++b) {
        I q[4];
        for (int s = 0; s < 4; ++s) q[s] = _mm512_loadu_si512(p + b * CODES + 64 * s);
        for (int r = 0; r < 4; ++r) {
            prefetch(w[r], b * BLOCK_BYTES + ahead);
            const I words = _mm512_loadu_si512(w[r] + b * BLOCK_BYTES);
            for (int s = 0; s < 4; ++s)
                lanes[r][s] = dot(lanes[r][s], _mm512_and_si512(words, place[s]), q[s]);
        }
    }
    I total[4];
    for (int r = 0; r < 4; ++r)
        total[r] = add(add(lanes[r][0], _mm512_srai_epi32(lanes[r][1], 2)),
                       add(_mm512_srai_epi32(lanes[r][2], 4), _mm512_srai_epi32(lanes[r][3], 6)));
    sum4(total[0], total[1], total[2], total[3], acc[0]);
}

// More rows of activations: the codes of four rows of weights are shifted down once and used for all of them.
template <int M>
inline void products(Tile<M>, const std::uint8_t* const* w, const std::int8_t* p, std::int64_t stride,
                     std::int64_t blocks, std::int64_t ahead, std::int32_t (*acc)[4]) {
    const __m512i three = _mm512_set1_epi8(3);
    I lanes[M][4];
    for (int m = 0; m < M; ++m)
        for (int r = 0; r < 4; ++r) lanes[m][r] = I{};
    for (std::int64_t b = 0; b < blocks; ++b) {
        I words[4];
        for (int r = 0; r < 4; ++r) {
            prefetch(w[r], b * BLOCK_BYTES + ahead);
            words[r] = _mm512_loadu_si512(w[r] + b * BLOCK_BYTES);
        }
        for (int s = 0; s < 4; ++s) {
            I codes[4];
            for (int r = 0; r < 4; ++r) {
                codes[r] = _mm512_and_si512(words[r], three);
                words[r] = _mm512_srli_epi16(words[r], 2);
            }
            for (int m = 0; m < M; ++m) {
                const I q = _mm512_loadu_si512(p + m * stride + b * CODES + 64 * s);
                for (int r = 0; r < 4; ++r) lanes[m][r] = dot(lanes[m][r], codes[r], q);
            }
        }
    }
    for (int m = 0; m < M; ++m) sum4(lanes[m][0], lanes[m][1], lanes[m][2], lanes[m][3], acc[m]);
}

inline std::int32_t permute(const std::int8_t* q, std::int8_t* p) {
    // A 16×4 matrix of u32 transposed: even and odd columns of two vectors at a time, then pairs of those.
    const __m512i even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i odd = _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
    __m512i row[4];
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < 4; ++i) {
        row[i] = _mm512_loadu_si512(q + 64 * i);
        total = _mm512_dpbusd_epi32(total, _mm512_set1_epi8(1), row[i]);
    }
    const __m512i low01 = _mm512_permutex2var_epi32(row[0], even, row[1]);
    const __m512i low23 = _mm512_permutex2var_epi32(row[2], even, row[3]);
    const __m512i high01 = _mm512_permutex2var_epi32(row[0], odd, row[1]);
    const __m512i high23 = _mm512_permutex2var_epi32(row[2], odd, row[3]);
    _mm512_storeu_si512(p, _mm512_shuffle_i64x2(low01, low23, 0x44));
    _mm512_storeu_si512(p + 64, _mm512_shuffle_i64x2(low01, low23, 0xee));
    _mm512_storeu_si512(p + 128, _mm512_shuffle_i64x2(high01, high23, 0x44));
    _mm512_storeu_si512(p + 192, _mm512_shuffle_i64x2(high01, high23, 0xee));
    return _mm512_reduce_add_epi32(total);
}
