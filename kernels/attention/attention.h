// attention: causal grouped-query attention against a cache, in two passes over the scores of up to four heads at a time.
//
// Heads that share a key-value head are taken together (four, two, one), so that a key or value is loaded and converted once for
// them; with fewer heads more keys are in flight. A head's own arithmetic is the same in every grouping: the (query, head) pairs
// can be split over the threads anywhere.
#pragma once

namespace kparity {
namespace KP_ISA {
namespace {

class Attention final : public Kernel {
public:
    explicit Attention(const Defines& d)
        : queries(d.integer("M")), capacity(d.integer("L")), heads(d.integer("H")), groups(d.integer("G")), width(d.integer("D")),
          f16(d.integer("F16") != 0), scale(static_cast<float>(d.number("SCALE"))) {}
    double cost() const override { return static_cast<double>(queries * heads) * static_cast<double>(width) * 64.0; }
    std::size_t scratch_bytes() const override { return static_cast<std::size_t>(4 * stride()) * sizeof(float); }

    void run(void* const* args, const Slice& slice) const override {
        if (f16)
            attend<Half>(args, slice);
        else
            attend<float>(args, slice);
    }

private:
    // Positions to fetch ahead: the keys of one head lie far apart, which no hardware prefetcher follows.
    static constexpr std::int64_t AHEAD = 16;

    std::int64_t queries, capacity, heads, groups, width;
    bool f16;
    float scale;

    std::int64_t stride() const { return ceil_div(capacity, 16) * 16; }  // scores of one head, in whole vectors

    template <class T>
    void attend(void* const* args, const Slice& slice) const {
        const auto* q = static_cast<const float*>(args[0]);           // [M, H, D]
        const auto* kcache = static_cast<const T*>(args[1]);          // [L, G, D]
        const auto* vcache = static_cast<const T*>(args[2]);          // [L, G, D]
        const auto* pos = static_cast<const std::int32_t*>(args[3]);  // [M]
        auto* out = static_cast<float*>(args[4]);                     // [M, H, D]
        auto* lse = static_cast<float*>(args[5]);                     // [M, H]
        auto* scores = reinterpret_cast<float*>(slice.scratch);       // [4, stride]
        const std::int64_t share = heads / groups;
        const Range part = split(queries * heads, 1, slice);
        for (std::int64_t at = part.begin; at < part.end;) {
            const std::int64_t row = at / heads, head = at % heads, group = head / share;
            const std::int64_t together = least((group + 1) * share - head, part.end - at);
            const std::int64_t keys = least(static_cast<std::int64_t>(pos[row]) + 1, capacity);
            const T* k = kcache + group * width;
            const T* v = vcache + group * width;
            if (together >= 4) {
                few<4>(q + at * width, k, v, keys, scores, out + at * width, lse + at), at += 4;
            } else if (together >= 2) {
                few<2>(q + at * width, k, v, keys, scores, out + at * width, lse + at), at += 2;
            } else {
                few<1>(q + at * width, k, v, keys, scores, out + at * width, lse + at), at += 1;
            }
        }
    }

    template <int H, class T>
    void few(const float* q, const T* k, const T* v, std::int64_t keys, float* scores, float* out, float* lse) const {
        if (keys <= 0) {
            std::memset(out, 0, sizeof(float) * static_cast<std::size_t>(H * width));
            for (int h = 0; h < H; ++h) lse[h] = -INFINITY;
            return;
        }
        score<H>(q, k, keys, scores);
        float inverse[H];
        for (int h = 0; h < H; ++h) inverse[h] = soften(scores + h * stride(), keys, lse + h);
        std::int64_t d = 0;
        for (; d + VALUES * W <= width; d += VALUES * W) weigh<H, VALUES>(v + d, keys, scores, inverse, out + d, Full{});
        for (; d + W <= width; d += W) weigh<H, 1>(v + d, keys, scores, inverse, out + d, Full{});
        if (d < width) weigh<H, 1>(v + d, keys, scores, inverse, out + d, Part{static_cast<int>(width - d)});
    }

    // scores[h][j] = q[h]·k[j] · scale, as many products at a time as hide the latency of one: H heads of J keys.
    template <int H, class T>
    void score(const float* q, const T* k, std::int64_t keys, float* scores) const {
        constexpr int J = 4 * VALUES / H;
        const std::int64_t step = groups * width, ahead = AHEAD * step * static_cast<std::int64_t>(sizeof(T));
        for (std::int64_t j = 0; j < keys; j += J) {
            const T* key[J];
            for (int i = 0; i < J; ++i) key[i] = k + least(j + i, keys - 1) * step;
            F acc[H * J];
            for (F& one : acc) one = zero();
            each(0, width, [&](std::int64_t d, auto tail) {
                F values[J];
                for (int i = 0; i < J; ++i) {
                    prefetch(key[i] + d, ahead);
                    values[i] = load(key[i] + d, tail);
                }
                for (int h = 0; h < H; ++h) {
                    const F query = load(q + h * width + d, tail);
                    for (int i = 0; i < J; ++i) acc[h * J + i] = fma(query, values[i], acc[h * J + i]);
                }
            });
            float products[H * J];
            for (int i = 0; i < H * J; i += 4) sum4(acc[i], acc[i + 1], acc[i + 2], acc[i + 3], products + i);
            for (int h = 0; h < H; ++h)
                for (int i = 0; i < J && j + i < keys; ++i) scores[h * stride() + j + i] = products[h * J + i] * scale;
        }
    }

    // scores to exp(score - top) in place; gives one over their sum, and the logarithm of the sum of exponentials.
    static float soften(float* scores, std::int64_t keys, float* lse) {
        const std::int64_t whole = ceil_div(keys, W) * W;
        for (std::int64_t j = keys; j < whole; ++j) scores[j] = -INFINITY;
        F best = set1(-INFINITY);
        for (std::int64_t j = 0; j < whole; j += W) best = max(load(scores + j, Full{}), best);
        const float top = largest(best);
        F total = zero();
        for (std::int64_t j = 0; j < whole; j += W) {
            const F weight = exp_neg(sub(load(scores + j, Full{}), set1(top)));
            store(scores + j, Full{}, weight);
            total = add(total, weight);
        }
        const float all = sum(total);
        *lse = top + logf(all);
        return 1.0f / all;
    }

    // out[h][d…] = Σ_j weight[h][j]·v[j][d…] / Σ_j weight[h][j] for C vectors of d.
    template <int H, int C, class T, class Tail>
    void weigh(const T* v, std::int64_t keys, const float* weights, const float* inverse, float* out, Tail tail) const {
        const std::int64_t step = groups * width, ahead = AHEAD * step * static_cast<std::int64_t>(sizeof(T));
        F acc[H][C];
        for (int h = 0; h < H; ++h)
            for (int c = 0; c < C; ++c) acc[h][c] = zero();
        for (std::int64_t j = 0; j < keys; ++j) {
            F values[C];
            for (int c = 0; c < C; ++c) {
                prefetch(v + j * step + c * W, ahead);
                values[c] = load(v + j * step + c * W, tail);
            }
            for (int h = 0; h < H; ++h) {
                const F weight = set1(weights[h * stride() + j]);
                for (int c = 0; c < C; ++c) acc[h][c] = fma(weight, values[c], acc[h][c]);
            }
        }
        for (int h = 0; h < H; ++h)
            for (int c = 0; c < C; ++c) store(out + h * width + c * W, tail, mul(acc[h][c], set1(inverse[h])));
    }
};

}  // namespace
}  // namespace KP_ISA
}  // namespace kparity
