"""Wrong kernels of norm_quant: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

GATE = "prelude/gate.wgsl"
NORM, QUANT = "rmsnorm/rmsnorm.h", "act_quant/act_quant.h"

MUTANTS = (
    Mutant(
        "residual-not-written",
        "h is not stored: the residual stream goes on with what the buffer held.",
        {
            "gpu": (Patch("                h[(u64)row * D + 4 * quad + j] = value[i][j];\n", ""),),
            "wgsl": (Patch("h[row * D + d] = value;", "h[row * D + d] = h[row * D + d];"),),
            "native": (Patch("            store(h + i, tail, value);\n", ""),),
            "torch": (Patch("else [h, *found]", "else [torch.zeros_like(h), *found]"),),
            "numpy": (Patch("else [h, *outputs]", "else [np.zeros_like(h), *outputs]"),),
        },
    ),
    Mutant(
        "second-input-forgotten",
        "h is the first input alone: the block's own output is lost.",
        {
            "gpu": (Patch("left[j] + right[j]", "left[j]"),),
            "wgsl": (Patch("a[row * D + d] + b[row * D + d]", "select(b[row * D + d], a[row * D + d], d < D)"),),
            "native": (Patch("add(load(a + i, tail), load(b + i, tail))", "load(b == nullptr ? b + i : a + i, tail)"),),
            "torch": (Patch("torch.add(*given)", "given[0].clone()"),),
            "numpy": (Patch("inputs[0].astype(dtype) + inputs[1].astype(dtype)", "inputs[0].astype(dtype)"),),
        },
    ),
    Mutant(
        "norm-of-the-input",
        "The mean square is that of the first input, not of the sum.",
        {
            "gpu": (
                Patch(
                    "            acc[0] = FMA(value[i][j], value[i][j], acc[0]);",
                    "#if PRE == ADD\n            acc[0] = FMA(left[j], left[j], acc[0]);\n#else\n"
                    "            acc[0] = FMA(value[i][j], value[i][j], acc[0]);\n#endif",
                ),
            ),
            "wgsl": (
                Patch(
                    "            square += value * value;",
                    "//#if PRE == 1\n"
                    "            square += select(0.0, a[row * D + min(d, D - 1u)] * a[row * D + min(d, D - 1u)], "
                    "d < D);\n//#else\n            square += value * value;\n//#endif",
                ),
            ),
            "native": (
                Patch(
                    "load(b + i, tail));\n                });",
                    "load(b + i, tail));\n                });\n"
                    "                inverse = inverse_rms(width, eps, [a](std::int64_t i, auto tail) { return "
                    "load(a + i, tail); });",
                ),
            ),
            "torch": (Patch("h.square().mean(", '(given[0] if case["pre"] == "add" else h).square().mean('),),
            "numpy": (
                Patch(
                    "        y[:, :d] = self._normed(case, h, inputs[-1], dtype)",
                    "        y[:, :d] = self._normed(case, h, inputs[-1], dtype)\n"
                    '        if case["pre"] == "add":\n'
                    "            right, wrong = (np.mean(z * z, axis=-1, keepdims=True) for z in (h, "
                    "inputs[0].astype(dtype)))\n"
                    '            y[:, :d] *= np.sqrt((right + np.asarray(case["eps"], dtype)) / (wrong + '
                    'np.asarray(case["eps"], dtype)))',
                ),
            ),
        },
    ),
    Mutant(
        "norm-of-row-0",
        "Rows are divided by the root of the first one (in the compiled texts where there is nothing before the norm).",
        {
            "gpu": (
                Patch(
                    "            acc[0] = FMA(value[i][j], value[i][j], acc[0]);",
                    "#if PRE == NONE\n"
                    "            const float first = 4 * quad + j < D ? x[4 * quad + j] : 0.0f;\n"
                    "            acc[0] = FMA(first, first, acc[0]);\n#else\n"
                    "            acc[0] = FMA(value[i][j], value[i][j], acc[0]);\n#endif",
                ),
            ),
            "wgsl": (
                Patch(
                    "            square += value * value;",
                    "//#if PRE == 0\n"
                    "            square += select(0.0, x[min(d, D - 1u)] * x[min(d, D - 1u)], d < D);\n"
                    "//#else\n            square += value * value;\n//#endif",
                ),
            ),
            "native": (
                Patch(
                    "[from, weight](std::int64_t i, auto tail) {\n                    prefetch(weight, 4 * i);\n"
                    "                    return load(from + i, tail);",
                    "[first, weight](std::int64_t i, auto tail) {\n                    return load(first + i, tail);",
                ),
            ),
            "torch": (Patch("h.square().mean(", "h[:1].square().mean("),),
            "numpy": (Patch("np.mean(h * h", "np.mean(h[:1] * h[:1]"),),
        },
    ),
    Mutant(
        "quantised-before-the-gain",
        "The normalised row is quantised without the gain.",
        {
            "gpu": (Patch("value[i][j] * inverse_root * gain[i][j]", "value[i][j] * inverse_root"),),
            "wgsl": (Patch("weight[min(d, D - 1u)], d < D", "select(1.0, weight[min(d, D - 1u)], d >= D), d < D"),),
            "native": (
                Patch(
                    "mul(mul(load(from + i, tail), factor), load(gain + i, tail))",
                    "mul(load(gain == nullptr ? gain + i : from + i, tail), factor)",
                ),
            ),
            "torch": (Patch('case["eps"]) * weight', 'case["eps"])'),),
            "numpy": (Patch(" * weight.astype(dtype)).astype(dtype)", ").astype(dtype)"),),
        },
    ),
    Mutant(
        "truncated",
        "The fraction of y·s is cut off instead of rounded to nearest even.",
        {
            "gpu": (Patch("RINT(scaled)", "(float)(i32)scaled"),),
            "wgsl": (Patch("round(held", "trunc(held"),),
            "native": (
                Patch(
                    "        const N value = quantise(mul(get(at, tail), factor), tail);",
                    "        float lanes[W];\n        store(lanes, Full{}, mul(get(at, tail), factor));\n"
                    "        for (float& lane : lanes) lane = truncf(lane);\n"
                    "        const N value = quantise(load(lanes, Full{}), tail);",
                    file=QUANT,
                ),
            ),
            "torch": (Patch("(y * s).round()", "(y * s).trunc()"),),
            "numpy": (Patch("np.rint(blocks * s)", "np.trunc(blocks * s)"),),
        },
    ),
    Mutant(
        "eps-missing",
        "No eps in the norm: a row of zeros becomes NaN, one of small values comes out too large.",
        {
            "gpu": (Patch("(float)D + EPS", "(float)D"),),
            "wgsl": (Patch("f32(D) + EPS", "f32(D)"),),
            "native": (
                Patch('eps(static_cast<float>(d.number("EPS")))', 'eps(0.0f * static_cast<float>(d.number("EPS")))'),
            ),
            "torch": (Patch(' + case["eps"]', ""),),
            "numpy": (Patch(' + np.asarray(case["eps"], dtype)', ""),),
        },
    ),
    Mutant(
        "eps-of-another-model",
        "eps is 1e-6 whatever the model says.",
        {
            "gpu": (Patch("(float)D + EPS", "(float)D + 1e-6f"),),
            "wgsl": (Patch("f32(D) + EPS", "f32(D) + 1e-6"),),
            "native": (
                Patch(
                    'eps(static_cast<float>(d.number("EPS")))',
                    'eps(1e-6f + 0.0f * static_cast<float>(d.number("EPS")))',
                ),
            ),
            "torch": (Patch('case["eps"]', "1e-6"),),
            "numpy": (Patch('np.asarray(case["eps"], dtype)', "np.asarray(1e-6, dtype)"),),
        },
    ),
    Mutant(
        "residual-in-half-precision",
        "h is stored with the 11 bits of an f16: the residual stream is rounded at every layer.",
        {
            "gpu": (Patch("+ j] = value[i][j];", "+ j] = AS_F32(AS_U32(value[i][j]) & 0xffffe000u);"),),
            "wgsl": (
                Patch("h[row * D + d] = value;", "h[row * D + d] = bitcast<f32>(bitcast<u32>(value) & 0xffffe000u);"),
            ),
            "native": (
                Patch(
                    "            store(h + i, tail, value);",
                    "            const F wide = mul(set1(8193.0f), value);\n"
                    "            store(h + i, tail, sub(wide, sub(wide, value)));",
                ),
            ),
            "torch": (Patch("else [h, *found]", "else [h.half().float(), *found]"),),
            "numpy": (Patch("else [h, *outputs]", "else [h.astype(np.float16).astype(dtype), *outputs]"),),
        },
    ),
    Mutant(
        "mean-over-the-padding",
        "The mean square is taken over the padded width.",
        {
            "gpu": (Patch("(float)D", "(float)DP"),),
            "wgsl": (Patch("total / f32(D)", "total / f32(DP)"),),
            "native": (Patch("static_cast<float>(width)", "static_cast<float>((width + 255) / 256 * 256)", file=NORM),),
            "torch": (Patch("h.square().mean(dim=-1, keepdim=True)", "h.square().sum(dim=-1, keepdim=True) / dp"),),
            "numpy": (
                Patch(
                    "np.mean(h * h, axis=-1, keepdims=True, dtype=dtype)",
                    'np.sum(h * h, axis=-1, keepdims=True, dtype=dtype) / np.asarray(padded(case["D"]), dtype)',
                ),
            ),
        },
    ),
    Mutant(
        "no-clamp",
        "h is not limited to the range of f16.",
        {
            "gpu": (Patch("#if CLAMP", "#if 0"),),
            "wgsl": (Patch("CLAMP == 1u", "CLAMP == 2u"),),
            "native": (Patch('d.integer("CLAMP") != 0 ? 65504.0f : INFINITY', "INFINITY"),),
            "torch": (Patch('h.clamp(-65504.0, 65504.0) if case["clamp"] else h', "h"),),
            "numpy": (Patch('(np.clip(h, -F16_MAX, F16_MAX) if case["clamp"] else h)', "h"),),
        },
    ),
    Mutant(
        "gate-and-up-swapped",
        "The halves of gu change places: the activation of up times the gate.",
        {
            "gpu": (Patch("gated(left[j], right[j])", "gated(right[j], left[j])"),),
            "wgsl": (
                Patch("let g = gu", "let u = gu"),
                Patch("let u = gu[row * 2u * D + D + d]", "let g = gu[row * 2u * D + D + d]"),
            ),
            "native": (
                Patch("*gate = first + 2 * at, *up = gate + width", "*up = first + 2 * at, *gate = up + width"),
            ),
            "torch": (Patch("gate, up = given[0]", "up, gate = given[0]"),),
            "numpy": (Patch("gate, up = inputs[0][:, :d]", "up, gate = inputs[0][:, :d]"),),
        },
    ),
    Mutant(
        "relu2-for-silu",
        "Squared ReLU where the model has SiLU.",
        {
            "gpu": (Patch("#if PRE == RELU2\n", "#if 1\n"),),
            "wgsl": (Patch("PRE == 3u", "PRE > 1u"),),
            "native": (Patch("mul(silu(load(gate", "mul(relu2(load(gate"),),
            "torch": (Patch("functional.silu(gate)", "functional.relu(gate).square()"),),
            "numpy": (
                Patch('if case["pre"] == "silu":\n            decay', 'if case["pre"] == "":\n            decay'),
            ),
        },
    ),
    Mutant(
        "sum-misses-the-tail",
        "The sum of the codes takes whole words of four only.",
        {
            "gpu": (Patch("codes[i] += code;", "codes[i] += 4 * quad + 4 <= D ? code : 0;"),),
            "wgsl": (Patch("acc += code;", "acc += select(0, code, word * 4u + 4u <= D);"),),
            "native": (
                Patch(
                    "total = add(total, value);", "if (at + W <= count / 4 * 4) total = add(total, value);", file=QUANT
                ),
            ),
            "torch": (
                Patch(
                    "qsum = q.sum(dim=-1)",
                    'qsum = (q * (torch.arange(dp).view(q.shape[1:]) < case["D"] // 4 * 4)).sum(dim=-1)',
                ),
            ),
            "numpy": (
                Patch(
                    "q.sum(axis=-1, dtype=np.int32)",
                    "(q * (np.arange(padded(d)).reshape(spans, -1) < d // 4 * 4)).sum(axis=-1, dtype=np.int32)",
                ),
            ),
        },
    ),
    Mutant(
        "no-floor",
        "No lower limit of the largest magnitude: a row of zeros divides by zero.",
        {
            "gpu": (Patch("(absmax < 1e-5f ? 1e-5f : absmax)", "absmax"),),
            "wgsl": (Patch("max(magnitude(top_bits), FLOOR_BITS)", "magnitude(top_bits)"),),
            "native": (Patch("(top < 1e-5f ? 1e-5f : top)", "top", file=QUANT),),
            "torch": (Patch(".clamp(min=1e-5)", ""),),
            "numpy": (
                Patch(
                    "np.maximum(np.abs(blocks).max(axis=-1), np.asarray(1e-5, dtype))", "np.abs(blocks).max(axis=-1)"
                ),
            ),
        },
    ),
)
