// glu: silu(gate)·up or relu(gate)²·up, limited to the f16 range on demand. The elements are split over the threads.
#pragma once

inline F relu2(F gate) {
    const F kept = max(zero(), gate);
    return mul(kept, kept);
}

inline F silu(F gate) {
    const F decay = exp_neg(neg_abs(gate));  // never overflows
    return mul(gate, div(pick_negative(gate, decay, set1(1.0f)), add(set1(1.0f), decay)));
}

// A value limited to ±limit; infinity limits nothing. A NaN stays one.
inline F limited(F limit, F value) { return max(sub(zero(), limit), min(limit, value)); }

struct Glu final : Kernel {
    explicit Glu(const Defines& d)
        : count(d.integer("M") * d.integer("D")), square(d.integer("RELU2") != 0), clamp(d.integer("CLAMP") != 0) {}
    double cost() const override { return static_cast<double>(count) * (square ? 2 : 6); }

    void run(void* const* args, const Slice& slice) const override {
        const auto* gate = static_cast<const float*>(args[0]);  // [M, D]
        const auto* up = static_cast<const float*>(args[1]);    // [M, D]
        auto* y = static_cast<float*>(args[2]);                 // [M, D]
        const Range part = split(count, 64, slice);
        if (square)
            apply(part, gate, up, y, [](F g) { return relu2(g); });
        else
            apply(part, gate, up, y, [](F g) { return silu(g); });
    }

    std::int64_t count;
    bool square, clamp;

    template <class Act>
    void apply(Range part, const float* gate, const float* up, float* y, Act act) const {
        const F limit = set1(clamp ? 65504.0f : INFINITY);
        each(part.begin, part.end, [&](std::int64_t i, auto tail) {
            store(y + i, tail, limited(limit, mul(act(load(gate + i, tail)), load(up + i, tail))));
        });
    }
};
