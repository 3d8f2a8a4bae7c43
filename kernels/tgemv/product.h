// What tgemv.h and tgemm.h have in common: the constants of a case, its cost, and the buffers of a launch.
#pragma once

struct Product : Kernel {
    explicit Product(const Defines& d)
        : tokens(d.integer("M")), rows(d.integer("N")), padded(d.integer("KP")), blocks(d.integer("BLOCKS")),
          w_per_block(d.integer("W_PER_BLOCK") != 0), w_per_row(d.integer("W_PER_ROW") != 0),
          a_per_block(d.integer("A_PER_BLOCK") != 0), a_per_32(d.integer("A_PER_32") != 0),
          integers(d.integer("OUT_I32") != 0) {}
    double cost() const final {
        return static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(padded) / 4;
    }

    std::int64_t tokens, rows, padded, blocks;
    bool w_per_block, w_per_row, a_per_block, a_per_32, integers;

    // Whether a row is summed as a whole, and scaled once: with scales within it, every span is scaled by itself.
    bool whole_rows() const { return integers || !(w_per_block || a_per_block || a_per_32); }
    // Scales, and Σq, of a row of activations.
    std::int64_t scales() const { return a_per_32 ? padded / 32 : a_per_block ? blocks : 1; }
};

// The buffers that a launch is given.
struct Operands {
    explicit Operands(void* const* args)
        : w(static_cast<const std::uint8_t*>(args[0])), wscale(static_cast<const float*>(args[1])),
          q(static_cast<const std::int8_t*>(args[2])), ascale(static_cast<const float*>(args[3])),
          qsum(static_cast<const std::int32_t*>(args[4])), y(args[5]) {}

    const std::uint8_t* w;     // [N, KP/4] bytes
    const float* wscale;       // [1], [N] or [N, KP/SPAN]
    const std::int8_t* q;      // [M, KP]
    const float* ascale;       // [M, 1, BLOCKS or KP/32]
    const std::int32_t* qsum;  // [M, 1, BLOCKS or KP/32]
    void* y;                   // [M, N], float or std::int32_t
};
