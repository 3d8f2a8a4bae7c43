"""Wrong kernels of act_quant: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

MUTANTS = (
    Mutant(
        "half-away-from-zero",
        "Ties are rounded away from zero, as C's round does.",
        {
            "gpu": (
                Patch(
                    "RINT(source[k] * factor)",
                    "(float)(i32)(source[k] * factor + (source[k] < 0.0f == factor < 0.0f ? 0.5f : -0.5f))",
                ),
            ),
            "wgsl": (
                Patch(
                    "let scaled = round(load(row, (span * WORDS + word) * 4u + i) * s);",
                    "let exact = load(row, (span * WORDS + word) * 4u + i) * s;\n"
                    "            let scaled = sign(exact) * floor(abs(exact) + 0.5);",
                ),
            ),
            "native": (
                Patch(
                    "        const N value = quantise(mul(get(at, tail), factor), tail);",
                    "        float lanes[W];\n        store(lanes, Full{}, mul(get(at, tail), factor));\n"
                    "        for (float& lane : lanes) lane = roundf(lane);\n"
                    "        const N value = quantise(load(lanes, Full{}), tail);",
                ),
            ),
            "torch": (Patch("(x * s).round()", "((x * s).abs() + 0.5).floor().mul((x * s).sign())"),),
            "numpy": (Patch("np.rint(blocks * s)", "np.trunc(blocks * s + np.copysign(0.5, blocks * s))"),),
        },
    ),
    Mutant(
        "truncated",
        "The fraction is cut off: a conversion to int without a rounding before it.",
        {
            "gpu": (Patch("RINT(source[k] * factor)", "(float)(i32)(source[k] * factor)"),),
            "wgsl": (Patch("round(load(", "trunc(load("),),
            "native": (
                Patch(
                    "        const N value = quantise(mul(get(at, tail), factor), tail);",
                    "        float lanes[W];\n        store(lanes, Full{}, mul(get(at, tail), factor));\n"
                    "        for (float& lane : lanes) lane = truncf(lane);\n"
                    "        const N value = quantise(load(lanes, Full{}), tail);",
                ),
            ),
            "torch": (Patch("(x * s).round()", "(x * s).trunc()"),),
            "numpy": (Patch("np.rint(blocks * s)", "np.trunc(blocks * s)"),),
        },
    ),
    Mutant(
        "scale-of-128",
        "The largest magnitude becomes 128, which int8 does not have, instead of 127.",
        {
            "gpu": (Patch("-127.0f / extreme", "-128.0f / extreme"), Patch("127.0f / (absmax", "128.0f / (absmax")),
            "wgsl": (Patch("s = 127.0 / ", "s = 128.0 / "), Patch("s = -127.0 / ", "s = -128.0 / ")),
            "native": (Patch("-127.0f / signed_top", "-128.0f / signed_top"), Patch("127.0f / (top", "128.0f / (top")),
            "torch": (Patch("s = 127.0 / ", "s = 128.0 / "), Patch("-127.0 / peak", "-128.0 / peak")),
            "numpy": (
                Patch("np.asarray(127, dtype)", "np.asarray(128, dtype)"),
                Patch("np.asarray(-127, dtype)", "np.asarray(-128, dtype)"),
            ),
        },
    ),
    Mutant(
        "maximum-of-row-0",
        "The largest magnitude of the first row scales every row: right for one token, wrong for a batch.",
        {
            "gpu": (Patch("AS_U32(source[k])", "AS_U32(x[k])"),),
            "wgsl": (Patch("bitcast<u32>(load(row, ", "bitcast<u32>(load(0u, "),),
            "torch": (Patch("magnitude = x.abs()", "magnitude = x[:1].abs().expand_as(x)"),),
            "numpy": (
                Patch(
                    "        blocks = x.reshape(m, spans, -1)\n",
                    "        blocks = x.reshape(m, spans, -1)\n"
                    "        first = np.broadcast_to(blocks[:1], blocks.shape)\n",
                ),
                Patch("np.abs(blocks)", "np.abs(first)", times=2),
            ),
        },
    ),
    Mutant(
        "scales-span-major",
        "Scales are stored [S, M] instead of [M, S]: a token gets the scale of another one's block.",
        {
            "gpu": (Patch("scale[row * SPANS + span] = ", "scale[span * M + row] = "),),
            "wgsl": (Patch("scale[at] = ", "scale[span * M + row] = ", times=2),),
            "native": (Patch("scale + at, ", "scale + at % spans * rows + at / spans, "),),
            "torch": (Patch("scale[..., 0]", "scale[..., 0].T.reshape(scale.shape[:2])"),),
            "numpy": (
                Patch("scale = scale[..., 0].astype(dtype)", "scale = scale[..., 0].astype(dtype).T.reshape(m, spans)"),
            ),
        },
    ),
    Mutant(
        "sum-misses-the-tail",
        "The sum of the codes takes whole words of four only.",
        {
            "gpu": (Patch("acc[0] += code;", "acc[0] += k < K / 4 * 4 ? code : 0;"),),
            "wgsl": (Patch("acc += code;", "acc += select(0, code, (span * WORDS + word) * 4u + 4u <= K);"),),
            "native": (Patch("total = add(total, value);", "if (at + W <= count / 4 * 4) total = add(total, value);"),),
            "torch": (
                Patch(
                    "qsum = q.sum(dim=-1)", "qsum = (q * (torch.arange(kp).view(q.shape[1:]) < k // 4 * 4)).sum(dim=-1)"
                ),
            ),
            "numpy": (
                Patch(
                    "q.sum(axis=-1, dtype=np.int32)",
                    "(q * (np.arange(padded(k)).reshape(spans, -1) < k // 4 * 4)).sum(axis=-1, dtype=np.int32)",
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
            "native": (Patch("(top < 1e-5f ? 1e-5f : top)", "top"),),
            "torch": (Patch(".clamp(min=1e-5)", ""),),
            "numpy": (
                Patch(
                    "np.maximum(np.abs(blocks).max(axis=-1), np.asarray(1e-5, dtype))", "np.abs(blocks).max(axis=-1)"
                ),
            ),
        },
    ),
    Mutant(
        "maximum-misses-the-last",
        "The search for the largest magnitude ends one element before the span does.",
        {
            "gpu": (Patch("k < begin + SPAN && k < K", "k + 1 < begin + SPAN && k < K"),),
            "wgsl": (
                Patch(
                    "top = larger(top, bitcast<u32>(load(row, (span * WORDS + word) * 4u + i)));",
                    "if word * 4u + i + 1u < WORDS * 4u {\n"
                    "                top = larger(top, bitcast<u32>(load(row, (span * WORDS + word) * 4u + i)));\n"
                    "            }",
                ),
            ),
            "native": (
                Patch("for (; i + 2 * W <= count; i += 2 * W)", "for (; i + 2 * W < count; i += 2 * W)"),
                Patch("each(i, count, ", "each(i, least(count, length - 1), "),
            ),
            "torch": (Patch("magnitude = x.abs()", "magnitude = x.abs()[..., :-1]"),),
            "numpy": (Patch("np.abs(blocks)", "np.abs(blocks[..., :-1])", times=2),),
        },
    ),
    Mutant(
        "sign-lost",
        "The scale of a block is that of the largest magnitude, without the sign of the value.",
        {
            "gpu": (Patch("AS_F32(magnitude | (u32)(best[0] & 1) << 31)", "AS_F32(magnitude)"),),
            "wgsl": (Patch("-127.0 / bitcast<f32>(top_bits)", "-127.0 / bitcast<f32>(magnitude(top_bits))"),),
            "native": (Patch("signed_top(count, top, get)", "top"),),
            "torch": (Patch("-127.0 / peak", "-127.0 / peak.abs()"),),
            "numpy": (Patch("np.asarray(-127, dtype), top", "np.asarray(-127, dtype), np.abs(top)"),),
        },
    ),
    Mutant(
        "last-of-equals",
        "Of equal magnitudes in a block the last one gives the scale its sign.",
        {
            "gpu": (Patch("(0x7fffffffu - k) << 1", "k << 1"),),
            "wgsl": (
                Patch(
                    "magnitude(right) > magnitude(left)",
                    "magnitude(right) >= magnitude(left)",
                    file="prelude/magnitude.wgsl",
                ),
            ),
            "native": (
                Patch("    const F positive = ", "    float found = top;\n    const F positive = "),
                Patch(
                    "if (plus >= 0 || minus >= 0) return minus < 0 || (plus >= 0 && plus < minus) ? top : -top;",
                    "if (plus >= 0 || minus >= 0) found = plus > minus ? top : -top;",
                ),
                Patch("return top;  //", "return found;  //"),
            ),
            "torch": (
                Patch(
                    "magnitude.argmax(dim=-1, keepdim=True)", "255 - magnitude.flip(-1).argmax(dim=-1, keepdim=True)"
                ),
            ),
            "numpy": (Patch("np.abs(blocks).argmax(axis=-1)", "255 - np.abs(blocks)[..., ::-1].argmax(axis=-1)"),),
        },
    ),
    Mutant(
        "padding-not-written",
        "The codes behind the row's end keep what the buffer held; the next product reads them.",
        {
            "gpu": (Patch("target[k] = (i8)code;", "if (k < K) {\n            target[k] = (i8)code;\n        }"),),
            "wgsl": (
                Patch(
                    "        q[row * (KP / 4u)",
                    "        if (span * WORDS + word) * 4u >= K {\n            continue;\n        }\n"
                    "        q[row * (KP / 4u)",
                ),
            ),
            "native": (
                Patch("if (count < length) std::memset(q + count, 0, static_cast<std::size_t>(length - count));", ""),
            ),
        },
    ),
)
