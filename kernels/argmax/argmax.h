// argmax: the index of the largest value, the lowest on a tie, -1 where there is a NaN. The rows are split over the
// threads.
#pragma once

struct Argmax final : Kernel {
    explicit Argmax(const Defines& d) : rows(d.integer("M")), width(d.integer("N")) {}
    double cost() const override { return rows > 1 ? static_cast<double>(rows * width) : 0.0; }

    void run(void* const* args, const Slice& slice) const override {
        const auto* x = static_cast<const float*>(args[0]);  // [M, N]
        auto* index = static_cast<std::int32_t*>(args[1]);   // [M]
        const Range part = split(rows, 1, slice);
        for (std::int64_t row = part.begin; row < part.end; ++row) index[row] = one(x + row * width);
    }

    std::int64_t rows, width;

    std::int32_t one(const float* x) const {
        const std::int64_t whole = width / W * W;
        float top = -INFINITY;
        if (whole > 0) {
            F best = set1(-INFINITY), nans = zero();
            for (std::int64_t i = 0; i < whole; i += W) {
                const F value = load(x + i, Full{});
                best = max(value, best);
                nans = fma(value, zero(), nans);  // an infinity gives a NaN here too; told apart below
            }
            if (any_nan(nans))
                for (std::int64_t i = 0; i < whole; i += W)
                    if (any_nan(load(x + i, Full{}))) return -1;
            top = largest(best);
        }
        for (std::int64_t i = whole; i < width; ++i) {
            if (x[i] != x[i]) return -1;
            if (x[i] > top) top = x[i];
        }
        const F wanted = set1(top);
        for (std::int64_t i = 0; i < whole; i += W) {
            const int lane = first_equal(load(x + i, Full{}), wanted, Full{});
            if (lane >= 0) return static_cast<std::int32_t>(i + lane);
        }
        for (std::int64_t i = whole; i < width; ++i)
            if (x[i] == top) return static_cast<std::int32_t>(i);
        return -1;
    }
};
