"""Wrong kernels of rmsnorm: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

MUTANTS = (
    Mutant(
        "eps-outside-the-root",
        "eps is added to the root instead of the mean square: only rows of small values tell.",
        {
            "gpu": (Patch("SQRT(acc[0] / (float)D + EPS)", "(SQRT(acc[0] / (float)D) + EPS)"),),
            "wgsl": (Patch("inverseSqrt(total / f32(D) + EPS)", "1.0 / (sqrt(total / f32(D)) + EPS)"),),
            "native": (Patch("sqrtf(mean + eps)", "(sqrtf(mean) + eps)"),),
            "torch": (
                Patch("x * torch.rsqrt(", "x / ("),
                Patch('keepdim=True) + case["eps"])', 'keepdim=True).sqrt() + case["eps"])'),
            ),
            "numpy": (
                Patch(
                    'np.sqrt(mean + np.asarray(case["eps"], dtype))', '(np.sqrt(mean) + np.asarray(case["eps"], dtype))'
                ),
            ),
        },
    ),
    Mutant(
        "eps-missing",
        "No eps: a row of zeros becomes NaN.",
        {
            "gpu": (Patch("(float)D + EPS)", "(float)D)"),),
            "wgsl": (Patch("inverseSqrt(total / f32(D) + EPS)", "inverseSqrt(total / f32(D))"),),
            "native": (Patch("sqrtf(mean + eps)", "sqrtf(mean)"),),
            "torch": (Patch(' + case["eps"]', ""),),
            "numpy": (Patch(' + np.asarray(case["eps"], dtype)', ""),),
        },
    ),
    Mutant(
        "eps-of-another-model",
        "eps is 1e-6 whatever the model says.",
        {
            "gpu": (Patch("(float)D + EPS)", "(float)D + 1e-6f)"),),
            "wgsl": (Patch("f32(D) + EPS", "f32(D) + 1e-6"),),
            "native": (Patch("sqrtf(mean + eps)", "sqrtf(mean + 1e-6f)"),),
            "torch": (Patch('case["eps"]', "1e-6"),),
            "numpy": (Patch('np.asarray(case["eps"], dtype)', "np.asarray(1e-6, dtype)"),),
        },
    ),
    Mutant(
        "mean-over-one-less",
        "The sum of squares is divided by D - 1, like an unbiased variance.",
        {
            "gpu": (Patch("(float)D", "(float)(D - 1)"),),
            "wgsl": (Patch("total / f32(D)", "total / f32(D - 1u)"),),
            "native": (Patch("static_cast<float>(width)", "static_cast<float>(width - 1)"),),
            "torch": (
                Patch(
                    "x.square().mean(dim=-1, keepdim=True)", 'x.square().sum(dim=-1, keepdim=True) / (case["D"] - 1)'
                ),
            ),
            "numpy": (
                Patch(
                    "np.mean(x * x, axis=-1, keepdims=True, dtype=dtype)",
                    'np.sum(x * x, axis=-1, keepdims=True, dtype=dtype) / np.asarray(case["D"] - 1, dtype)',
                ),
            ),
        },
    ),
    Mutant(
        "layer-norm",
        "The deviation from the row's mean instead of the root mean square.",
        {
            "gpu": (
                Patch(
                    "    const float gain = ",
                    "    float mean = 0.0f;\n    for (u32 d = 0; d < D; ++d) {\n"
                    "        mean += source[d] / (float)D;\n    }\n    const float gain = ",
                ),
                Patch("(float)D + EPS)", "(float)D - mean * mean + EPS)"),
            ),
            "wgsl": (
                Patch(
                    "    let scale = ",
                    "    var mean = 0.0;\n    for (var d = 0u; d < D; d++) {\n"
                    "        mean += x[row + d] / f32(D);\n    }\n    let scale = ",
                ),
                Patch("f32(D) + EPS", "f32(D) - mean * mean + EPS"),
            ),
            "native": (
                Patch(
                    "        const F inverse = ",
                    "        float mean = 0;\n"
                    "        for (std::int64_t at = 0; at < width; ++at) mean += x[at] / static_cast<float>(width);\n"
                    "        const F inverse = ",
                ),
                Patch("inverse_rms(width, eps, [&]", "inverse_rms(width, eps - mean * mean, [&]"),
            ),
            "torch": (Patch("x.square().mean(dim=-1, keepdim=True)", "x.var(dim=-1, keepdim=True, correction=0)"),),
            "numpy": (
                Patch(
                    "np.mean(x * x, axis=-1, keepdims=True, dtype=dtype)",
                    "np.var(x, axis=-1, keepdims=True, dtype=dtype)",
                ),
            ),
        },
    ),
    Mutant(
        "gain-plus-one",
        "The gain counts from 1, as in the models that store weight - 1.",
        {
            "gpu": (Patch("gain * weight[d]", "gain * (1.0f + weight[d])"),),
            "wgsl": (Patch("scale * weight[d]", "scale * (1.0 + weight[d])"),),
            "native": (Patch("load(weight + at, tail)", "add(set1(1.0f), load(weight + at, tail))"),),
            "torch": (Patch('case["eps"]) * weight', 'case["eps"]) * (1 + weight)'),),
            "numpy": (Patch("dtype)) * weight)", "dtype)) * (1 + weight))"),),
        },
    ),
    Mutant(
        "gain-ignored",
        "The row is normalised and not multiplied by the gain.",
        {
            "gpu": (Patch(" * gain * weight[d]", " * gain"),),
            "wgsl": (Patch("scale * weight[d]", "scale * select(weight[d], 1.0, d < D)"),),
            "native": (
                Patch(
                    "mul(mul(load(x + at, tail), inverse), load(weight + at, tail))", "mul(load(x + at, tail), inverse)"
                ),
            ),
            "torch": (Patch('case["eps"]) * weight', 'case["eps"])'),),
            "numpy": (Patch("dtype)) * weight)", "dtype)))"),),
        },
    ),
    Mutant(
        "sum-of-row-0",
        "Every row is divided by the root of the first: a batch of one cannot see it.",
        {
            "gpu": (Patch("FMA(source[d], source[d], acc[0])", "FMA(x[d], x[d], acc[0])"),),
            "wgsl": (Patch("x[row + d] * x[row + d]", "x[d] * x[d]"),),
            "native": (
                Patch("one(x + row * width, weight", "one(x, x + row * width, weight"),
                Patch("void one(const float* x", "void one(const float* top, const float* x"),
                Patch("{ return load(x + at, tail); }", "{ return load(top + at, tail); }"),
            ),
            "torch": (Patch("x.square().mean(", "x[:1].square().mean("),),
            "numpy": (Patch("mean = np.mean(x * x", "mean = np.mean(x[:1] * x[:1]"),),
        },
    ),
    Mutant(
        "tail-not-summed",
        "The elements behind the last whole tile do not count in the sum of squares.",
        {
            "gpu": (Patch("d < D; d += BLOCK) {\n        acc", "d < D / BLOCK * BLOCK; d += BLOCK) {\n        acc"),),
            "wgsl": (Patch("d < D; d += BLOCK) {\n        acc", "d < D / BLOCK * BLOCK; d += BLOCK) {\n        acc"),),
            "native": (Patch("each(i, width, ", "each(i, width / 64 * 64, "),),
            "torch": (
                Patch(
                    "x.square().mean(dim=-1, keepdim=True)",
                    'x[:, : case["D"] // 64 * 64].square().sum(dim=-1, keepdim=True) / case["D"]',
                ),
            ),
            "numpy": (
                Patch(
                    "        mean = ",
                    '        kept = np.where(np.arange(case["D"]) < case["D"] // 64 * 64, x, 0)\n        mean = ',
                ),
                Patch("mean = np.mean(x * x", "mean = np.mean(kept * kept"),
            ),
        },
    ),
    Mutant(
        "lane-dropped",
        "The reduction forgets the last lane (a vector accumulator in the native text).",
        {
            "gpu": (
                Patch(
                    "    sum_row(acc, scratch);",
                    "    acc[0] = lane == BLOCK - 1 ? 0.0f : acc[0];\n    sum_row(acc, scratch);",
                ),
            ),
            "wgsl": (Patch("for (var i = 0u; i < FOLD; i++)", "for (var i = 0u; i < FOLD - 1u; i++)"),),
            "native": (Patch("add(acc[2], acc[3])", "acc[2]"),),
        },
    ),
)
