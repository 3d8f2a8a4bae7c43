"""Wrong kernels of act_quant: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant, Patch

QUANTISER = "prelude/quantiser.wgsl"

MUTANTS = {
    "half-away-from-zero": Mutant(
        "Ties are rounded away from zero, as C's round does.",
        gpu="«RINT→(float)(i32)»(source[k] * factor«→ + (source[k] < 0.0f == factor < 0.0f ? 0.5f : -0.5f)»)",
        wgsl=(
            "let «scaled = round(→exact = »load(row, (span * WORDS + word) * 4u + i) * s«→;\n"
            "            let scaled = sign(exact) * floor(abs(exact) + 0.5»);"
        ),
        native=(
            "        «const N value = quantise(mul(get(at, tail), factor→float lanes[W];\n"
            "        store(lanes, Full{}, mul(get(at, tail), factor));\n"
            "        for (float& lane : lanes) lane = roundf(lane);\n"
            "        const N value = quantise(load(lanes, Full{}»), tail);"
        ),
        torch="(«x * s).round(→(x * s).abs() + 0.5).floor().mul((x * s).sign()»)",
        numpy="np.«rint(blocks * s)→trunc(blocks * s + np.copysign(0.5, blocks * s))»",
    ),
    "truncated": Mutant(
        "The fraction is cut off: a conversion to int without a rounding before it.",
        gpu="«RINT→(float)(i32)»(source[k] * factor)",
        wgsl="«round→trunc»(load(",
        native=(
            "        «const N value = quantise(mul(get(at, tail), factor→float lanes[W];\n"
            "        store(lanes, Full{}, mul(get(at, tail), factor));\n"
            "        for (float& lane : lanes) lane = truncf(lane);\n"
            "        const N value = quantise(load(lanes, Full{}»), tail);"
        ),
        torch="(x * s).«round→trunc»()",
        numpy="np.«rint→trunc»(blocks * s)",
    ),
    "scale-of-128": Mutant(
        "The largest magnitude becomes 128, which int8 does not have, instead of 127.",
        gpu=("-«127.0f→128.0f» / extreme", "«127.0f→128.0f» / (absmax"),
        wgsl=(Patch(" «127.0→128.0» / ", file=QUANTISER), Patch("-«127.0→128.0» / ", file=QUANTISER)),
        native=("-«127.0f→128.0f» / signed_top", "«127.0f→128.0f» / (top"),
        torch=("s = «127.0→128.0» / ", "-«127.0→128.0» / peak"),
        numpy=("np.asarray(«127→128», dtype)", "np.asarray(-«127→128», dtype)"),
    ),
    "maximum-of-row-0": Mutant(
        "The largest magnitude of the first row scales every row: right for one token, wrong for a batch.",
        gpu="AS_U32(«source→x»[k])",
        wgsl="bitcast<u32>(load(«row→0u», ",
        torch="magnitude = x«.abs()→[:1].abs().expand_as(x)»",
        numpy=(
            "        blocks = x.reshape(m, spans, -1)«→\n        first = np.broadcast_to(blocks[:1], blocks.shape)»\n",
            Patch("np.abs(«blocks→first»)", times=2),
        ),
    ),
    "scales-span-major": Mutant(
        "Scales are stored [S, M] instead of [M, S]: a token gets the scale of another one's block.",
        gpu="scale[«row * SPANS + span→span * M + row»] = ",
        wgsl="scale[«at→span * M + row»] = ",
        native="scale + at«→ % spans * rows + at / spans», ",
        torch="scale[..., 0]«→.T.reshape(scale.shape[:2])»",
        numpy="scale = scale[..., 0].astype(dtype)«→.T.reshape(m, spans)»",
    ),
    "sum-misses-the-tail": Mutant(
        "The sum of the codes takes whole words of four only.",
        gpu="acc[0] += «code→k < K / 4 * 4 ? code : 0»;",
        wgsl="acc += «code→select(0, code, (span * WORDS + word) * 4u + 4u <= K)»;",
        native="«→if (at + W <= count / 4 * 4) »total = add(total, value);",
        torch="qsum = «q→(q * (torch.arange(kp).view(q.shape[1:]) < k // 4 * 4))».sum(dim=-1)",
        numpy="«q→(q * (np.arange(padded(k)).reshape(spans, -1) < k // 4 * 4))».sum(axis=-1, dtype=np.int32)",
    ),
    "no-floor": Mutant(
        "No lower limit of the largest magnitude: a row of zeros divides by zero.",
        gpu="«(absmax < 1e-5f ? 1e-5f : absmax)→absmax»",
        wgsl=Patch("«max(→»magnitude(top)«, FLOOR_BITS)→»", file=QUANTISER),
        native="«(top < 1e-5f ? 1e-5f : top)→top»",
        torch="«.clamp(min=1e-5)→»",
        numpy="«np.maximum(→»np.abs(blocks).max(axis=-1)«, np.asarray(1e-5, dtype))→»",
    ),
    "maximum-misses-the-last": Mutant(
        "The search for the largest magnitude ends one element before the span does.",
        gpu="k«→ + 1» < begin + SPAN && k < K",
        wgsl=(
            "«→if word * 4u + i + 1u < WORDS * 4u {\n"
            "                »top = larger(top, bitcast<u32>(load(row, (span * WORDS + word) * 4u + i)));«→\n"
            "            }»"
        ),
        native=("for (; i + 2 * W <«=→» count; i += 2 * W)", "each(i, «count→least(count, length - 1)», "),
        torch="magnitude = x.abs()«→[..., :-1]»",
        numpy=Patch("np.abs(blocks«→[..., :-1]»)", times=2),
    ),
    "sign-lost": Mutant(
        "The scale of a block is that of the largest magnitude, without the sign of the value.",
        gpu="AS_F32(magnitude« | (u32)(best[0] & 1) << 31→»)",
        wgsl=Patch("-127.0 / bitcast<f32>(«top→magnitude(top)»)", file=QUANTISER),
        native="«signed_top(count, top, get)→top»",
        torch="-127.0 / peak«→.abs()»",
        numpy="np.asarray(-127, dtype), «top→np.abs(top)»",
    ),
    "last-of-equals": Mutant(
        "Of equal magnitudes in a block the last one gives the scale its sign.",
        gpu="«(0x7fffffffu - k)→k» << 1",
        wgsl=Patch("magnitude(right) >«→=» magnitude(left)", file="prelude/fold.wgsl"),
        native=(
            "«→    float found = top;\n»    const F positive = ",
            " >= 0 || minus >= 0) «return minus < 0 || (plus >= 0 && plus < minus)→found = plus > minus» ? top : -top;",
            "return «top→found»;  //",
        ),
        torch="«→255 - »magnitude«→.flip(-1)».argmax(dim=-1, keepdim=True)",
        numpy="«→255 - »np.abs(blocks)«→[..., ::-1]».argmax(axis=-1)",
    ),
    "scale-kept-in-f32": Mutant(
        "The scale of 32 activations is not rounded to f16, which is what those who read the bytes of Q8_0 have.",
        gpu="inverse = «through_f16→»(",
        wgsl=Patch("return «through_f16→»(bitcast", file=QUANTISER),
        native="*scale = «through_f16→»(top",
        torch="(top / 127.0)«.half().float()→»",
        numpy="scale = «in_f16→»(top",
    ),
    "padding-not-written": Mutant(
        "The codes behind the row's end keep what the buffer held; the next product reads them.",
        gpu="«→if (k < K) {\n            »target[k] = (i8)code;«→\n        }»",
        wgsl="«→        if (span * WORDS + word) * 4u >= K {\n            continue;\n        }\n»        q[row * (KP /",
        native="«if (count < length) std::memset(q + count, 0, static_cast<std::size_t>(length - count));→»",
    ),
}
