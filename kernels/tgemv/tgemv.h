// tgemv: packed ternary weights times int8 activations, exact in int32, then scaled.
//
// Unsigned codes w + 1 are multiplied and Σq is subtracted once. Each thread permutes the activations into the order in which 64
// bytes of weights and four shifts give their codes (see simd.h), then walks its share of the rows, four at a time, and decodes
// a block of weights once for TOKENS rows of activations.
#pragma once

namespace kparity {
namespace KP_ISA {
namespace {

class Tgemv final : public Kernel {
public:
    explicit Tgemv(const Defines& d)
        : tokens(d.integer("M")), rows(d.integer("N")), padded(d.integer("KP")), blocks(d.integer("BLOCKS")),
          w_per_block(d.integer("W_PER_BLOCK") != 0), a_per_block(d.integer("A_PER_BLOCK") != 0),
          integers(d.integer("OUT_I32") != 0), held(least(tokens, most(TOKENS, (512 << 10) / padded / TOKENS * TOKENS))) {}
    double cost() const override {
        return static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(padded) / 4;
    }
    std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(held * padded) + static_cast<std::size_t>(held * blocks) * sizeof(std::int32_t);
    }

    void run(void* const* args, const Slice& slice) const override {
        const Buffers buffers{
            static_cast<const std::uint8_t*>(args[0]),  // [N, KP/4] bytes
            static_cast<const float*>(args[1]),         // [1] or [N, BLOCKS]
            static_cast<const std::int8_t*>(args[2]),   // [M, KP]
            static_cast<const float*>(args[3]),         // [M, 1 or BLOCKS]
            static_cast<const std::int32_t*>(args[4]),  // [M, 1 or BLOCKS]
            args[5],                                    // [M, N]
            reinterpret_cast<std::int8_t*>(slice.scratch),
            reinterpret_cast<std::int32_t*>(slice.scratch + held * padded),
        };
        const Range part = split(rows, 4, slice);
        if (part.begin == part.end) return;
        for (std::int64_t m = 0; m < tokens; m += held) {  // as many tokens as stay in the cache beside the weights
            const std::int64_t count = least(held, tokens - m);
            for (std::int64_t t = 0; t < count; ++t)
                for (std::int64_t b = 0; b < blocks; ++b)
                    buffers.sums[t * blocks + b] =
                        permute(buffers.q + (m + t) * padded + b * CODES, buffers.permuted + t * padded + b * CODES);
            for (std::int64_t row = part.begin; row < part.end; row += 4) {
                std::int64_t t = 0;
                for (; t + TOKENS <= count; t += TOKENS) tile<TOKENS>(buffers, row, part.end, m + t, t);
                for (; t < count; ++t) tile<1>(buffers, row, part.end, m + t, t);
            }
        }
    }

private:
    std::int64_t tokens, rows, padded, blocks;
    bool w_per_block, a_per_block, integers;
    std::int64_t held;  // rows of activations that are permuted at a time

    struct Buffers {
        const std::uint8_t* w;
        const float* wscale;
        const std::int8_t* q;
        const float* ascale;
        const std::int32_t* qsum;
        void* y;
        std::int8_t* permuted;  // [held, KP]
        std::int32_t* sums;     // [held, BLOCKS]
    };

    // Four rows of weights from `row` on (fewer at `end`) with M rows of activations from `token` on, `slot` in the scratch.
    template <int M>
    void tile(const Buffers& buffers, std::int64_t row, std::int64_t end, std::int64_t token, std::int64_t slot) const {
        const int count = static_cast<int>(least(4, end - row));
        const std::int64_t row_bytes = padded / 4;
        const std::uint8_t* w[4];
        for (int r = 0; r < 4; ++r) w[r] = buffers.w + (row + (r < count ? r : count - 1)) * row_bytes;
        const std::int8_t* permuted = buffers.permuted + slot * padded;

        std::int32_t acc[M][4];
        if (integers || !(w_per_block || a_per_block)) {
            products<M>(w, permuted, 0, blocks, acc);
            for (int m = 0; m < M; ++m) {
                std::int32_t offset = 0;  // Σq of the whole row
                const std::int64_t spans = a_per_block ? blocks : 1;
                for (std::int64_t s = 0; s < spans; ++s) offset += buffers.qsum[(token + m) * spans + s];
                const std::int64_t at = (token + m) * rows + row;
                if (integers) {
                    for (int r = 0; r < count; ++r) static_cast<std::int32_t*>(buffers.y)[at + r] = acc[m][r] - offset;
                } else {
                    const float scale = buffers.ascale[token + m] * buffers.wscale[0];
                    for (int r = 0; r < count; ++r)
                        static_cast<float*>(buffers.y)[at + r] = static_cast<float>(acc[m][r] - offset) * scale;
                }
            }
            return;
        }

        float total[M][4] = {};
        for (std::int64_t b = 0; b < blocks; ++b) {
            products<M>(w, permuted, b, b + 1, acc);
            float wscale[4];
            for (int r = 0; r < 4; ++r)
                wscale[r] = buffers.wscale[w_per_block ? (row + (r < count ? r : count - 1)) * blocks + b : 0];
            for (int m = 0; m < M; ++m) {
                const float ascale = buffers.ascale[a_per_block ? (token + m) * blocks + b : token + m];
                const std::int32_t offset = buffers.sums[(slot + m) * blocks + b];
                for (int r = 0; r < 4; ++r) total[m][r] += static_cast<float>(acc[m][r] - offset) * (ascale * wscale[r]);
            }
        }
        for (int m = 0; m < M; ++m)
            for (int r = 0; r < count; ++r) static_cast<float*>(buffers.y)[(token + m) * rows + row + r] = total[m][r];
    }

    // acc[m][r] = Σ (w + 1)·q over the blocks [first, last).
    template <int M>
    void products(const std::uint8_t* const* w, const std::int8_t* permuted, std::int64_t first, std::int64_t last, std::int32_t (*acc)[4]) const {
        I lanes[M][4];
        for (int m = 0; m < M; ++m)
            for (int r = 0; r < 4; ++r) lanes[m][r] = izero();
        for (std::int64_t b = first; b < last; ++b)
            for (int r = 0; r < 4; ++r) {
                prefetch(w[r], b * BLOCK_BYTES + padded * 2);
                const Codes codes = decode(w[r] + b * BLOCK_BYTES);
                for (int m = 0; m < M; ++m) lanes[m][r] = dot(codes, permuted + m * padded + b * CODES, lanes[m][r]);
            }
        for (int m = 0; m < M; ++m) sum4(lanes[m][0], lanes[m][1], lanes[m][2], lanes[m][3], acc[m]);
    }
};

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
