// tgemv: packed ternary weights times int8 activations, exact in int32, then scaled.
//
// Unsigned codes w + 1 are multiplied and Σq is subtracted once. Each thread permutes the activations into the order in
// which 64 bytes of weights and four shifts give their codes (see simd.h), then walks its share of the rows, four at a
// time, and decodes a block of weights once for TOKENS rows of activations. Where a block has PARTS > 1 scales, its
// quarters are summed apart; and where it has 8, of activations, the even eighths and the odd ones, one pass for each.
#pragma once

#include "product.h"

template <int PARTS>
struct Tgemv final : Product {
    explicit Tgemv(const Defines& d)
        : Product(d), w_parts(CODES / d.integer("SPAN")),
          held(least(tokens, most(TOKENS, (512 << 10) / padded / TOKENS * TOKENS))) {}
    std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(held * padded * COPIES) + static_cast<std::size_t>(held * (spans() + 1)) * 4;
    }

    void run(void* const* args, const Slice& slice) const override {
        const Buffers buffers(args, slice.scratch, *this);
        const Range part = split(rows, 4, slice);
        if (part.begin == part.end) return;
        if (tokens == 1) fetch(buffers, part);
        for (std::int64_t m = 0; m < tokens; m += held) {  // as many tokens as stay in the cache beside the weights
            const std::int64_t count = least(held, tokens - m);
            for (std::int64_t t = 0; t < count; ++t) prepare(buffers, m + t, t);
            each_tile(part, tokens == 1, [&](const Rows& four) {
                std::int64_t t = 0;
                for (; t + TOKENS <= count; t += TOKENS) tile<TOKENS>(buffers, four, m + t, t);
                for (; t < count; ++t) tile<1>(buffers, four, m + t, t);
            });
        }
    }

    // Weights are fetched this many bytes ahead where the four rows of a tile are apart, and where they lie next to
    // each other, at least that many, in whole tiles.
    static constexpr std::int64_t AHEAD_APART = 2048, AHEAD = 8192, AHEAD_SCALES = 128;
    static constexpr std::int64_t AHEAD_OUTPUTS = 8192;  // outputs that are fetched at the beginning: of 4 bytes each

    static constexpr int SPAN = CODES / PARTS;
    static constexpr int COPIES = PARTS > 4 ? 2 : 1;  // of the activations: every eighth of a block is 0 in one of them
    std::int64_t spans() const { return blocks * PARTS; }  // of a row

    std::int64_t w_parts;  // scales of weights in a block, where there are any
    std::int64_t held;     // rows of activations that are permuted at a time

    struct Buffers : Operands {
        Buffers(void* const* args, std::uint8_t* scratch, const Tgemv& of)
            : Operands(args), permuted(reinterpret_cast<std::int8_t*>(scratch)),
              offset(reinterpret_cast<std::int32_t*>(scratch + of.held * of.padded * COPIES)),
              scale(reinterpret_cast<float*>(scratch + of.held * (of.padded * COPIES + 4 * of.spans()))) {}

        std::int8_t* permuted;  // [COPIES, held, KP]
        std::int32_t* offset;   // [held, KP/SPAN]: Σq of each span, or of the whole row in the first
        float* scale;           // [held]: of the row of activations, times that of the weights if they have one for all
    };

    // The beginnings of the rows of the first tile come while the activations are prepared, and so does what will be
    // written: a store that misses the caches in between would hold up those after it.
    void fetch(const Buffers& buffers, Range part) const {
        const Rows of = first_tile(part, true);
        for (std::int64_t at = 0; at < AHEAD_APART; at += BLOCK_BYTES)
            for (int r = 0; r < 4; ++r) prefetch(buffers.w, of.row(r) * padded / 4 + at);
        const std::int64_t last = least(part.end, part.begin + AHEAD_OUTPUTS);
        for (std::int64_t at = part.begin; at < last; at += CACHE_LINE / 4) prefetch_write(buffers.y, 4 * at);
        keep();
    }

    void prepare(const Buffers& buffers, std::int64_t token, std::int64_t slot) const {
        std::int32_t* offset = buffers.offset + slot * spans();
        for (std::int64_t b = 0; b < blocks; ++b)
            offset[b] = permute(buffers.q + token * padded + b * CODES, buffers.permuted + slot * padded + b * CODES);
        for (std::int64_t at = 0; COPIES > 1 && at < padded; at += CODES)
            permute_eighths(buffers.q + token * padded + at, buffers.permuted + slot * padded + at);
        for (std::int64_t s = 0; PARTS > 1 && s < spans(); ++s) {
            const std::int8_t* q = buffers.q + token * padded + s * SPAN;
            offset[s] = 0;
            for (int i = 0; i < SPAN; ++i) offset[s] += q[i];
        }
        if (!whole_rows()) return;
        const std::int64_t sums = scales();
        offset[0] = 0;
        for (std::int64_t s = 0; s < sums; ++s) offset[0] += buffers.qsum[token * sums + s];
        const float ascale = buffers.ascale[token * sums];
        buffers.scale[slot] = w_per_row ? ascale : ascale * buffers.wscale[0];
    }

    // A block of activations with its odd eighths 0, and in the other copy its even ones.
    void permute_eighths(const std::int8_t* q, std::int8_t* to) const {
        for (int copy = 0; copy < COPIES; ++copy) {
            std::int8_t some[CODES] = {};
            for (int at = copy * SPAN; at < CODES; at += COPIES * SPAN) std::memcpy(some + at, q + at, SPAN);
            permute(some, to + copy * held * padded);
        }
    }

    // A tile of weights with M rows of activations from `token` on, `slot` in the scratch.
    template <int M>
    void tile(const Buffers& buffers, const Rows& of, std::int64_t token, std::int64_t slot) const {
        const std::int64_t row_bytes = padded / 4;
        const std::uint8_t* w[4];
        const float* wscale[4];
        for (int r = 0; r < 4; ++r) {
            const std::int64_t at = of.row(r);
            w[r] = buffers.w + at * row_bytes;
            wscale[r] = buffers.wscale + (w_per_block ? at * blocks * w_parts : w_per_row ? at : 0);
            prefetch(wscale[r], AHEAD_SCALES);
        }
        const std::int8_t* permuted = buffers.permuted + slot * padded;

        const std::int64_t ahead = of.apart > 1 ? AHEAD_APART : ceil_div(AHEAD, padded) * padded;
        if constexpr (PARTS > 1) return span_tile<M>(buffers, of, token, slot, w, wscale, ahead);
        std::int32_t acc[M][4];
        if (whole_rows()) {
            products(Tile<M>{}, w, permuted, padded, blocks, ahead, acc);
            for (int m = 0; m < M; ++m) {
                const std::int32_t offset = buffers.offset[(slot + m) * blocks];
                for (int r = 0; r < 4; ++r) acc[m][r] -= offset;
                if (integers) {
                    put(static_cast<std::int32_t*>(buffers.y) + (token + m) * rows, of, acc[m]);
                } else {
                    const float scale = buffers.scale[slot + m];
                    float y[4];
                    for (int r = 0; r < 4; ++r)
                        y[r] = static_cast<float>(acc[m][r]) * (w_per_row ? scale * *wscale[r] : scale);
                    put(static_cast<float*>(buffers.y) + (token + m) * rows, of, y);
                }
            }
            return;
        }

        float y[M][4] = {};
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::uint8_t* block[4];
            for (int r = 0; r < 4; ++r) block[r] = w[r] + b * BLOCK_BYTES;
            products(Tile<M>{}, block, permuted + b * CODES, padded, 1, ahead, acc);
            for (int m = 0; m < M; ++m) {
                const float ascale = buffers.ascale[a_per_block ? (token + m) * blocks + b : token + m];
                const std::int32_t offset = buffers.offset[(slot + m) * blocks + b];
                for (int r = 0; r < 4; ++r)
                    y[m][r] += static_cast<float>(acc[m][r] - offset) * (ascale * wscale[r][w_per_block ? b : 0]);
            }
        }
        for (int m = 0; m < M; ++m) put(static_cast<float*>(buffers.y) + (token + m) * rows, of, y[m]);
    }

    // The same with several scales to a block.
    template <int M>
    void span_tile(const Buffers& buffers, const Rows& of, std::int64_t token, std::int64_t slot,
                   const std::uint8_t* const* w, const float* const* wscale, std::int64_t ahead) const {
        float y[M][4] = {};
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::uint8_t* block[4];
            for (int r = 0; r < 4; ++r) block[r] = w[r] + b * BLOCK_BYTES;
            std::int32_t acc[COPIES][M][4][4];
            for (int copy = 0; copy < COPIES; ++copy)
                quarters(Tile<M>{}, block, buffers.permuted + (copy * held + slot) * padded + b * CODES, padded, ahead,
                         acc[copy]);
            for (int m = 0; m < M; ++m) {
                for (int i = 0; i < PARTS; ++i) {
                    const std::int64_t s = b * PARTS + i, of_row = (token + m) * scales();
                    const float ascale = buffers.ascale[of_row + (a_per_32 ? s : a_per_block ? b : 0)];
                    const std::int64_t of_weights = w_per_block ? s * w_parts / PARTS : 0;
                    const std::int32_t offset = buffers.offset[(slot + m) * spans() + s];
                    for (int r = 0; r < 4; ++r) {
                        const std::int32_t sum = PARTS == 8   ? acc[i % COPIES][m][i / 2][r]
                                                 : PARTS == 4 ? acc[0][m][i][r]
                                                              : acc[0][m][2 * i][r] + acc[0][m][2 * i + 1][r];
                        y[m][r] += static_cast<float>(sum - offset) * (ascale * wscale[r][of_weights]);
                    }
                }
            }
        }
        for (int m = 0; m < M; ++m) put(static_cast<float*>(buffers.y) + (token + m) * rows, of, y[m]);
    }

    template <class T>
    static void put(T* y, const Rows& to, const T* from) {
        for (int r = 0; r < to.count(); ++r) y[to.row(r)] = from[r];
    }
};
