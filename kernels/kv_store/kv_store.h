// kv_store: new keys and values into their places in the cache. The columns are split over the threads: of two rows
// with one position, the later one wins, whatever the number of threads.
#pragma once

struct KvStore final : Kernel {
    explicit KvStore(const Defines& d)
        : rows(d.integer("M")), capacity(d.integer("L")), width(d.integer("D")), f16(d.integer("F16") != 0) {}
    double cost() const override { return 2.0 * static_cast<double>(rows * width); }

    void run(void* const* args, const Slice& slice) const override {
        for (int side = 0; side < 2; ++side) {
            if (f16)
                place<Half>(args[side], args[2], args[3 + side], slice);
            else
                place<float>(args[side], args[2], args[3 + side], slice);
        }
    }

    std::int64_t rows, capacity, width;
    bool f16;

    template <class T>
    void place(const void* source, const void* positions, void* target, const Slice& slice) const {
        const auto* from = static_cast<const float*>(source);           // [M, D]
        const auto* pos = static_cast<const std::int32_t*>(positions);  // [M]
        auto* cache = static_cast<T*>(target);                          // [L, D]
        const Range part = split(width, 64, slice);
        for (std::int64_t row = 0; row < rows; ++row) {
            if (pos[row] < 0 || pos[row] >= capacity) continue;
            T* to = cache + pos[row] * width;
            each(part.begin, part.end, [&](std::int64_t i, auto tail) {
                store(to + i, tail, load(from + row * width + i, tail));
            });
        }
    }
};
