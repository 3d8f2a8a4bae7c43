// The products of tiles.h through vpmaddubsw: a lane is a token, four codes of a row go to all lanes.
#pragma once

namespace kparity {
namespace KP_ISA {
namespace {

// Four rows of codes and 16 tokens. A lane of vpmaddubsw is at most 2·3·128 = 768 in magnitude, 32 of them 24576: int16 holds two
// steps.
inline void row_products(const std::uint8_t* codes, const std::int8_t* values, std::int64_t steps, Sums& sums, int first) {
    constexpr int R = 4, H = TILE / W, AT_ONCE = 2;
    for (int r = 0; r < R; ++r) std::memset(sums.at[first + r], 0, sizeof sums.at[0]);
    for (std::int64_t step = 0; step < steps; step += AT_ONCE) {
        const std::uint8_t* code = codes + step * TILE_BYTES + first * STEP;
        const std::int8_t* value = values + step * TILE_BYTES;
        I pairs[R][H];
        for (int r = 0; r < R; ++r)
            for (int h = 0; h < H; ++h) pairs[r][h] = izero();
        for (int s = 0; s < AT_ONCE; ++s, code += TILE_BYTES - STEP)
            for (int w = 0; w < TILE; ++w, code += 4, value += STEP) {
                I q[H];
                for (int h = 0; h < H; ++h) q[h] = _mm256_load_si256(reinterpret_cast<const __m256i*>(value + 4 * W * h));
                for (int r = 0; r < R; ++r) {
                    std::int32_t word;
                    std::memcpy(&word, code + r * STEP, sizeof word);
                    const I four = _mm256_set1_epi32(word);
                    for (int h = 0; h < H; ++h) pairs[r][h] = _mm256_add_epi16(pairs[r][h], _mm256_maddubs_epi16(four, q[h]));
                }
            }
        for (int r = 0; r < R; ++r)
            for (int h = 0; h < H; ++h) {
                auto* sum = reinterpret_cast<__m256i*>(sums.at[first + r] + W * h);
                const I wide = _mm256_madd_epi16(pairs[r][h], _mm256_set1_epi16(1));
                _mm256_store_si256(sum, _mm256_add_epi32(_mm256_load_si256(sum), wide));
            }
    }
}

template <int T>
inline void tile_products(const std::uint8_t* codes, std::int64_t code_stride, const std::int8_t* values,
                          std::int64_t value_stride, std::int64_t steps, Sums (*sums)[T]) {
    static_assert(STEPS % 2 == 0, "two steps at a time");
    for (int r = 0; r < PAIR; ++r)
        for (int t = 0; t < T; ++t)
            for (int first = 0; first < TILE; first += 4)
                row_products(codes + r * code_stride, values + t * value_stride, steps, sums[r][t], first);
}

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
