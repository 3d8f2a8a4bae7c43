// The products of tiles.h in plain C++.
#pragma once

namespace kparity {
namespace KP_ISA {
namespace {

template <int T>
inline void tile_products(const std::uint8_t* codes, std::int64_t code_stride, const std::int8_t* values,
                          std::int64_t value_stride, std::int64_t steps, Sums (*sums)[T]) {
    for (int r = 0; r < PAIR; ++r)
        for (int t = 0; t < T; ++t) {
            std::memset(&sums[r][t], 0, sizeof(Sums));
            for (std::int64_t step = 0; step < steps; ++step)
                for (int i = 0; i < TILE; ++i)
                    for (int k = 0; k < STEP; ++k) {
                        const std::int32_t code = codes[r * code_stride + step * TILE_BYTES + i * STEP + k];
                        const std::int8_t* value = values + t * value_stride + step * TILE_BYTES + k / 4 * STEP + k % 4;
                        for (int j = 0; j < TILE; ++j) sums[r][t].at[i][j] += code * value[4 * j];
                    }
        }
}

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
