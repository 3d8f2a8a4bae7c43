// embed: rows of a table, gathered by id; NaN for an id outside the whole table. The columns are split over the
// threads.
#pragma once

struct Embed final : Kernel {
    explicit Embed(const Defines& d)
        : count(d.integer("M")), width(d.integer("D")), row0(d.integer("ROW0")), rows(d.integer("ROWS")),
          partial(d.integer("ROWS") < d.integer("V")), f16(d.integer("F16") != 0) {}
    double cost() const override { return static_cast<double>(count * width); }

    void run(void* const* args, const Slice& slice) const override {
        f16 ? gather<Half>(args, slice) : gather<float>(args, slice);
    }

    std::int64_t count, width, row0, rows;
    bool partial, f16;

    template <class T>
    void gather(void* const* args, const Slice& slice) const {
        const auto* table = static_cast<const T*>(args[0]);           // [ROWS, D]
        const auto* ids = static_cast<const std::int32_t*>(args[1]);  // [M]
        auto* x = static_cast<float*>(args[2]);                       // [M, D]
        const Range part = split(width, 64, slice);
        for (std::int64_t row = 0; row < count; ++row) {
            const std::int64_t at = ids[row] - row0;
            float* to = x + row * width;
            if (at >= 0 && at < rows) {
                const T* from = table + at * width;
                each(part.begin, part.end,
                     [&](std::int64_t i, auto tail) { store(to + i, tail, load(from + i, tail)); });
            } else if (!partial) {
                each(part.begin, part.end, [&](std::int64_t i, auto tail) { store(to + i, tail, set1(NAN)); });
            }
        }
    }
};
