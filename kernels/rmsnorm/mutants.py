"""Wrong kernels of rmsnorm: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant

MUTANTS = {
    "eps-outside-the-root": Mutant(
        "eps is added to the root instead of the mean square: only rows of small values tell.",
        gpu="«→(»SQRT(acc[0] / (float)D«→)» + EPS)",
        wgsl="«inverseSqrt→1.0 / (sqrt»(total / f32(D)«→)» + EPS)",
        native="«sqrtf(mean→(sqrtf(mean)» + eps)",
        torch=("x «* torch.rsqrt→/ »(", 'keepdim=True)«→.sqrt()» + case["eps"])'),
        numpy='«np.sqrt(mean→(np.sqrt(mean)» + np.asarray(case["eps"], dtype))',
    ),
    "eps-missing": Mutant(
        "No eps: a row of zeros becomes NaN.",
        gpu="(float)D« + EPS→»)",
        wgsl="inverseSqrt(total / f32(D)« + EPS→»)",
        native="sqrtf(mean« + eps→»)",
        torch='« + case["eps"]→»',
        numpy='« + np.asarray(case["eps"], dtype)→»',
    ),
    "eps-of-another-model": Mutant(
        "eps is 1e-6 whatever the model says.",
        gpu="(float)D + «EPS→1e-6f»)",
        wgsl="f32(D) + «EPS→1e-6»",
        native="sqrtf(mean + «eps→1e-6f»)",
        torch='«case["eps"]→1e-6»',
        numpy='np.asarray(«case["eps"]→1e-6», dtype)',
    ),
    "mean-over-one-less": Mutant(
        "The sum of squares is divided by D - 1, like an unbiased variance.",
        gpu="(float)«D→(D - 1)»",
        wgsl="total / f32(D«→ - 1u»)",
        native="static_cast<float>(width«→ - 1»)",
        torch='x.square().«mean→sum»(dim=-1, keepdim=True)«→ / (case["D"] - 1)»',
        numpy='np.«mean→sum»(x * x, axis=-1, keepdims=True, dtype=dtype)«→ / np.asarray(case["D"] - 1, dtype)»',
    ),
    "layer-norm": Mutant(
        "The deviation from the row's mean instead of the root mean square.",
        gpu=(
            "«→    float mean = 0.0f;\n"
            "    for (u32 d = 0; d < D; ++d) {\n"
            "        mean += source[d] / (float)D;\n"
            "    }\n"
            "»    const float gain = ",
            "(float)D «→- mean * mean »+ EPS)",
        ),
        wgsl=(
            "«→    var mean = 0.0;\n"
            "    for (var d = 0u; d < D; d++) {\n"
            "        mean += x[row + d] / f32(D);\n"
            "    }\n"
            "»    let scale = ",
            "f32(D) «→- mean * mean »+ EPS",
        ),
        native=(
            "«→        float mean = 0;\n"
            "        for (std::int64_t at = 0; at < width; ++at) mean += x[at] / static_cast<float>(width);\n"
            "»        const F inverse = ",
            "inverse_rms(width, eps«→ - mean * mean», [&]",
        ),
        torch="x.«square().mean→var»(dim=-1, keepdim=True«→, correction=0»)",
        numpy="np.«mean(x * →var(»x, axis=-1, keepdims=True, dtype=dtype)",
    ),
    "gain-plus-one": Mutant(
        "The gain counts from 1, as in the models that store weight - 1.",
        gpu="gain * «weight[d]→(1.0f + weight[d])»",
        wgsl="scale * «weight[d]→(1.0 + weight[d])»",
        native="«→add(set1(1.0f), »load(weight + at, tail)«→)»",
        torch='case["eps"]) * «weight→(1 + weight)»',
        numpy="dtype)) * «weight→(1 + weight)»)",
    ),
    "gain-ignored": Mutant(
        "The row is normalised and not multiplied by the gain.",
        gpu=" * gain« * weight[d]→»",
        wgsl="scale * «weight[d]→select(weight[d], 1.0, d < D)»",
        native="«mul(→»mul(load(x + at, tail), inverse)«, load(weight + at, tail))→»",
        torch='case["eps"])« * weight→»',
        numpy="dtype))« * weight→»)",
    ),
    "sum-of-row-0": Mutant(
        "Every row is divided by the root of the first: a batch of one cannot see it.",
        gpu="FMA(«source[d], source→x[d], x»[d], acc[0])",
        wgsl="x[«row + d] * x[row + →d] * x[»d]",
        native=(
            "one(«→x, »x + row * width, weight",
            "void one(const float* «→top, const float* »x",
            "{ return load(«x→top» + at, tail); }",
        ),
        torch="x«→[:1]».square().mean(",
        numpy="mean = np.mean(x« * x→[:1] * x[:1]»",
    ),
    "tail-not-summed": Mutant(
        "The elements behind the last whole tile do not count in the sum of squares.",
        gpu="d < D«→ / BLOCK * BLOCK»; d += BLOCK) {\n        acc",
        wgsl="d < D«→ / BLOCK * BLOCK»; d += BLOCK) {\n        acc",
        native="each(i, width«→ / 64 * 64», ",
        torch='x«→[:, : case["D"] // 64 * 64]».square().«mean→sum»(dim=-1, keepdim=True)«→ / case["D"]»',
        numpy=(
            '«→        kept = np.where(np.arange(case["D"]) < case["D"] // 64 * 64, x, 0)\n»        mean = ',
            "mean = np.mean(«x * x→kept * kept»",
        ),
    ),
    "lane-dropped": Mutant(
        "The reduction forgets the last lane (a vector accumulator in the native text).",
        gpu="«→    acc[0] = lane == BLOCK - 1 ? 0.0f : acc[0];\n»    sum_row(acc, scratch);",
        wgsl="joined(SUM_F32, 0u, FOLD«→ - 1u»)",
        native="«add(acc[2], acc[3])→acc[2]»",
    ),
}
