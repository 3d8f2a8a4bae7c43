// What the kernels share, once per instruction set and inside its namespace: vectors, tails, the split over threads.
//
// The simd_*.h texts, which stand in this namespace, wrap the same small vocabulary for each set:
//   W                     f32 lanes of a vector F (and i32 lanes of a vector N)
//   load, store           f32 or f16 memory, any alignment, with a tail: Full, or Part with fewer lanes
//                         (the others read as 0)
//   add sub mul div fma   fma(a, b, c) = a·b + c, with one or two roundings
//   min max               of (limit, x): a NaN in x stays a NaN
//   exp_neg               e^x for x <= 0 within 2 ULP; below the smallest normal number 0
//   sum4                  the sums of four vectors; each slot is added in the same order, so a result does not
//                         depend on its slot
//   permute               256 int8 activations in the order in which 64 bytes of codes and four shifts give theirs
//   products              four rows of packed codes times M rows of permuted activations, exact in int32
//   dot, quarter_sums     a piece of a block of codes, PIECES to a block, times activations, and what the lanes of four
//                         rows add up to in each quarter of the block
// and two tile sizes that follow from the number of registers: TOKENS (rows of activations a weight tile is reused for)
// and VALUES (vectors of a head that attention accumulates at a time).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(KP_AVX512) || defined(KP_AVX2)
#include <immintrin.h>
#elif defined(KP_NEON)
#include <arm_neon.h>
#endif

#include "kernel.h"

