// What the kernels share, once per instruction set and inside its namespace: vectors, tails, the split over threads.
//
// The simd_*.h headers wrap the same small vocabulary for each set:
//   W                     f32 lanes of a vector F (and i32 lanes of a vector N)
//   load, store           f32 or f16 memory, any alignment, with a tail: Full, or Part with fewer lanes (the others read as 0)
//   add sub mul div fma   fma(a, b, c) = a·b + c, with one or two roundings
//   min max               of (limit, x): a NaN in x stays a NaN
//   exp_neg               e^x for x <= 0 within 2 ULP; below the smallest normal number 0
//   sum4                  the sums of four vectors; each slot is added in the same order, so a result does not depend on its slot
//   decode, dot           256 packed ternary codes, and their exact product with 256 permuted int8 activations
// and two tile sizes that follow from the number of registers: TOKENS (rows of activations a weight tile is reused for) and
// VALUES (vectors of a head that attention accumulates at a time).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernel.h"

namespace kparity {
namespace KP_ISA {
namespace {

struct Half {
    std::uint16_t bits;
};
struct Full {};
struct Part {
    int n;
};

constexpr int CODES = 256;       // codes of a packed block
constexpr int BLOCK_BYTES = 64;  // bytes of a packed block

inline void prefetch(const void* base, std::int64_t offset) {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(base) + static_cast<std::uintptr_t>(offset)));
}

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

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity

#if defined(KP_AVX512)
#include "simd_avx512.h"
#elif defined(KP_AVX2)
#include "simd_avx2.h"
#elif defined(KP_NEON)
#include "simd_neon.h"
#else
#include "simd_scalar.h"
#endif

namespace kparity {
namespace KP_ISA {
namespace {

// body(i, tail) for every vector of [begin, end): Full ones, then at most one Part.
template <class Body>
inline void each(std::int64_t begin, std::int64_t end, Body body) {
    std::int64_t i = begin;
    for (; i + W <= end; i += W) body(i, Full{});
    if (i < end) body(i, Part{static_cast<int>(end - i)});
}

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
