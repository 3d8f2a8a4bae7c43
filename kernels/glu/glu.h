// glu: silu(gate)·up or relu(gate)²·up, limited to the f16 range on demand. The elements are split over the threads.
#pragma once

namespace kparity {
namespace KP_ISA {
namespace {

class Glu final : public Kernel {
public:
    explicit Glu(const Defines& d)
        : count(d.integer("M") * d.integer("D")), relu2(d.integer("RELU2") != 0), clamp(d.integer("CLAMP") != 0) {}
    double cost() const override { return static_cast<double>(count) * (relu2 ? 2 : 6); }

    void run(void* const* args, const Slice& slice) const override {
        const auto* gate = static_cast<const float*>(args[0]);  // [M, D]
        const auto* up = static_cast<const float*>(args[1]);    // [M, D]
        auto* y = static_cast<float*>(args[2]);                 // [M, D]
        const Range part = split(count, 64, slice);
        if (relu2)
            apply(part, gate, up, y, [](F g) {
                const F kept = max(zero(), g);
                return mul(kept, kept);
            });
        else
            apply(part, gate, up, y, [](F g) {
                const F decay = exp_neg(neg_abs(g));  // never overflows
                return mul(g, div(pick_negative(g, decay, set1(1.0f)), add(set1(1.0f), decay)));
            });
    }

private:
    std::int64_t count;
    bool relu2, clamp;

    template <class Act>
    void apply(Range part, const float* gate, const float* up, float* y, Act act) const {
        const F limit = set1(clamp ? 65504.0f : INFINITY);
        each(part.begin, part.end, [&](std::int64_t i, auto tail) {
            const F value = mul(act(load(gate + i, tail)), load(up + i, tail));
            store(y + i, tail, max(sub(zero(), limit), min(limit, value)));
        });
    }
};

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
