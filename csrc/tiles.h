// Products of many rows of activations, for the sets with AVX-512: both sides are brought into tiles once, and every
// tile is used many times.
//
// A tile is 16 rows of 64 codes, row after row, or 64 activations of 16 tokens with the four bytes of a word side by
// side; a step multiplies one with the other. Steps go over K in the order in which 64 bytes of weights and four shifts
// give their codes, so nothing is shuffled on the way. Sums are exact in int32. A set's header gives:
//   tile_products<T>(codes, code_stride, values, value_stride, steps, more, sums)
//     sums[t][r][i][j] (+)= Σ over the steps of row i of tile r of the codes with token j of tile t of the values,
//     r < PAIR, t < T; `more` adds to what is there
//   TileUnit   what a thread needs while it multiplies tiles
#pragma once

constexpr int TILE = 16;                 // rows of weights, and tokens
constexpr int STEP = 64;                 // codes of a row that a step takes
constexpr int STEPS = CODES / STEP;      // of a block
constexpr int TILE_BYTES = TILE * STEP;  // one step of a tile
constexpr int PAIR = 2;                  // tiles of rows that are multiplied together

template <class T>
struct alignas(64) Square {
    T at[TILE][TILE];
};
using Sums = Square<std::int32_t>;

// 16 sums less what the codes' excess of one adds to them, as f32.
inline F settled(const std::int32_t* sums, const std::int32_t* offset) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(sums), _mm512_load_si512(offset)));
}

// One block of 64 bytes of 16 rows: [STEPS][16][64]. `next` bytes ahead lies what follows: it is fetched meanwhile.
inline void unpack(const std::uint8_t* const* rows, std::int64_t offset, std::int64_t next, std::uint8_t* codes) {
    const __m512i three = _mm512_set1_epi8(3);
    for (int r = 0; r < TILE; ++r) {
        prefetch_far(rows[r] + offset, next);
        const __m512i packed = _mm512_loadu_si512(rows[r] + offset);
        std::uint8_t* to = codes + r * STEP;
        _mm512_store_si512(to, _mm512_and_si512(packed, three));
        _mm512_store_si512(to + TILE_BYTES, _mm512_and_si512(_mm512_srli_epi16(packed, 2), three));
        _mm512_store_si512(to + 2 * TILE_BYTES, _mm512_and_si512(_mm512_srli_epi16(packed, 4), three));
        _mm512_store_si512(to + 3 * TILE_BYTES, _mm512_and_si512(_mm512_srli_epi16(packed, 6), three));
    }
}

// One block of 16 tokens (fewer: the others are zeros): [STEPS][16 words][16 tokens][4], and the sum of each token.
inline void interleave(const std::int8_t* q, std::int64_t stride, int count, std::int8_t* values, std::int32_t* sums) {
    for (int t = 0; t < TILE; ++t) {
        std::int32_t words[CODES / 4] = {};
        std::int32_t total = 0;
        if (t < count) {
            std::memcpy(words, q + t * stride, CODES);
            for (int i = 0; i < CODES; ++i) total += q[t * stride + i];
        }
        sums[t] = total;
        for (int s = 0; s < STEPS; ++s)
            for (int w = 0; w < TILE; ++w)
                std::memcpy(values + s * TILE_BYTES + w * STEP + t * 4, words + STEPS * w + s, 4);
    }
}

// to[j·stride + i] = from[i][j] for elements of four bytes: pairs of lanes, pairs of those, then quarters of vectors,
// twice.
template <class T>
inline void transpose(const T (*from)[TILE], T* to, std::int64_t stride) {
    static_assert(sizeof(T) == 4, "lanes of four bytes");
    __m512i a[TILE], b[TILE];
    for (int i = 0; i < TILE; ++i) a[i] = _mm512_loadu_si512(from[i]);
    for (int i = 0; i < TILE; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < TILE; i += 4) {  // a[i + c] now has column 4·quarter + c of rows i … i + 3
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int c = 0; c < 4; ++c) {
        const __m512i even0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88);
        const __m512i odd0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
        const __m512i even8 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
        const __m512i odd8 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_storeu_si512(to + c * stride, _mm512_shuffle_i32x4(even0, even8, 0x88));
        _mm512_storeu_si512(to + (4 + c) * stride, _mm512_shuffle_i32x4(odd0, odd8, 0x88));
        _mm512_storeu_si512(to + (8 + c) * stride, _mm512_shuffle_i32x4(even0, even8, 0xdd));
        _mm512_storeu_si512(to + (12 + c) * stride, _mm512_shuffle_i32x4(odd0, odd8, 0xdd));
    }
}

#if defined(KP_AMX)
#include "tiles_amx.h"
#else
#include "tiles_avx512.h"
#endif
