// add: y = a + b. The elements are split over the threads.
#pragma once

struct Add final : Kernel {
    explicit Add(const Defines& d) : count(d.integer("M") * d.integer("D")) {}
    double cost() const override { return static_cast<double>(count); }

    void run(void* const* args, const Slice& slice) const override {
        const auto* a = static_cast<const float*>(args[0]);  // [M, D]
        const auto* b = static_cast<const float*>(args[1]);  // [M, D]
        auto* y = static_cast<float*>(args[2]);              // [M, D]
        const Range part = split(count, 64, slice);
        each(part.begin, part.end, [&](std::int64_t i, auto tail) {
            store(y + i, tail, add(load(a + i, tail), load(b + i, tail)));
        });
    }

    std::int64_t count;
};
