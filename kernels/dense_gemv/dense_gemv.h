// dense_gemv: f16 or f32 weights times f32 activations, accumulated in f32.
//
// Four rows of weights are in flight, each multiplied with TOKENS rows of activations while its values are in
// registers. Every output is one vector accumulator over ascending k, reduced in one order: neither tiling nor threads
// change its bits. The rows of the weights are split over the threads.
#pragma once

struct DenseGemv final : Kernel {
    explicit DenseGemv(const Defines& d)
        : tokens(d.integer("M")), outputs(d.integer("N")), width(d.integer("K")), row0(d.integer("ROW0")),
          rows(d.integer("NROWS")), f16(d.integer("F16") != 0) {}
    double cost() const override {
        return static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(width);
    }

    void run(void* const* args, const Slice& slice) const override {
        f16 ? multiply<Half>(args, slice) : multiply<float>(args, slice);
    }

    std::int64_t tokens, outputs, width, row0, rows;
    bool f16;

    template <class T>
    void multiply(void* const* args, const Slice& slice) const {
        const auto* w = static_cast<const T*>(args[0]);      // [NROWS, K]
        const auto* x = static_cast<const float*>(args[1]);  // [M, K]
        auto* y = static_cast<float*>(args[2]);              // [M, N]
        const Range part = split(rows, 4, slice);
        each_tile(part, tokens == 1, [&](const Rows& of) {
            const T* from[4];
            for (int r = 0; r < 4; ++r) from[r] = w + of.row(r) * width;
            std::int64_t m = 0;
            for (; m + TOKENS <= tokens; m += TOKENS) tile<TOKENS>(from, x + m * width, y + m * outputs + row0, of);
            for (; m < tokens; ++m) tile<1>(from, x + m * width, y + m * outputs + row0, of);
        });
    }

    template <int M, class T>
    void tile(const T* const* w, const float* x, float* y, const Rows& of) const {
        F acc[M][4];
        for (int m = 0; m < M; ++m)
            for (int r = 0; r < 4; ++r) acc[m][r] = zero();
        each(0, width, [&](std::int64_t k, auto tail) {
            F values[M];
            for (int m = 0; m < M; ++m) values[m] = load(x + m * width + k, tail);
            for (int r = 0; r < 4; ++r) {
                if constexpr (M > 1) prefetch(w[r] + k, 2048);  // rows far apart: the processor does that by itself
                const F weight = load(w[r] + k, tail);
                for (int m = 0; m < M; ++m) acc[m][r] = fma(weight, values[m], acc[m][r]);
            }
        });
        for (int m = 0; m < M; ++m) {
            float sums[4];
            sum4(acc[m][0], acc[m][1], acc[m][2], acc[m][3], sums);
            for (int r = 0; r < of.count(); ++r) y[m * outputs + of.row(r)] = sums[r];
        }
    }
};