namespace kparity::KP_ISA {
namespace {

struct Half {
    std::uint16_t bits;
};
struct Full {};
struct Part {
    int n;
};

template <int M>
struct Tile {
    static constexpr int count = M;
};

constexpr int CODES = 256;       // codes of a packed block
constexpr int BLOCK_BYTES = 64;  // bytes of a packed block
constexpr int CACHE_LINE = 64;   // bytes that a store fetches

inline void prefetch(const void* base, std::int64_t offset) {
    __builtin_prefetch(reinterpret_cast<const void*>(
        reinterpret_cast<std::uintptr_t>(base) + static_cast<std::uintptr_t>(offset)));
}

inline void prefetch_write(void* base, std::int64_t offset) {  // for a store
    __builtin_prefetch(reinterpret_cast<void*>(
        reinterpret_cast<std::uintptr_t>(base) + static_cast<std::uintptr_t>(offset)), 1);
}

inline void prefetch_far(const void* base, std::int64_t offset) {  // into the second-level cache
    __builtin_prefetch(reinterpret_cast<const void*>(
        reinterpret_cast<std::uintptr_t>(base) + static_cast<std::uintptr_t>(offset)), 0, 2);
}

// An effect for a function that only prefetches: GCC takes it for one without, and leaves its calls out.
inline void keep() { asm volatile(""); }

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

struct Range {
    std::int64_t begin, end;
};

// The calling thread's share of n items, in multiples of grain.
inline Range split(std::int64_t n, std::int64_t grain, const Slice& slice) {
    const std::int64_t units = ceil_div(n, grain);
    const std::int64_t begin = units * slice.thread / slice.threads * grain;
    const std::int64_t end = units * (slice.thread + 1) / slice.threads * grain;
    return {least(begin, n), least(end, n)};
}

// Up to four rows of a matrix that are read side by side: `first` and others at distances of `apart`, before `end`.
struct Rows {
    std::int64_t first, apart, end;
    int count() const { return 1 + (first + apart < end) + (first + 2 * apart < end) + (first + 3 * apart < end); }
    // Row r of the tile; where there is none, the last one again.
    std::int64_t row(int r) const { return first + least(r, count() - 1) * apart; }
};

// The first tile of a part. One row of activations alone waits for memory: then the four rows are a quarter of the part
// apart, in different pages, each of which the processor prefetches by itself; a row more than a quarter, or they would
// often stand at the same place of their pages and contend for the same bank of memory. Otherwise they are neighbours.
inline Rows first_tile(Range part, bool alone) {
    return {part.begin, alone ? ceil_div(part.end - part.begin, 4) + 1 : 1, part.end};
}

// body(Rows) for all rows of a part.
template <class Body>
inline void each_tile(Range part, bool alone, Body body) {
    Rows tile = first_tile(part, alone);
    const std::int64_t stop = alone ? least(part.begin + tile.apart, part.end) : part.end;
    for (; tile.first < stop; tile.first += alone ? 1 : 4) body(tile);
}

#if defined(KP_AVX512)
constexpr int W = 16, TOKENS = 4, VALUES = 4;
using F = __m512;
using N = __m512i;
using I = __m512i;
#elif defined(KP_AVX2)
constexpr int W = 8, TOKENS = 2, VALUES = 2;
using F = __m256;
using N = __m256i;
using I = __m256i;
#elif defined(KP_NEON)
constexpr int W = 4, TOKENS = 4, VALUES = 4;
using F = float32x4_t;
using N = int32x4_t;
using I = int32x4_t;
#else
constexpr int W = 1, TOKENS = 4, VALUES = 4;
using F = float;
using N = std::int32_t;
using I = std::int32_t;
#endif

inline F zero() { return F{}; }
inline F add(F a, F b) { return a + b; }
inline F sub(F a, F b) { return a - b; }
inline F mul(F a, F b) { return a * b; }
inline F div(F a, F b) { return a / b; }

#if defined(KP_AVX512)
#include "simd_avx512.h"
#elif defined(KP_AVX2)
#include "simd_avx2.h"
#elif defined(KP_NEON)
#include "simd_neon.h"
#else
#include "simd_scalar.h"
#endif

#if defined(KP_AVX512) || defined(KP_AVX2) || defined(KP_NEON)
inline F exp_neg(F x) {
    const F n = to_whole(mul(x, set1(1.44269504f)));
    F r = fma(n, set1(-0.693145752f), x);  // ln 2 in two parts: the product with the first is exact
    r = fma(n, set1(-1.42860682e-6f), r);
    F p = set1(1.0f / 5040);  // Taylor: |r| <= ln(2)/2 leaves 5e-9 after the seventh power
    constexpr float TERMS[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (const float term : TERMS) p = fma(p, r, set1(term));
    return times_power(p, n, x);
}
#endif

#if defined(KP_AVX2) || defined(KP_NEON)
// Tails for which the set has no masks.
template <class T>
inline F load(const T* p, Part tail) {
    T part[W] = {};
    std::memcpy(part, p, sizeof(T) * static_cast<unsigned>(tail.n));
    return load(part, Full{});
}
template <class T>
inline void store(T* p, Part tail, F value) {
    T part[W];
    store(part, Full{}, value);
    std::memcpy(p, part, sizeof(T) * static_cast<unsigned>(tail.n));
}
#endif

// Σ of 64-bit words, in whatever order memory gives them fastest.
inline std::uint64_t checksum(const std::uint8_t* data, std::int64_t bytes) {
    typedef std::uint64_t Words __attribute__((vector_size(W < 4 ? 16 : 4 * W)));
    Words total[4] = {};
    std::int64_t i = 0;
    for (; i + static_cast<std::int64_t>(sizeof total) <= bytes; i += sizeof total) {
        for (std::size_t line = 0; line < sizeof total; line += CACHE_LINE) prefetch(data + i + line, 2048);
        for (std::size_t lane = 0; lane < 4; ++lane) {
            Words words;
            std::memcpy(&words, data + i + lane * sizeof words, sizeof words);
            total[lane] += words;
        }
    }
    const Words all = (total[0] + total[1]) + (total[2] + total[3]);
    std::uint64_t sum = 0;
    for (std::size_t lane = 0; lane < sizeof all / 8; ++lane) sum += all[lane];
    for (; i < bytes; ++i) sum += data[i];
    return sum;
}

// body(i, tail) for every vector of [begin, end): Full ones, then at most one Part.
template <class Body>
inline void each(std::int64_t begin, std::int64_t end, Body body) {
    std::int64_t i = begin;
    for (; i + W <= end; i += W) body(i, Full{});
    if (i < end) body(i, Part{static_cast<int>(end - i)});
}

#if !defined(KP_AVX512)
// acc[m][r] = Σ code·q over the blocks of rows w[0..3] and of M rows of activations `stride` apart, for the sets whose
// header gives a block's codes (decode) and their product (dot).
template <int M>
inline void products(Tile<M>, const std::uint8_t* const* w, const std::int8_t* p, std::int64_t stride,
                     std::int64_t blocks, std::int64_t ahead, std::int32_t (*acc)[4]) {
    I lanes[M][4];
    for (int m = 0; m < M; ++m)
        for (int r = 0; r < 4; ++r) lanes[m][r] = I{};
    for (std::int64_t b = 0; b < blocks; ++b)
        for (int r = 0; r < 4; ++r) {
            prefetch(w[r], b * BLOCK_BYTES + ahead);
            const Codes codes = decode(w[r] + b * BLOCK_BYTES);
            for (int m = 0; m < M; ++m) lanes[m][r] = dot(codes, p + m * stride + b * CODES, lanes[m][r]);
        }
    for (int m = 0; m < M; ++m) sum4(lanes[m][0], lanes[m][1], lanes[m][2], lanes[m][3], acc[m]);
}
#endif

// acc[m][i][r]: the same of one block, over each quarter i of it.
template <int M>
inline void quarters(Tile<M>, const std::uint8_t* const* w, const std::int8_t* p, std::int64_t stride,
                     std::int64_t ahead, std::int32_t (*acc)[4][4]) {
    for (int r = 0; r < 4; ++r) prefetch(w[r], ahead);
    for (int m = 0; m < M; ++m, p += stride)
        for (int i = 0; i < PIECES; ++i)
            quarter_sums(dot(i, w[0], p), dot(i, w[1], p), dot(i, w[2], p), dot(i, w[3], p), acc[m] + i * 4 / PIECES);
}

}  // namespace
}  // namespace kparity::KP_ISA
