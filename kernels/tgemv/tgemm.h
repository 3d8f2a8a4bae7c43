// tgemm: tgemv for many rows of activations, by tiles of 16 rows of weights and 16 tokens (see tiles.h).
//
// Each thread brings the activations into tiles, then walks its share of the rows, 32 at a time: their codes are unpacked once and
// multiplied with every pair of tiles of tokens. Results have the bits of tgemv's own path: accumulators are exact, and each output
// goes through the same roundings in the same order.
#pragma once

#include "../../csrc/tiles.h"

namespace kparity {
namespace KP_ISA {
namespace {

class Tgemm final : public Kernel {
public:
    static constexpr std::int64_t FEWEST = 8;  // rows of activations; with fewer, most of a tile would be empty

    explicit Tgemm(const Defines& d)
        : tokens(d.integer("M")), rows(d.integer("N")), padded(d.integer("KP")), blocks(d.integer("BLOCKS")),
          w_per_block(d.integer("W_PER_BLOCK") != 0), w_per_row(d.integer("W_PER_ROW") != 0),
          a_per_block(d.integer("A_PER_BLOCK") != 0), integers(d.integer("OUT_I32") != 0),
          held(least(ceil_div(tokens, TILE) * TILE, most(PAIR * TILE, HELD_BYTES / padded / (PAIR * TILE) * PAIR * TILE))) {}

    double cost() const override {
        return static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(padded) / 4;
    }
    std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>((ROWS + held) * padded + held * 4 * (blocks + scales()));
    }

    void run(void* const* args, const Slice& slice) const override {
        const Range part = split(rows, ROWS, slice);
        if (part.begin == part.end) return;
        std::uint8_t* scratch = slice.scratch;
        const auto take = [&scratch](std::int64_t bytes) {
            std::uint8_t* at = scratch;
            scratch += bytes;
            return at;
        };
        const Buffers buffers{
            static_cast<const std::uint8_t*>(args[0]),  // [N, KP/4] bytes
            static_cast<const float*>(args[1]),         // [1], [N] or [N, BLOCKS]
            static_cast<const std::int8_t*>(args[2]),   // [M, KP]
            static_cast<const float*>(args[3]),         // [M, 1 or BLOCKS]
            static_cast<const std::int32_t*>(args[4]),  // [M, 1 or BLOCKS]
            args[5],                                    // [M, N]
            take(ROWS * padded),
            reinterpret_cast<std::int8_t*>(take(held * padded)),
            reinterpret_cast<std::int32_t*>(take(held * blocks * 4)),
            reinterpret_cast<float*>(take(held * scales() * 4)),
        };
        const TileUnit unit;
        for (std::int64_t m = 0; m < tokens; m += held) {  // as many tokens as stay in the cache beside the weights
            const std::int64_t count = least(held, tokens - m);
            for (std::int64_t t = 0; t < count; t += TILE) prepare(buffers, m + t, t);
            for (std::int64_t row = part.begin; row < part.end; row += ROWS) {
                decode_rows(buffers, row, part.end);
                std::int64_t t = 0;
                for (; t + TILE < count; t += PAIR * TILE) multiply<PAIR>(buffers, row, part.end, m + t, t);
                if (t < count) multiply<1>(buffers, row, part.end, m + t, t);
            }
        }
    }

private:
    static constexpr int ROWS = PAIR * TILE;
    static constexpr std::int64_t HELD_BYTES = 512 << 10;

    std::int64_t tokens, rows, padded, blocks;
    bool w_per_block, w_per_row, a_per_block, integers;
    std::int64_t held;  // tokens that are in tiles at a time

    struct Buffers {
        const std::uint8_t* w;
        const float* wscale;
        const std::int8_t* q;
        const float* ascale;
        const std::int32_t* qsum;
        void* y;
        std::uint8_t* codes;   // [PAIR, BLOCKS · STEPS, 16, 64]
        std::int8_t* values;   // [held / 16, BLOCKS · STEPS, 16, 16, 4]
        std::int32_t* offset;  // [held / 16, BLOCKS, 16]: Σq of each block, or of the whole row in the first
        float* scale;          // [held / 16, 1 or BLOCKS, 16]: of the activations, times that of the weights if they have one for all
    };

    bool whole_rows() const { return integers || !(w_per_block || a_per_block); }
    std::int64_t scales() const { return a_per_block ? blocks : 1; }

