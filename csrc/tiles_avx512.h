// The products of tiles.h through vpdpbusd: a lane is a token, four codes of a row go to all lanes.
#pragma once

constexpr std::int64_t TILED_FROM = 13;  // tokens; with fewer, too much of a tile is empty

struct TileUnit {
    TileUnit() {}
};

// R rows of codes at a time, so that R·T accumulators hide the latency of a product.
template <int R, int T>
inline void row_products(const std::uint8_t* codes, const std::int8_t* values, std::int64_t value_stride,
                         std::int64_t steps, bool more, int first, Sums* sums) {
    I acc[R][T];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) acc[r][t] = more ? _mm512_load_si512(sums[t * PAIR].at[first + r]) : I{};
    for (std::int64_t step = 0; step < steps; ++step)
        for (int w = 0; w < TILE; ++w) {
            I q[T];
            for (int t = 0; t < T; ++t)
                q[t] = _mm512_loadu_si512(values + t * value_stride + step * TILE_BYTES + w * STEP);
            for (int r = 0; r < R; ++r) {
                std::int32_t word;
                std::memcpy(&word, codes + step * TILE_BYTES + (first + r) * STEP + 4 * w, sizeof word);
                const I code = _mm512_set1_epi32(word);
                for (int t = 0; t < T; ++t) acc[r][t] = _mm512_dpbusd_epi32(acc[r][t], code, q[t]);
            }
        }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) _mm512_store_si512(sums[t * PAIR].at[first + r], acc[r][t]);
}

template <int T>
inline void tile_products(const std::uint8_t* codes, std::int64_t code_stride, const std::int8_t* values,
                          std::int64_t value_stride, std::int64_t steps, bool more, Sums* sums) {
    constexpr int R = TILE / T;
    for (int r = 0; r < PAIR; ++r)
        for (int first = 0; first < TILE; first += R)
            row_products<R, T>(codes + r * code_stride, values, value_stride, steps, more, first, sums + r);
}
