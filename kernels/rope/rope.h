// rope: rotary position embedding, NEOX or interleaved. Sine and cosine are taken once per row, in fp64 without
// branches so that the compiler vectorises them, and reused for every head. The rows are split over the threads.
#pragma once

// How a head turns: `rotated` of its `width` elements by the angles of a position, the others as they are.
struct Rotation {
    Rotation(std::int64_t width, std::int64_t rotated, bool neox) : width_(width), rotated_(rotated), neox_(neox) {}
    std::int64_t angles_floats() const { return rotated_; }  // sine [R/2], cosine [R/2]

    void angles(std::int32_t pos, const float* freq, float* sine) const {
        float* cosine = sine + rotated_ / 2;
        const auto position = static_cast<float>(pos);
        for (std::int64_t i = 0; i < rotated_ / 2; ++i) {
            const double angle = position * freq[i];  // rounded to f32 by the specification
            // angle = turns·π/2 + r with |r| <= π/4; adding 1.5·2^52 leaves an integer in the low bits.
            const double shifted = angle * 0.63661977236758134308 + 6755399441055744.0;
            const double turns = shifted - 6755399441055744.0;
            const double r = (angle - turns * 1.57079632679489661923) - turns * 6.123233995736766036e-17;
            std::int64_t quadrant;
            std::memcpy(&quadrant, &shifted, sizeof quadrant);
            const double z = r * r;  // Taylor up to r^13 and r^12: the rest is below 2^-40 on this range
            double s = 1.0 / 6227020800, c = 1.0 / 479001600;
            s = s * z - 1.0 / 39916800, c = c * z - 1.0 / 3628800;
            s = s * z + 1.0 / 362880, c = c * z + 1.0 / 40320;
            s = s * z - 1.0 / 5040, c = c * z - 1.0 / 720;
            s = s * z + 1.0 / 120, c = c * z + 1.0 / 24;
            s = s * z - 1.0 / 6, c = c * z - 1.0 / 2;
            s = r + r * z * s, c = 1 + z * c;
            const double first = quadrant & 1 ? c : s, second = quadrant & 1 ? s : c;
            sine[i] = static_cast<float>(quadrant & 2 ? -first : first);
            cosine[i] = static_cast<float>((quadrant + 1) & 2 ? -second : second);
        }
    }

    void turn(const float* x, const float* sine, float* y) const {
        if (neox_)
            turn_halves(x, sine, sine + rotated_ / 2, y);
        else
            turn_pairs(x, sine, sine + rotated_ / 2, y);
        if (rotated_ < width_)
            std::memcpy(y + rotated_, x + rotated_, sizeof(float) * static_cast<std::size_t>(width_ - rotated_));
    }

    std::int64_t width_, rotated_;
    bool neox_;

    void turn_halves(const float* x, const float* sine, const float* cosine, float* y) const {
        const std::int64_t half = rotated_ / 2;
        each(0, half, [&](std::int64_t i, auto tail) {
            const F s = load(sine + i, tail), c = load(cosine + i, tail);
            const F first = load(x + i, tail), second = load(x + half + i, tail);
            store(y + i, tail, sub(mul(first, c), mul(second, s)));
            store(y + half + i, tail, add(mul(second, c), mul(first, s)));
        });
    }

    void turn_pairs(const float* x, const float* sine, const float* cosine, float* y) const {
        for (std::int64_t i = 0; i < rotated_ / 2; ++i) {
            const float first = x[2 * i], second = x[2 * i + 1];
            y[2 * i] = first * cosine[i] - second * sine[i];
            y[2 * i + 1] = second * cosine[i] + first * sine[i];
        }
    }
};

struct Rope final : Kernel {
    explicit Rope(const Defines& d)
        : rows(d.integer("M")), heads(d.integer("H")), width(d.integer("D")),
          rotation(width, d.integer("R"), d.integer("NEOX") != 0) {}
    double cost() const override { return rows > 1 ? 4.0 * static_cast<double>(rows * heads * width) : 0.0; }
    std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(rotation.angles_floats()) * sizeof(float) + 256;
    }

    void run(void* const* args, const Slice& slice) const override {
        const auto* x = static_cast<const float*>(args[0]);           // [M, H, D]
        const auto* pos = static_cast<const std::int32_t*>(args[1]);  // [M]
        const auto* freq = static_cast<const float*>(args[2]);        // [R/2]
        auto* y = static_cast<float*>(args[3]);                       // [M, H, D]
        auto* sine = reinterpret_cast<float*>(slice.scratch);         // [R]: cosines follow
        const Range part = split(rows, 1, slice);
        for (std::int64_t row = part.begin; row < part.end; ++row) {
            rotation.angles(pos[row], freq, sine);
            for (std::int64_t at = row * heads; at < (row + 1) * heads; ++at)
                rotation.turn(x + at * width, sine, y + at * width);
        }
    }

    std::int64_t rows, heads, width;
    Rotation rotation;
};