    // The tile of tokens from `token` on, `slot` in the scratch.
    void prepare(const Buffers& buffers, std::int64_t token, std::int64_t slot) const {
        const int count = static_cast<int>(least(TILE, tokens - token));
        std::int32_t* offset = buffers.offset + slot * blocks;
        float* scale = buffers.scale + slot * scales();
        for (std::int64_t b = 0; b < blocks; ++b)
            interleave(buffers.q + token * padded + b * CODES, padded, count, buffers.values + slot * padded + b * STEPS * TILE_BYTES,
                       offset + b * TILE);
        for (int t = 0; t < count; ++t) {
            const std::int64_t at = (token + t) * scales();
            for (std::int64_t s = 0; s < scales(); ++s) scale[s * TILE + t] = buffers.ascale[at + s];
            if (!whole_rows()) continue;
            offset[t] = 0;
            for (std::int64_t s = 0; s < scales(); ++s) offset[t] += buffers.qsum[at + s];
            if (!w_per_row) scale[t] *= buffers.wscale[0];
        }
    }

    void decode_rows(const Buffers& buffers, std::int64_t row, std::int64_t end) const {
        const std::int64_t row_bytes = padded / 4;
        for (int p = 0; p < PAIR; ++p) {
            const std::uint8_t* from[TILE];
            for (int r = 0; r < TILE; ++r) from[r] = buffers.w + least(row + p * TILE + r, end - 1) * row_bytes;
            unpack(from, blocks, ROWS * row_bytes, buffers.codes + p * TILE * padded);
        }
    }

    // 32 rows of weights from `row` on (fewer at `end`) with T tiles of tokens.
    template <int T>
    void multiply(const Buffers& buffers, std::int64_t row, std::int64_t end, std::int64_t token, std::int64_t slot) const {
        const std::int64_t stride = TILE * padded;
        const std::int8_t* values = buffers.values + slot * padded;
        Sums sums[PAIR][T];
        if (whole_rows()) {
            tile_products<T>(buffers.codes, stride, values, stride, blocks * STEPS, sums);
            for (int p = 0; p < PAIR; ++p)
                for (int t = 0; t < T; ++t) finish(buffers, sums[p][t], row + p * TILE, end, token + t * TILE, slot + t * TILE);
            return;
        }
        Square<float> y[PAIR][T] = {};
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::int64_t at = b * STEPS * TILE_BYTES;
            tile_products<T>(buffers.codes + at, stride, values + at, stride, STEPS, sums);
            for (int p = 0; p < PAIR; ++p)
                for (int t = 0; t < T; ++t) add_block(buffers, sums[p][t], b, row + p * TILE, end, slot + t * TILE, y[p][t]);
        }
        for (int p = 0; p < PAIR; ++p)
            for (int t = 0; t < T; ++t)
                put(y[p][t], static_cast<float*>(buffers.y), row + p * TILE, end, token + t * TILE);
    }

    // Sums over whole rows to outputs.
    void finish(const Buffers& buffers, Sums& sums, std::int64_t row, std::int64_t end, std::int64_t token, std::int64_t slot) const {
        const std::int32_t* offset = buffers.offset + slot * blocks;
        for (auto& of_row : sums.at)
            for (int t = 0; t < TILE; ++t) of_row[t] -= offset[t];
        if (integers) return put(sums, static_cast<std::int32_t*>(buffers.y), row, end, token);
        const float* scale = buffers.scale + slot * scales();
        Square<float> y;
        for (int r = 0; r < TILE; ++r) {
            const float factor = w_per_row ? buffers.wscale[least(row + r, end - 1)] : 1.0f;
            for (int t = 0; t < TILE; ++t) y.at[r][t] = static_cast<float>(sums.at[r][t]) * (scale[t] * factor);
        }
        put(y, static_cast<float*>(buffers.y), row, end, token);
    }

    // y += the sums of block b, scaled.
    void add_block(const Buffers& buffers, const Sums& sums, std::int64_t b, std::int64_t row, std::int64_t end, std::int64_t slot,
                   Square<float>& y) const {
        const std::int32_t* offset = buffers.offset + slot * blocks + b * TILE;
        const float* scale = buffers.scale + slot * scales() + (a_per_block ? b * TILE : 0);
        for (int r = 0; r < TILE; ++r) {
            const std::int64_t at = least(row + r, end - 1);
            const float factor = buffers.wscale[w_per_block ? at * blocks + b : w_per_row ? at : 0];
            for (int t = 0; t < TILE; ++t) y.at[r][t] += static_cast<float>(sums.at[r][t] - offset[t]) * (scale[t] * factor);
        }
    }

    // A square of outputs, rows of weights by tokens, to y [M, N].
    template <class T>
    void put(const Square<T>& from, T* y, std::int64_t row, std::int64_t end, std::int64_t token) const {
        const std::int64_t width = least(TILE, end - row), count = least(TILE, tokens - token);
        T* to = y + token * rows + row;
        if (width == TILE && count == TILE) return transpose(from.at, to, rows);
        for (std::int64_t t = 0; t < count; ++t)
            for (std::int64_t r = 0; r < width; ++r) to[t * rows + r] = from.at[r][t];
    }
};

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
