// transpose of tiles.h with AVX-512: pairs of lanes, pairs of those, then quarters of vectors, twice.
#pragma once

namespace kparity {
namespace KP_ISA {
namespace {

// to[j·stride + i] = from[i][j] for elements of four bytes.
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
        const __m512i even0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), odd0 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
        const __m512i even8 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88), odd8 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_storeu_si512(to + c * stride, _mm512_shuffle_i32x4(even0, even8, 0x88));
        _mm512_storeu_si512(to + (4 + c) * stride, _mm512_shuffle_i32x4(odd0, odd8, 0x88));
        _mm512_storeu_si512(to + (8 + c) * stride, _mm512_shuffle_i32x4(even0, even8, 0xdd));
        _mm512_storeu_si512(to + (12 + c) * stride, _mm512_shuffle_i32x4(odd0, odd8, 0xdd));
    }
}

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
