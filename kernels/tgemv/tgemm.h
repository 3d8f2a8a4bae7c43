// tgemm: tgemv for many rows of activations, by tiles of 16 rows of weights and 16 tokens (see tiles.h).
//
// Each thread brings the activations into tiles, then walks its share of the rows, 32 at a time, and K in pieces: the
// codes of a piece are unpacked into the first-level cache and multiplied with every pair of tiles of tokens. Results
// have the bits of tgemv.h: accumulators are exact, and each output goes through the same roundings in the same order.
#pragma once

#include "../../csrc/tiles.h"
#include "product.h"

struct Tgemm final : Product {
    explicit Tgemm(const Defines& d)
        : Product(d),
          held(least(ceil_div(tokens, TILE) * TILE,
                     most(PAIR * TILE, HELD_BYTES / padded / (PAIR * TILE) * PAIR * TILE))) {}

    std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(ROWS * PIECE * CODES + held * (padded + 4 * (ROWS + blocks + scales())));
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
            Operands(args),
            take(ROWS * PIECE * CODES),
            reinterpret_cast<std::int8_t*>(take(held * padded)),
            take(held * ROWS * 4),
            reinterpret_cast<std::int32_t*>(take(held * blocks * 4)),
            reinterpret_cast<float*>(take(held * scales() * 4)),
        };
        const TileUnit unit;
        for (std::int64_t m = 0; m < tokens; m += held) {  // as many tokens as stay in the cache beside the weights
            const std::int64_t count = least(held, tokens - m);
            for (std::int64_t t = 0; t < count; t += TILE) prepare(buffers, m + t, t);
            for (std::int64_t row = part.begin; row < part.end; row += ROWS) {
                if (whole_rows())
                    sum_rows(buffers, row, part.end, m, count);
                else
                    sum_blocks(buffers, row, part.end, m, count);
            }
        }
    }

    static constexpr int ROWS = PAIR * TILE;
    static constexpr std::int64_t HELD_BYTES = 512 << 10;
    // Blocks of K whose codes, and the tokens' share of them, stay in the first-level cache.
    static constexpr std::int64_t PIECE = 2;

    std::int64_t held;  // tokens that are in tiles at a time

    struct Buffers : Operands {
        std::uint8_t* codes;    // [PAIR, PIECE · STEPS, 16, 64]
        std::int8_t* values;    // [held / 16, BLOCKS · STEPS, 16, 16, 4]
        std::uint8_t* results;  // Square [held / 16, PAIR]: Sums over whole rows, or sums of scaled blocks
        std::int32_t* offset;   // [held / 16, BLOCKS, 16]: Σq of each block, or of the whole row in the first
        float* scale;           // [held / 16, 1 or BLOCKS, 16]: of the activations, times the weights' if there is one
    };

    // The tile of tokens from `token` on, `slot` in the scratch.
    void prepare(const Buffers& buffers, std::int64_t token, std::int64_t slot) const {
        const int count = static_cast<int>(least(TILE, tokens - token));
        std::int32_t* offset = buffers.offset + slot * blocks;
        float* scale = buffers.scale + slot * scales();
        for (std::int64_t b = 0; b < blocks; ++b)
            interleave(buffers.q + token * padded + b * CODES, padded, count,
                       buffers.values + slot * padded + b * STEPS * TILE_BYTES, offset + b * TILE);
        for (int t = 0; t < count; ++t) {
            const std::int64_t at = (token + t) * scales();
            for (std::int64_t s = 0; s < scales(); ++s) scale[s * TILE + t] = buffers.ascale[at + s];
            if (!whole_rows()) continue;
            offset[t] = 0;
            for (std::int64_t s = 0; s < scales(); ++s) offset[t] += buffers.qsum[at + s];
            if (!w_per_row) scale[t] *= buffers.wscale[0];
        }
    }

    // The codes of blocks b … of 32 rows of weights from `row` on (the last one again at `end`).
    void decode(const Buffers& buffers, std::int64_t row, std::int64_t end, std::int64_t b) const {
        const std::int64_t row_bytes = padded / 4;
        for (int p = 0; p < PAIR; ++p) {
            const std::uint8_t* from[TILE];
            for (int r = 0; r < TILE; ++r) from[r] = buffers.w + least(row + p * TILE + r, end - 1) * row_bytes;
            for (std::int64_t at = b; at < least(b + PIECE, blocks); ++at)
                unpack(from, at * BLOCK_BYTES, ROWS * row_bytes, buffers.codes + (p * PIECE + at - b) * CODES * TILE);
        }
    }

    // body(tiles, slot) for every pair of tiles of tokens, and one that is left.
    template <class Body>
    static void pairs(std::int64_t count, Body body) {
        std::int64_t t = 0;
        for (; t + TILE < count; t += PAIR * TILE) body(Tile<PAIR>{}, t);
        if (t < count) body(Tile<1>{}, t);
    }

    // 32 rows of weights from `row` on (fewer at `end`) with `count` tokens from `token` on, summed over whole rows.
    void sum_rows(const Buffers& buffers, std::int64_t row, std::int64_t end, std::int64_t token,
                  std::int64_t count) const {
        auto* sums = reinterpret_cast<Sums*>(buffers.results);
        for (std::int64_t b = 0; b < blocks; b += PIECE) {
            decode(buffers, row, end, b);
            pairs(count, [&](auto tiles, std::int64_t slot) {
                multiply(tiles, buffers, 0, b, least(PIECE, blocks - b), slot, b > 0, sums + slot / TILE * PAIR);
            });
        }
        for (std::int64_t t = 0; t < count; t += TILE)
            for (int p = 0; p < PAIR; ++p) finish(buffers, *sums++, row + p * TILE, end, token + t, t);
    }

    // The same with scales per block.
    void sum_blocks(const Buffers& buffers, std::int64_t row, std::int64_t end, std::int64_t token,
                    std::int64_t count) const {
        auto* results = reinterpret_cast<Square<float>*>(buffers.results);
        std::memset(results, 0, sizeof(Square<float>) * static_cast<std::size_t>(ceil_div(count, TILE) * PAIR));
        for (std::int64_t b = 0; b < blocks; b += PIECE) {
            decode(buffers, row, end, b);
            pairs(count, [&](auto tiles, std::int64_t slot) {
                for (std::int64_t at = b; at < least(b + PIECE, blocks); ++at) {
                    Sums sums[PAIR * PAIR];
                    multiply(tiles, buffers, at - b, at, 1, slot, false, sums);
                    for (int i = 0; i < PAIR * tiles.count; ++i)
                        add_block(buffers, sums[i], at, row + i % PAIR * TILE, end, slot + i / PAIR * TILE,
                                  results[slot / TILE * PAIR + i]);
                }
            });
        }
        for (std::int64_t t = 0; t < count; t += TILE)
            for (int p = 0; p < PAIR; ++p)
                put(*results++, static_cast<float*>(buffers.y), row + p * TILE, end, token + t);
    }

    // `count` blocks of decoded codes from `decoded` on, block b of K, with T tiles of tokens.
    template <int T>
    void multiply(Tile<T>, const Buffers& buffers, std::int64_t decoded, std::int64_t b, std::int64_t count,
                  std::int64_t slot, bool more, Sums* sums) const {
        tile_products<T>(buffers.codes + decoded * CODES * TILE, PIECE * CODES * TILE,
                         buffers.values + slot * padded + b * CODES * TILE, TILE * padded, count * STEPS, more, sums);
    }

    // Sums over whole rows to outputs.
    void finish(const Buffers& buffers, Sums& sums, std::int64_t row, std::int64_t end, std::int64_t token,
                std::int64_t slot) const {
        const std::int32_t* offset = buffers.offset + slot * blocks;
        if (integers) {
            for (auto& of_row : sums.at)
                for (int t = 0; t < TILE; ++t) of_row[t] -= offset[t];
            return put(sums, static_cast<std::int32_t*>(buffers.y), row, end, token);
        }
        const F scale = load(buffers.scale + slot * scales(), Full{});
        Square<float> y;
        for (int r = 0; r < TILE; ++r) {
            const F factor = set1(w_per_row ? buffers.wscale[least(row + r, end - 1)] : 1.0f);
            store(y.at[r], Full{}, mul(settled(sums.at[r], offset), mul(scale, factor)));
        }
        put(y, static_cast<float*>(buffers.y), row, end, token);
    }

    // y += the sums of block b, scaled.
    void add_block(const Buffers& buffers, const Sums& sums, std::int64_t b, std::int64_t row, std::int64_t end,
                   std::int64_t slot, Square<float>& y) const {
        const std::int32_t* offset = buffers.offset + slot * blocks + b * TILE;
        const F scale = load(buffers.scale + slot * scales() + (a_per_block ? b * TILE : 0), Full{});
        for (int r = 0; r < TILE; ++r) {
            const std::int64_t at = least(row + r, end - 1);
            const F factor = set1(buffers.wscale[w_per_block ? at * blocks + b : w_per_row ? at : 0]);
            store(y.at[r], Full{}, add(load(y.at[r], Full{}), mul(settled(sums.at[r], offset), mul(scale, factor))));
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
