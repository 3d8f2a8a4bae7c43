"""Wrong kernels of norm_quant: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant, Patch

NORM, QUANT = "rmsnorm/rmsnorm.h", "act_quant/act_quant.h"

MUTANTS = {
    "residual-not-written": Mutant(
        "h is not stored: the residual stream goes on with what the buffer held.",
        gpu="«        store_quad(h + (u64)row * D, lane + i * BLOCK, value[i]);\n→»",
        wgsl="h[row * D + d] = «value→h[row * D + d]»;",
        native="«            store(h + i, tail, value);\n→»",
        torch="else [«h→torch.zeros_like(h)», *found]",
        numpy="else [«h→np.zeros_like(h)», *outputs]",
    ),
    "second-input-forgotten": Mutant(
        "h is the first input alone: the block's own output is lost.",
        gpu="value[i][j] = value[i][j]« + right[i][j]→»;",
        wgsl="«a[row * D + d] + b[row * D + d]→select(b[row * D + d], a[row * D + d], d < D)»",
        native="«add(load(a + i, tail), load(b + i, tail))→load(b == nullptr ? b + i : a + i, tail)»",
        torch="«torch.add(*given)→given[0].clone()»",
        numpy="inputs[0].astype(dtype)« + inputs[1].astype(dtype)→»",
    ),
    "norm-of-the-input": Mutant(
        "The mean square is that of the first input, not of the sum.",
        gpu=(
            "«            →#if PRE == ADD\n"
            "            acc[0] = FMA(value[i][j] - right[i][j], value[i][j] - right[i][j], acc[0]);\n"
            "#else\n"
            "            »acc[0] = FMA(value[i][j], value[i][j], acc[0]);«→\n"
            "#endif»"
        ),
        wgsl=(
            "«            →//#if PRE == 1\n"
            "            square += select(0.0, a[row * D + min(d, D - 1u)] * a[row * D + min(d, D - 1u)], d < D);\n"
            "//#else\n"
            "            »square += value * value;«→\n"
            "//#endif»"
        ),
        native=(
            "load(b + i, tail));\n"
            "                });«→\n"
            "                inverse = inverse_rms(width, eps, [a](std::int64_t i, auto tail) { return load(a + i, "
            "tail); });»"
        ),
        torch='«h→(given[0] if case["pre"] == "add" else h)».square().mean(',
        numpy=(
            "        y[:, :d] = self._normed(case, h, inputs[-1], dtype)«→\n"
            '        if case["pre"] == "add":\n'
            "            right, wrong = (np.mean(z * z, axis=-1, keepdims=True) for z in (h, "
            "inputs[0].astype(dtype)))\n"
            '            y[:, :d] *= np.sqrt((right + np.asarray(case["eps"], dtype)) / (wrong + '
            'np.asarray(case["eps"], dtype)))»'
        ),
    ),
    "norm-of-row-0": Mutant(
        "Rows are divided by the root of the first one (in the compiled texts where there is nothing before the norm).",
        gpu=(
            "«            →#if PRE == NONE\n"
            "            const u32 at = 4 * (lane + i * BLOCK) + j;\n"
            "            const float first = at < D ? x[at] : 0.0f;\n"
            "            acc[0] = FMA(first, first, acc[0]);\n"
            "#else\n"
            "            »acc[0] = FMA(value[i][j], value[i][j], acc[0]);«→\n"
            "#endif»"
        ),
        wgsl=(
            "«            →//#if PRE == 0\n"
            "            square += select(0.0, x[min(d, D - 1u)] * x[min(d, D - 1u)], d < D);\n"
            "//#else\n"
            "            »square += value * value;«→\n"
            "//#endif»"
        ),
        native=(
            "[«from→first», weight](std::int64_t i, auto tail) {\n"
            "«                    prefetch(weight, 4 * i);\n"
            "→»                    return load(«from→first» + i, tail);"
        ),
        torch="h«→[:1]».square().mean(",
        numpy="np.mean(h« * h→[:1] * h[:1]»",
    ),
    "quantised-before-the-gain": Mutant(
        "The normalised row is quantised without the gain.",
        gpu="value[i][j] * inverse_root« * gain[i][j]→»",
        wgsl="«→select(1.0, »weight[min(d, D - 1u)], d «→>= D), d »< D",
        native="mul(«mul(load(→load(gain == nullptr ? gain + i : »from + i, tail), factor)«, load(gain + i, tail))→»",
        torch='case["eps"])« * weight→»',
        numpy="« * weight.astype(dtype)→»).astype(dtype)",
    ),
    "truncated": Mutant(
        "The fraction of y·s is cut off instead of rounded to nearest even.",
        gpu="«RINT(scaled)→(float)(i32)scaled»",
        wgsl="«round→trunc»(held",
        native=Patch(
            "        «const N value = quantise(mul(get(at, tail), factor→float lanes[W];\n"
            "        store(lanes, Full{}, mul(get(at, tail), factor));\n"
            "        for (float& lane : lanes) lane = truncf(lane);\n"
            "        const N value = quantise(load(lanes, Full{}»), tail);",
            file=QUANT,
        ),
        torch="(y * s).«round→trunc»()",
        numpy="np.«rint→trunc»(blocks * s)",
    ),
    "eps-missing": Mutant(
        "No eps in the norm: a row of zeros becomes NaN, one of small values comes out too large.",
        gpu="(float)D« + EPS→»",
        wgsl="f32(D)« + EPS→»",
        native='eps(«→0.0f * »static_cast<float>(d.number("EPS")))',
        torch='« + case["eps"]→»',
        numpy='« + np.asarray(case["eps"], dtype)→»',
    ),
    "eps-of-another-model": Mutant(
        "eps is 1e-6 whatever the model says.",
        gpu="(float)D + «EPS→1e-6f»",
        wgsl="f32(D) + «EPS→1e-6»",
        native='eps(«→1e-6f + 0.0f * »static_cast<float>(d.number("EPS")))',
        torch='«case["eps"]→1e-6»',
        numpy='np.asarray(«case["eps"]→1e-6», dtype)',
    ),
    "residual-in-half-precision": Mutant(
        "h is stored with the 11 bits of an f16: the residual stream is rounded at every layer.",
        gpu=(
            "four.x = «in[0]→AS_F32(AS_U32(in[0]) & 0xffffe000u)»;",
            "row[4 * quad + i] = «in[i]→AS_F32(AS_U32(in[i]) & 0xffffe000u)»;",
        ),
        wgsl="h[row * D + d] = «value→bitcast<f32>(bitcast<u32>(value) & 0xffffe000u)»;",
        native=(
            "«→            const F wide = mul(set1(8193.0f), value);\n"
            "»            store(h + i, tail, «value→sub(wide, sub(wide, value))»);"
        ),
        torch="else [h«→.half().float()», *found]",
        numpy="else [h«→.astype(np.float16).astype(dtype)», *outputs]",
    ),
    "mean-over-the-padding": Mutant(
        "The mean square is taken over the padded width.",
        gpu="(float)«D→DP»",
        wgsl="total / f32(«D→DP»)",
        native=Patch("static_cast<float>(«width→(width + 255) / 256 * 256»)", file=NORM),
        torch="h.square().«mean→sum»(dim=-1, keepdim=True)«→ / dp»",
        numpy='np.«mean→sum»(h * h, axis=-1, keepdims=True, dtype=dtype)«→ / np.asarray(padded(case["D"]), dtype)»',
    ),
    "no-clamp": Mutant(
        "h is not limited to the range of f16.",
        gpu="«CLAMP→0» ? limited",
        wgsl="CLAMP == «1u→2u»",
        native='«d.integer("CLAMP") != 0 ? 65504.0f : →»INFINITY',
        torch='h«.clamp(-65504.0, 65504.0) if case["clamp"] else h→»',
        numpy='«(np.clip(h, -F16_MAX, F16_MAX) if case["clamp"] else h)→h»',
    ),
    "gate-and-up-swapped": Mutant(
        "The halves of gu change places: the activation of up times the gate.",
        gpu="gated(«value[i][j], right→right[i][j], value»[i][j])",
        wgsl=("let «g→u» = gu", "let «u→g» = gu[row * 2u * D + D + d]"),
        native="*«gate→up» = first + 2 * at, *«up = gate→gate = up» + width",
        torch="«gate, up→up, gate» = given[0]",
        numpy="«gate, up→up, gate» = inputs[0][:, :d]",
    ),
    "relu2-for-silu": Mutant(
        "Squared ReLU where the model has SiLU.",
        gpu="(«PRE == RELU2→1» ? relu2",
        wgsl="PRE «== 3u→> 1u»",
        native="mul(«silu→relu2»(load(gate",
        torch="functional.«silu(gate)→relu(gate).square()»",
        numpy='if case["pre"] == "«silu→»":\n            decay',
    ),
    "sum-misses-the-tail": Mutant(
        "The sum of the codes takes whole words of four only.",
        gpu="codes[SPAN(i)] += «code→4 * quad + 4 <= D ? code : 0»;",
        wgsl="acc += «code→select(0, code, word * 4u + 4u <= D)»;",
        native=Patch("«→if (at + W <= count / 4 * 4) »total = add(total, value);", file=QUANT),
        torch='qsum = «q→(q * (torch.arange(dp).view(q.shape[1:]) < case["D"] // 4 * 4))».sum(dim=-1)',
        numpy="«q→(q * (np.arange(padded(d)).reshape(spans, -1) < d // 4 * 4))».sum(axis=-1, dtype=np.int32)",
    ),
    "no-floor": Mutant(
        "No lower limit of the largest magnitude: a row of zeros divides by zero.",
        gpu="«(absmax < 1e-5f ? 1e-5f : absmax)→absmax»",
        wgsl=Patch("«max(→»magnitude(top)«, FLOOR_BITS)→»", file="prelude/quantiser.wgsl"),
        native=Patch("«(top < 1e-5f ? 1e-5f : top)→top»", file=QUANT),
        torch="«.clamp(min=1e-5)→»",
        numpy="«np.maximum(→»np.abs(blocks).max(axis=-1)«, np.asarray(1e-5, dtype))→»",
    ),
    "scale-kept-in-f32": Mutant(
        "The scale of 32 activations is not rounded to f16, which is what those who read the bytes of Q8_0 have.",
        gpu="inverse[i] = «through_f16→»(",
        wgsl=Patch("return «through_f16→»(bitcast", file="prelude/quantiser.wgsl"),
        native=Patch("*scale = «through_f16→»(top", file="act_quant/act_quant.h"),
        torch="(top / 127.0)«.half().float()→»",
        numpy="scale = «in_f16→»(top",
    ),
}
