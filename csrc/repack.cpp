// From the ternary layouts of GGUF files to the one packing that every backend reads, in one pass over the file's
// bytes.
//
// Packed: u32 words of 16 codes (code = w + 1), element e at byte e % 4, bits 2 * (e / 4); rows padded to 256 weights
// with code 1. kparity/ops/packing.py is the definition, kparity/model/decode.py the second decoder, written apart from
// this one.
//
// TQ2_0 and I2_S keep element 32 * plane + m of 128 in byte m, one plane per bit pair. Read as u32, four neighbouring
// input words hold the 4 x 4 (plane, word) table of which the packing is the transpose, so both need nothing but a
// transposition of 2-bit fields. Q2_0 has its weights in order, four a byte: a packed word is the transpose of a word.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

#if defined(__GNUC__)
#define KPARITY_INLINE inline __attribute__((always_inline))
#else
#define KPARITY_INLINE inline
#endif

// One function compiled twice, chosen when the module is loaded; needs ifunc, which glibc has and musl has not.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define KPARITY_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define KPARITY_CLONES
#endif

namespace py = pybind11;

namespace kparity {
namespace {

constexpr int64_t kBlock = 256;          // weights of a packed block and of a TQ1_0 or TQ2_0 block
constexpr int64_t kBlockWords = 16;      // u32 words of a packed block
constexpr int64_t kTq2Bytes = 66;        // u8 qs[64], f16 d           (ggml-common.h, block_tq2_0)
constexpr int64_t kTq1Bytes = 54;        // u8 qs[48], u8 qh[4], f16 d (ggml-common.h, block_tq1_0)
constexpr int64_t kQ2Bytes = 18;         // f16 d, u8 qs[16] for 64 weights; 34 for 128
constexpr int64_t kPtq1Bytes = 28;       // u8 qs[24], u8 qh[2], f16 d for 128 weights
constexpr int64_t kI2sGroup = 128;       // weights of an I2_S group, 32 bytes (bitnet.cpp, ggml-bitnet-mad.cpp, x86)
constexpr uint32_t kOnes = 0x55555555u;  // sixteen codes of weight 0
constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// Codes equal to 3, one bit (the lower one of the pair) each.
inline uint32_t threes(uint32_t word) { return word & (word >> 1) & kOnes; }

// Transpose of a 4 x 4 table of 2-bit fields, in each of the four bytes: field i of out[s] is field s of a[i].
inline void transpose(uint32_t a[4]) {
    for (int i = 0; i < 4; i += 2) {
        const uint32_t t = ((a[i] >> 2) ^ a[i + 1]) & 0x33333333u;
        a[i + 1] ^= t;
        a[i] ^= t << 2;
    }
    for (int i = 0; i < 2; ++i) {
        const uint32_t t = ((a[i] >> 4) ^ a[i + 2]) & 0x0f0f0f0fu;
        a[i + 2] ^= t;
        a[i] ^= t << 4;
    }
}

// 32 bytes of four planes to 8 packed words; `reversed` where the first plane is in the high bits. Returns the OR of
// threes.
template <bool reversed>
inline uint32_t planes_to_words(const uint8_t* src, uint32_t* dst) {
    uint32_t bad = 0;
    for (int half = 0; half < 2; ++half) {
        uint32_t a[4];
        std::memcpy(a, src + 16 * half, sizeof a);
        transpose(a);
        for (int s = 0; s < 4; ++s) {
            bad |= threes(a[s]);
            dst[2 * (reversed ? 3 - s : s) + half] = a[s];
        }
    }
    return bad;
}

// 16 codes, one per byte, to one packed word.
KPARITY_INLINE uint32_t codes_to_word(const uint8_t* codes) {
    uint64_t v[2];
    std::memcpy(v, codes, sizeof v);
    const uint64_t pair = v[0] | v[1] << 4;
    return static_cast<uint32_t>(pair | pair >> 30);  // codes are below 4: nothing leaves its byte
}

void tq2_0_block(const uint8_t* src, uint32_t* dst, uint32_t& bad) {
    bad = planes_to_words<false>(src, dst);
    bad |= planes_to_words<false>(src + 32, dst + 8);
}

// Transpose of the 4 x 4 table of 2-bit fields of a word: field j of byte i becomes field i of byte j.
inline uint32_t transposed(uint32_t x) {
    uint32_t t = (x ^ (x >> 6)) & 0x00cc00ccu;
    x ^= t ^ (t << 6);
    t = (x ^ (x >> 12)) & 0x0000f0f0u;
    return x ^ t ^ (t << 12);
}

// Four codes a byte, in order; code 3 is the weight +2.
template <int64_t weights>
void q2_0_block(const uint8_t* src, uint32_t* dst, uint32_t&) {
    for (int64_t w = 0; w < weights / 16; ++w) {
        uint32_t word;
        std::memcpy(&word, src + 4 * w, sizeof word);
        dst[w] = transposed(word);
    }
}

// GCC's and Clang's own vectors: they become SSE2, AVX2 or NEON, whatever the function is compiled for.
typedef uint8_t u8x32 __attribute__((vector_size(32)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x8 __attribute__((vector_size(8)));

// A TQ1_0 byte is ceil(v * 256 / 243) of a number v of five base-3 digits: the fraction v / 243. The next digit is the
// integer part of three times the fraction q / 256: 0 below 86, 1 below 171, else 2. What is left after five digits is
// below 243 for every byte that an encoder writes; the 13 other byte values are refused.
template <typename V>
KPARITY_INLINE V digit(V q) {
    return V(0 - (V(q >= 86) + V(q >= 171)));  // comparisons give 255 for true
}

// Five digits of every byte of `src`, most significant first, one vector of codes per digit.
template <typename V>
KPARITY_INLINE V five_digits(const uint8_t* src, uint8_t* codes) {
    V q;
    std::memcpy(&q, src, sizeof q);
    for (int n = 0; n < 5; ++n) {
        const V code = digit(q);
        std::memcpy(codes + n * sizeof code, &code, sizeof code);
        q += q + q;
    }
    return V(q >= 243);
}

// The four bytes of qh have four digits each; a fifth one is unused and zero.
KPARITY_INLINE u8x16 four_digits(const uint8_t* src, uint8_t* codes) {
    const u8x16 power = {1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27};
    u8x16 q;
    for (int n = 0; n < 4; ++n) std::memcpy(reinterpret_cast<uint8_t*>(&q) + 4 * n, src, 4);
    const u8x16 fifth = q * 81;
    q *= power;
    const u8x16 code = digit(q);
    std::memcpy(codes, &code, sizeof code);
    return u8x16(fifth >= 81);  // 81 = 243 / 3: the fifth digit is 0 and nothing is left beyond it
}

KPARITY_CLONES void tq1_0_block(const uint8_t* src, uint32_t* dst, uint32_t& bad) {
    alignas(32) uint8_t codes[kBlock];
    const u8x32 bad32 = five_digits<u8x32>(src, codes);
    const u8x16 bad16 = five_digits<u8x16>(src + 32, codes + 160) | four_digits(src + 48, codes + 240);
    for (int64_t w = 0; w < kBlockWords; ++w) dst[w] = codes_to_word(codes + 16 * w);
    uint64_t any[6];
    std::memcpy(any, &bad32, 32);
    std::memcpy(any + 4, &bad16, 16);
    bad = (any[0] | any[1] | any[2] | any[3] | any[4] | any[5]) != 0;
}

// PTQ1_0: five digits of 16 bytes, of 8 bytes, and four of 2.
KPARITY_CLONES void ptq1_0_block(const uint8_t* src, uint32_t* dst, uint32_t& bad) {
    alignas(32) uint8_t codes[kBlock / 2];
    const u8x16 bad16 = five_digits<u8x16>(src, codes);
    const u8x8 bad8 = five_digits<u8x8>(src + 16, codes + 80);
    for (int b = 0; b < 2; ++b) {
        uint8_t q = src[24 + b];
        for (int n = 0; n < 4; ++n, q = static_cast<uint8_t>(q * 3)) codes[120 + 2 * n + b] = (q >= 86) + (q >= 171);
        bad |= q >= 81;  // what is left of a number whose fifth digit is 0
    }
    for (int64_t w = 0; w < kBlockWords / 2; ++w) dst[w] = codes_to_word(codes + 16 * w);
    uint64_t any[3];
    std::memcpy(any, &bad16, 16);
    std::memcpy(any + 2, &bad8, 8);
    bad |= (any[0] | any[1] | any[2]) != 0;
}

// Rows [begin, end) in each thread, no more threads than there is work for.
template <typename Body>
void parallel_rows(int64_t rows, int64_t bytes, int threads, Body body) {
    constexpr int64_t min_bytes = 1 << 16;  // less than this is done sooner than a thread is started
    int64_t count = threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
    count = std::max<int64_t>(1, std::min({count, rows, bytes / min_bytes}));
    std::vector<std::thread> pool;
    for (int64_t t = 1; t < count; ++t) pool.emplace_back(body, rows * t / count, rows * (t + 1) / count);
    body(int64_t{0}, rows / count);
    for (auto& thread : pool) thread.join();
}

void lower(std::atomic<int64_t>& target, int64_t value) {
    int64_t seen = target.load(std::memory_order_relaxed);
    while (value < seen && !target.compare_exchange_weak(seen, value)) {
    }
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using BlockFn = void (*)(const uint8_t*, uint32_t*, uint32_t&);

void require(bool good, const char* message) {
    if (!good) throw std::invalid_argument(message);
}

// Types with a scale for each block of B weights, the f16 d before the codes or behind them: words [N, Kp/16], the bits
// of d [N, K/B], whether a block has a weight that is not 0 [N, K/B], and the index of the first block that is not
// ternary, or -1.
template <int64_t weights, int64_t block_bytes, bool scale_first, BlockFn decode>
py::tuple repack_blocks(const Bytes& data, int64_t rows, int64_t k, int threads) {
    require(rows > 0 && k > 0 && k % weights == 0, "rows and k must be positive and k a multiple of the block");
    const int64_t blocks = k / weights, row_words = (k + kBlock - 1) / kBlock * kBlockWords;
    constexpr int64_t block_words = weights / 16;
    require(data.ndim() == 1 && data.size() == rows * blocks * block_bytes, "data does not have rows * k weights");
    py::array_t<uint32_t> words({rows, row_words});
    py::array_t<uint16_t> scales({rows, blocks});
    py::array_t<bool> used({rows, blocks});
    const uint8_t* src = data.data();
    uint32_t* dst = words.mutable_data();
    uint16_t* scale = scales.mutable_data();
    bool* any = used.mutable_data();
    std::atomic<int64_t> first_bad{kNone};
    {
        py::gil_scoped_release release;
        parallel_rows(rows, data.size(), threads, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin * blocks; b < end * blocks; ++b) {
                const uint8_t* block = src + b * block_bytes;
                uint32_t* out = dst + b / blocks * row_words + b % blocks * block_words;
                uint32_t bad = 0, differs = 0;
                decode(block + (scale_first ? 2 : 0), out, bad);
                for (int64_t w = 0; w < block_words; ++w) differs |= out[w] ^ kOnes;
                std::memcpy(scale + b, block + (scale_first ? 0 : block_bytes - 2), 2);
                any[b] = differs != 0;
                if (bad) return lower(first_bad, b);
                if (b % blocks == blocks - 1)
                    std::fill(out + block_words, dst + (b / blocks + 1) * row_words, kOnes);
            }
        });
    }
    const int64_t bad = first_bad.load();
    return py::make_tuple(words, scales, used, bad == kNone ? int64_t{-1} : bad);
}

// Code 3 stands for weight 0 in I2_S.
inline uint32_t i2s_zero(uint32_t word) { return word ^ (threes(word) << 1); }

void i2_s_aligned_row(const uint8_t* src, uint32_t* dst, int64_t k) {
    for (int64_t g = 0; g < k / kI2sGroup; ++g) {
        planes_to_words<true>(src + 32 * g, dst + 8 * g);
        for (int w = 0; w < 8; ++w) dst[8 * g + w] = i2s_zero(dst[8 * g + w]);
    }
}

// A row whose first weight is inside a group: unpack the groups that it touches, then pack from where it starts.
void i2_s_straddling_row(const uint8_t* data, uint32_t* dst, int64_t first, int64_t k, std::vector<uint8_t>& codes) {
    const int64_t group0 = first / kI2sGroup, groups = (first + k - 1) / kI2sGroup - group0 + 1;
    for (int64_t g = 0; g < groups; ++g)
        for (int plane = 0; plane < 4; ++plane)
            for (int m = 0; m < 32; ++m)
                codes[g * kI2sGroup + plane * 32 + m] = data[(group0 + g) * 32 + m] >> (6 - 2 * plane) & 3;
    const int64_t skip = first % kI2sGroup, words = (k + 15) / 16;
    std::memset(codes.data() + skip + k, 1, 16);
    for (int64_t w = 0; w < words; ++w) dst[w] = i2s_zero(codes_to_word(codes.data() + skip + 16 * w));
}

// I2_S without its scale: words [N, Kp/16]; groups of 128 run over the whole tensor, across the ends of rows.
py::array_t<uint32_t> repack_i2_s(const Bytes& data, int64_t rows, int64_t k, int threads) {
    require(rows > 0 && k > 0 && rows * k % kI2sGroup == 0, "rows * k must be a positive multiple of 128");
    require(data.ndim() == 1 && data.size() == rows * k / 4, "data does not have rows * k weights");
    const int64_t row_words = (k + kBlock - 1) / kBlock * kBlockWords;
    py::array_t<uint32_t> words({rows, row_words});
    const uint8_t* src = data.data();
    uint32_t* dst = words.mutable_data();
    py::gil_scoped_release release;
    parallel_rows(rows, data.size(), threads, [&](int64_t begin, int64_t end) {
        std::vector<uint8_t> codes(k % kI2sGroup ? (k / kI2sGroup + 3) * kI2sGroup : 0);
        for (int64_t row = begin; row < end; ++row) {
            uint32_t* out = dst + row * row_words;
            if (k % kI2sGroup == 0)
                i2_s_aligned_row(src + row * (k / 4), out, k);
            else
                i2_s_straddling_row(src, out, row * k, k, codes);
            std::fill(out + (k + 15) / 16, out + row_words, kOnes);
        }
    });
    return words;
}

}  // namespace

void bind_repack(py::module_& m) {
    const auto data = py::arg("data"), rows = py::arg("rows"), k = py::arg("k");
    const auto threads = py::arg("threads") = 0;
    m.def("repack_tq2_0", &repack_blocks<kBlock, kTq2Bytes, false, tq2_0_block>, data, rows, k, threads,
          "TQ2_0 bytes to (words [N, K/16], f16 bits of d [N, K/256], used [N, K/256], first bad block or -1).");
    m.def("repack_tq1_0", &repack_blocks<kBlock, kTq1Bytes, false, tq1_0_block>, data, rows, k, threads,
          "TQ1_0 bytes to (words [N, K/16], f16 bits of d [N, K/256], used [N, K/256], first bad block or -1).");
    m.def("repack_q2_0", &repack_blocks<64, kQ2Bytes, true, q2_0_block<64>>, data, rows, k, threads,
          "Q2_0 bytes to (words [N, Kp/16], f16 bits of d [N, K/64], used [N, K/64], -1).");
    m.def("repack_q2_0_128", &repack_blocks<128, 2 * kQ2Bytes - 2, true, q2_0_block<128>>, data, rows, k, threads,
          "Q2_0 in blocks of 128, and PQ2_0: (words [N, Kp/16], f16 bits of d [N, K/128], used [N, K/128], -1).");
    m.def("repack_ptq1_0", &repack_blocks<128, kPtq1Bytes, false, ptq1_0_block>, data, rows, k, threads,
          "PTQ1_0 bytes to (words [N, Kp/16], f16 bits of d, used [N, K/128], first bad block or -1).");
    m.def("repack_i2_s", &repack_i2_s, data, rows, k, threads, "I2_S codes, without the scale, to words [N, Kp/16].");
}

}  // namespace kparity
