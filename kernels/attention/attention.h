// attention: causal grouped-query attention against a cache, in two passes over the scores of a query's heads.
//
// One query alone waits for memory: both passes walk the cache once, some positions at a time, and in those over the
// key-value heads, as they lie in memory. For many queries the cache is in a cache, and a head's whole pass comes
// before the next one's. Heads that share a key-value head are taken together (four, two, one), so that a key or value
// is loaded and converted once for them; with fewer heads more keys are in flight. A head's own arithmetic is the same
// in every grouping: the (query, head) pairs can be split over the threads anywhere.
#pragma once

struct Attention final : Kernel {
    explicit Attention(const Defines& d)
        : queries(d.integer("M")), capacity(d.integer("L")), heads(d.integer("H")), groups(d.integer("G")),
          width(d.integer("D")), f16(d.integer("F16") != 0), scale(static_cast<float>(d.number("SCALE"))) {}
    double cost() const override { return static_cast<double>(queries * heads) * static_cast<double>(width) * 64.0; }
    std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(held() * (stride() + 1)) * sizeof(float);
    }

    void run(void* const* args, const Slice& slice) const override {
        f16 ? attend<Half>(args, slice) : attend<float>(args, slice);
    }

    // Positions that a single query takes for one key-value head after the other, and bytes of its scores that are kept
    // at a time.
    static constexpr std::int64_t POSITIONS = 64, HELD_BYTES = 512 << 10;
    // Positions to fetch ahead: the keys of one head lie far apart, which no hardware prefetcher follows.
    static constexpr std::int64_t AHEAD = 16;

    std::int64_t queries, capacity, heads, groups, width;
    bool f16;
    float scale;

    std::int64_t stride() const { return ceil_div(capacity, 16) * 16; }  // scores of one head, in whole vectors
    std::int64_t positions() const { return queries == 1 ? POSITIONS : stride(); }
    std::int64_t held() const {  // heads whose scores are kept
        return least(heads, queries == 1 ? most(4, HELD_BYTES / (4 * stride())) : 4);
    }

    template <class T>
    void attend(void* const* args, const Slice& slice) const {
        const auto* q = static_cast<const float*>(args[0]);           // [M, H, D]
        const auto* kcache = static_cast<const T*>(args[1]);          // [L, G, D]
        const auto* vcache = static_cast<const T*>(args[2]);          // [L, G, D]
        const auto* pos = static_cast<const std::int32_t*>(args[3]);  // [M]
        auto* out = static_cast<float*>(args[4]);                     // [M, H, D]
        auto* lse = static_cast<float*>(args[5]);                     // [M, H]
        auto* scores = reinterpret_cast<float*>(slice.scratch);       // [held, stride]
        const std::int64_t share = heads / groups;
        const Range part = split(queries * heads, 1, slice);
        for (std::int64_t at = part.begin; at < part.end;) {
            const std::int64_t row = at / heads, head = at - row * heads;
            const std::int64_t stop = queries == 1 ? heads : (head / share + 1) * share;
            const Range some{head, least(least(stop, part.end - row * heads), head + held())};
            const std::int64_t keys = least(static_cast<std::int64_t>(pos[row]) + 1, capacity);
            attend_row(q + row * heads * width, kcache, vcache, keys, some, scores, out + row * heads * width,
                       lse + row * heads);
            at += some.end - some.begin;
        }
    }

    // Some heads of one query; q and out are [H, D] and lse is [H].
    template <class T>
    void attend_row(const float* q, const T* kcache, const T* vcache, std::int64_t keys, Range some, float* scores,
                    float* out, float* lse) const {
        if (keys <= 0) {
            std::memset(out + some.begin * width, 0,
                        sizeof(float) * static_cast<std::size_t>((some.end - some.begin) * width));
            for (std::int64_t h = some.begin; h < some.end; ++h) lse[h] = -INFINITY;
            return;
        }
        each_step(keys, some, [&](auto together, Range part, std::int64_t h, std::int64_t group) {
            const T* k = kcache + group * width;
            score<together.count>(q + h * width, k, part, keys, scores + (h - some.begin) * stride());
        });
        float* inverse = scores + held() * stride();
        for (std::int64_t h = some.begin; h < some.end; ++h)
            inverse[h - some.begin] = soften(scores + (h - some.begin) * stride(), keys, lse + h);
        each_step(keys, some, [&](auto together, Range part, std::int64_t h, std::int64_t group) {
            const T* v = vcache + group * width;
            const float* weights = scores + (h - some.begin) * stride();
            sum_values<together.count>(v, part, weights, out + h * width);
        });
        for (std::int64_t h = some.begin; h < some.end; ++h)
            each(0, width, [&](std::int64_t d, auto tail) {
                float* to = out + h * width + d;
                store(to, tail, mul(load(to, tail), set1(inverse[h - some.begin])));
            });
    }

    // body(heads together, positions, the first of the heads, their key-value head) for all heads, some positions at a
    // time.
    template <class Body>
    void each_step(std::int64_t keys, Range some, Body body) const {
        const std::int64_t share = heads / groups;
        for (std::int64_t j = 0; j < keys; j += positions()) {
            const Range part{j, least(j + positions(), keys)};
            for (std::int64_t head = some.begin; head < some.end;) {
                const std::int64_t group = head / share, together = least((group + 1) * share, some.end) - head;
                if (together >= 4)
                    body(Tile<4>{}, part, head, group), head += 4;
                else if (together >= 2)
                    body(Tile<2>{}, part, head, group), head += 2;
                else
                    body(Tile<1>{}, part, head, group), head += 1;
            }
        }
    }

    // out[h] += Σ_j weight[h][j]·v[j] over some positions, from nothing at the first.
    template <int H, class T>
    void sum_values(const T* v, Range part, const float* weights, float* out) const {
        std::int64_t d = 0;
        for (; d + VALUES * W <= width; d += VALUES * W) weigh<H, VALUES>(v + d, part, weights, out + d, Full{});
        for (; d + W <= width; d += W) weigh<H, 1>(v + d, part, weights, out + d, Full{});
        if (d < width) weigh<H, 1>(v + d, part, weights, out + d, Part{static_cast<int>(width - d)});
    }

    // scores[h][j] = q[h]·k[j] · scale, as many products at a time as hide the latency of one: H heads of J keys.
    template <int H, class T>
    void score(const float* q, const T* k, Range part, std::int64_t keys, float* scores) const {
        constexpr int J = 4 * VALUES / H;
        const std::int64_t step = groups * width, ahead = AHEAD * step * static_cast<std::int64_t>(sizeof(T));
        for (std::int64_t j = part.begin; j < part.end; j += J) {
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

    // The same for C vectors of d.
    template <int H, int C, class T, class Tail>
    void weigh(const T* v, Range part, const float* weights, float* out, Tail tail) const {
        const std::int64_t step = groups * width, ahead = AHEAD * step * static_cast<std::int64_t>(sizeof(T));
        F acc[H][C];
        for (int h = 0; h < H; ++h)
            for (int c = 0; c < C; ++c) acc[h][c] = part.begin == 0 ? zero() : load(out + h * width + c * W, tail);
        for (std::int64_t j = part.begin; j < part.end; ++j) {
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
            for (int c = 0; c < C; ++c) store(out + h * width + c * W, tail, acc[h][c]);
    }
};
