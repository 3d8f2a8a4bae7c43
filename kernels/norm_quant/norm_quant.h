// norm_quant: a residual sum or a gated activation, rmsnorm and act_quant over one row at a time, without the row in
// between.
//
// It is made of the pieces of those kernels, so its bits are those of the ops one by one. The first pass gives h and
// its mean square; to compute y = h·inverse·weight again costs no more than to keep it (a tenth more in plain C++). The
// rows are split over the threads.
#pragma once

#include "../act_quant/act_quant.h"
#include "../glu/glu.h"
#include "../rmsnorm/rmsnorm.h"

struct NormQuant final : Kernel {
    explicit NormQuant(const Defines& d)
        : rows(d.integer("M")), width(d.integer("D")), padded(d.integer("DP")), spans(d.integer("SPANS")),
          pre(d.integer("PRE")), limit(d.integer("CLAMP") != 0 ? 65504.0f : INFINITY),
          per(scaling(d)), eps(static_cast<float>(d.number("EPS"))) {}
    double cost() const override {
        return rows > 1 ? (pre == SILU ? 12.0 : 7.0) * static_cast<double>(rows * padded) : 0.0;
    }

    void run(void* const* args, const Slice& slice) const override {
        const int inputs = pre == ADD ? 3 : 2;
        const auto* first = static_cast<const float*>(args[0]);            // x or a [M, D], or gu [M, 2D]
        const auto* second = static_cast<const float*>(args[1]);           // b [M, D] for ADD
        const auto* weight = static_cast<const float*>(args[inputs - 1]);  // [D]
        void* const* outputs = args + inputs;
        auto* h = pre == NONE ? nullptr : static_cast<float*>(*outputs++);  // [M, D]
        auto* q = static_cast<std::int8_t*>(outputs[0]);                    // [M, DP]
        auto* scale = static_cast<float*>(outputs[1]);                      // [M, SPANS]
        auto* qsum = static_cast<std::int32_t*>(outputs[2]);                // [M, SPANS]
        const Range part = split(rows, 1, slice);
        for (std::int64_t row = part.begin; row < part.end; ++row) {
            const std::int64_t at = row * width;
            const float* from = pre == NONE ? first + at : h + at;
            float inverse;
            if (pre == NONE) {
                inverse = inverse_rms(width, eps, [from, weight](std::int64_t i, auto tail) {
                    prefetch(weight, 4 * i);
                    return load(from + i, tail);
                });
            } else if (pre == ADD) {
                const float *a = first + at, *b = second + at;
                inverse = made(h + at, weight, [a, b](std::int64_t i, auto tail) {
                    return add(load(a + i, tail), load(b + i, tail));
                });
            } else {
                const float *gate = first + 2 * at, *up = gate + width;
                const F top = set1(limit);
                if (pre == SILU)
                    inverse = made(h + at, weight, [gate, up, top](std::int64_t i, auto tail) {
                        return limited(top, mul(silu(load(gate + i, tail)), load(up + i, tail)));
                    });
                else
                    inverse = made(h + at, weight, [gate, up, top](std::int64_t i, auto tail) {
                        return limited(top, mul(relu2(load(gate + i, tail)), load(up + i, tail)));
                    });
            }
            quantised(from, weight, inverse, q + row * padded, scale + row * spans, qsum + row * spans);
        }
    }

    enum Pre { NONE, ADD, SILU, RELU2 };

    std::int64_t rows, width, padded, spans, pre;
    float limit;
    Scaling per;
    float eps;

    // Stores the row that `make` gives; returns 1 / sqrt(mean(h²) + eps). The weights of the second pass come
    // meanwhile: each layer has its own, which no cache holds.
    template <class Make>
    float made(float* h, const float* weight, Make make) const {
        return inverse_rms(width, eps, [h, weight, make](std::int64_t i, auto tail) {
            prefetch(weight, 4 * i);
            const F value = make(i, tail);
            store(h + i, tail, value);
            return value;
        });
    }

    void quantised(const float* h, const float* weight, float inverse, std::int8_t* q, float* scale,
                   std::int32_t* qsum) const {
        const std::int64_t length = padded / spans;
        const F factor = set1(inverse);
        for (std::int64_t s = 0; s < spans; ++s) {
            const float *from = h + s * length, *gain = weight + s * length;
            quantise_span(most(0, least(length, width - s * length)), length, per, q + s * length, scale + s, qsum + s,
                          [from, gain, factor](std::int64_t i, auto tail) {
                              return mul(mul(load(from + i, tail), factor), load(gain + i, tail));
                          });
        }
    }
};
