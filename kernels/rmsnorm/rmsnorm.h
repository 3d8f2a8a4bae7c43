// rmsnorm: y = x / sqrt(mean(x²) + eps) · weight. The rows are split over the threads.
#pragma once

// 1 / sqrt(mean(x²) + eps) of a row whose vectors are get(i, tail), each asked for once.
template <class Get>
inline float inverse_rms(std::int64_t width, float eps, Get get) {
    F acc[4] = {zero(), zero(), zero(), zero()};
    std::int64_t i = 0;
    for (; i + 4 * W <= width; i += 4 * W)
        for (int lane = 0; lane < 4; ++lane) {
            const F value = get(i + lane * W, Full{});
            acc[lane] = fma(value, value, acc[lane]);
        }
    each(i, width, [&](std::int64_t at, auto tail) {
        const F value = get(at, tail);
        acc[0] = fma(value, value, acc[0]);
    });
    const float mean = sum(add(add(acc[0], acc[1]), add(acc[2], acc[3]))) / static_cast<float>(width);
    return 1.0f / sqrtf(mean + eps);
}

struct RmsNorm final : Kernel {
    explicit RmsNorm(const Defines& d)
        : rows(d.integer("M")), width(d.integer("D")), eps(static_cast<float>(d.number("EPS"))) {}
    double cost() const override { return rows > 1 ? 2.0 * static_cast<double>(rows * width) : 0.0; }

    void run(void* const* args, const Slice& slice) const override {
        const auto* x = static_cast<const float*>(args[0]);       // [M, D]
        const auto* weight = static_cast<const float*>(args[1]);  // [D]
        auto* y = static_cast<float*>(args[2]);                   // [M, D]
        const Range part = split(rows, 1, slice);
        for (std::int64_t row = part.begin; row < part.end; ++row) one(x + row * width, weight, y + row * width);
    }

    std::int64_t rows, width;
    float eps;

    void one(const float* x, const float* weight, float* y) const {
        const F inverse = set1(inverse_rms(width, eps, [&](std::int64_t at, auto tail) { return load(x + at, tail); }));
        each(0, width, [&](std::int64_t at, auto tail) {
            store(y + at, tail, mul(mul(load(x + at, tail), inverse), load(weight + at, tail)));
        });
    }
};
