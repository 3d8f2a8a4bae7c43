// act_quant: f32 activations to int8, one scale per row, per 256 or per 32, and the sum of the int8 of each span.
//
// Divisions and products are single IEEE operations, so that every set gives the same bits. The spans are split over
// the threads; a row of one token is one span, and a single row stays on one thread.
#pragma once

// The first value whose magnitude is the largest, with its sign.
template <class Get>
inline float signed_top(std::int64_t count, float top, Get get) {
    const F positive = set1(top), negative = set1(-top);
    for (std::int64_t i = 0; i < count; i += W) {
        int plus, minus;
        if (i + W <= count) {
            const F value = get(i, Full{});
            plus = first_equal(value, positive, Full{}), minus = first_equal(value, negative, Full{});
        } else {
            const Part tail{static_cast<int>(count - i)};
            const F value = get(i, tail);
            plus = first_equal(value, positive, tail), minus = first_equal(value, negative, tail);
        }
        if (plus >= 0 || minus >= 0) return minus < 0 || (plus >= 0 && plus < minus) ? top : -top;
    }
    return top;  // a NaN equals nothing
}

enum Scaling { PER_ROW, PER_BLOCK, PER_32 };

inline Scaling scaling(const Defines& d) {
    return d.integer("PER_BLOCK") != 0 ? PER_BLOCK : d.integer("PER_32") != 0 ? PER_32 : PER_ROW;
}

// A value rounded to f16, half to even.
inline float through_f16(float value) {
    Half halves[W];
    float lanes[W];
    store(halves, Full{}, set1(value));
    store(lanes, Full{}, load(halves, Full{}));
    return lanes[0];
}

// One span: `count` values, whose vectors are get(i, tail) as often as they are asked for, and zeros up to `length`.
template <class Get>
inline void quantise_span(std::int64_t count, std::int64_t length, Scaling per, std::int8_t* q, float* scale,
                          std::int32_t* qsum, Get get) {
    F acc[2] = {zero(), zero()};  // magnitudes, in which a NaN wins
    std::int64_t i = 0;
    for (; i + 2 * W <= count; i += 2 * W)
        for (int lane = 0; lane < 2; ++lane) acc[lane] = max_magnitude(acc[lane], get(i + lane * W, Full{}));
    each(i, count, [&](std::int64_t at, auto tail) { acc[0] = max_magnitude(acc[0], get(at, tail)); });
    const float top = largest_magnitude(max_magnitude(acc[0], acc[1]));

    float s;
    if (per == PER_32) {
        s = top == 0.0f ? 0.0f : 127.0f / top;
        *scale = through_f16(top / 127.0f);
    } else if (per == PER_BLOCK) {
        s = top == 0.0f ? 0.0f : -127.0f / signed_top(count, top, get);
        *scale = top == 0.0f ? 0.0f : 1.0f / s;  // an infinity shows: s is 0 then, too
    } else {
        s = 127.0f / (top < 1e-5f ? 1e-5f : top);
        *scale = 1.0f / s;
    }

    const F factor = set1(s);
    N total = N{};
    each(0, count, [&](std::int64_t at, auto tail) {
        const N value = quantise(mul(get(at, tail), factor), tail);
        store8(q + at, tail, value);
        total = add(total, value);
    });
    if (count < length) std::memset(q + count, 0, static_cast<std::size_t>(length - count));
    *qsum = sum(total);
}

struct ActQuant final : Kernel {
    explicit ActQuant(const Defines& d)
        : rows(d.integer("M")), width(d.integer("K")), padded(d.integer("KP")), spans(d.integer("SPANS")),
          per(scaling(d)) {}
    double cost() const override { return rows > 1 ? 3.0 * static_cast<double>(rows * padded) : 0.0; }

    void run(void* const* args, const Slice& slice) const override {
        const auto* x = static_cast<const float*>(args[0]);  // [M, K]
        auto* q = static_cast<std::int8_t*>(args[1]);        // [M, KP]
        auto* scale = static_cast<float*>(args[2]);          // [M, SPANS]
        auto* qsum = static_cast<std::int32_t*>(args[3]);    // [M, SPANS]
        const std::int64_t length = padded / spans;
        const Range part = split(rows * spans, 1, slice);
        for (std::int64_t at = part.begin; at < part.end; ++at) {
            const std::int64_t row = at / spans, first = at % spans * length;
            const float* from = x + row * width + first;
            quantise_span(most(0, least(length, width - first)), length, per, q + row * padded + first,
                          scale + at, qsum + at, [from](std::int64_t i, auto tail) { return load(from + i, tail); });
        }
    }

    std::int64_t rows, width, padded, spans;
    Scaling per;
};
