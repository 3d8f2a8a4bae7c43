// rope_store: queries and keys turned, keys and values into the cache, from one row of all heads.
//
// The heads are split over the threads, as kv_store splits columns: of two rows with one position the later one wins,
// whatever the number of threads. A thread takes the angles of a row for itself, unless it has nothing but values.
#pragma once

#include "../rope/rope.h"

struct RopeStore final : Kernel {
    explicit RopeStore(const Defines& d)
        : rows(d.integer("M")), queries(d.integer("H")), groups(d.integer("G")), width(d.integer("D")),
          capacity(d.integer("L")), f16(d.integer("F16") != 0),
          rotation(width, d.integer("R"), d.integer("NEOX") != 0) {}
    double cost() const override {
        return rows > 1 ? 4.0 * static_cast<double>(rows * (queries + 2 * groups) * width) : 0.0;
    }
    std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(rotation.angles_floats() + width) * sizeof(float) + 256;
    }

    void run(void* const* args, const Slice& slice) const override {
        f16 ? apply<Half>(args, slice) : apply<float>(args, slice);
    }

    std::int64_t rows, queries, groups, width, capacity;
    bool f16;
    Rotation rotation;

    template <class T>
    void apply(void* const* args, const Slice& slice) const {
        const auto* qkv = static_cast<const float*>(args[0]);         // [M, H + 2G, D]
        const auto* pos = static_cast<const std::int32_t*>(args[1]);  // [M]
        const auto* freq = static_cast<const float*>(args[2]);        // [R/2]
        auto* q = static_cast<float*>(args[3]);                       // [M, H, D]
        auto* kcache = static_cast<T*>(args[4]);                      // [L, G, D]
        auto* vcache = static_cast<T*>(args[5]);                      // [L, G, D]
        auto* turned = reinterpret_cast<float*>(slice.scratch);       // [D]: a key, before it is rounded
        float* sine = turned + width;                                 // [R]: cosines follow
        const std::int64_t heads = queries + 2 * groups;
        const Range part = split(heads, 1, slice);
        for (std::int64_t row = 0; row < rows; ++row) {
            const bool stored = pos[row] >= 0 && pos[row] < capacity;
            if (part.begin < queries + groups) rotation.angles(pos[row], freq, sine);
            for (std::int64_t head = part.begin; head < part.end; ++head) {
                const float* x = qkv + (row * heads + head) * width;
                if (head < queries) {
                    rotation.turn(x, sine, q + (row * queries + head) * width);
                } else if (stored && head < queries + groups) {
                    rotation.turn(x, sine, turned);
                    place(turned, kcache + (pos[row] * groups + head - queries) * width);
                } else if (stored) {
                    place(x, vcache + (pos[row] * groups + head - queries - groups) * width);
                }
            }
        }
    }

    template <class T>
    void place(const float* from, T* to) const {
        each(0, width, [&](std::int64_t i, auto tail) { store(to + i, tail, load(from + i, tail)); });
    }
};
