"""Wrong kernels of glu: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

GATE = "prelude/gate.wgsl"

MUTANTS = (
    Mutant(
        "relu2-for-silu",
        "Squared ReLU where the model has SiLU: seen on every backend at once, because specification and kernels "
        "agreed.",
        {
            "gpu": (Patch("#if RELU2", "#if 1"),),
            "wgsl": (Patch("RELU2 == 1u", "RELU2 < 2u"),),
            "native": (Patch("[](F g) { return silu(g); }", "[](F g) { return relu2(g); }"),),
            "torch": (Patch("functional.silu(gate)", "functional.relu(gate).square()"),),
            "numpy": (Patch('        if case["act"] == "silu":', '        if case["act"] == "":'),),
        },
    ),
    Mutant(
        "silu-for-relu2",
        "SiLU where the model has the squared ReLU (BitNet b1.58).",
        {
            "gpu": (Patch("#if RELU2", "#if 0"),),
            "wgsl": (Patch("RELU2 == 1u", "RELU2 == 2u"),),
            "native": (Patch("[](F g) { return relu2(g); }", "[](F g) { return silu(g); }"),),
            "torch": (Patch("functional.relu(gate).square()", "functional.silu(gate)"),),
            "numpy": (Patch('        if case["act"] == "silu":', '        if case["act"]:'),),
        },
    ),
    Mutant(
        "relu-without-square",
        "ReLU, not squared.",
        {
            "gpu": (Patch("positive * positive", "positive"),),
            "wgsl": (Patch("positive * positive", "positive", file=GATE),),
            "native": (Patch("mul(kept, kept)", "kept"),),
            "torch": (Patch("functional.relu(gate).square()", "functional.relu(gate)"),),
            "numpy": (Patch("np.square(np.maximum(gate, 0))", "np.maximum(gate, 0)"),),
        },
    ),
    Mutant(
        "square-without-relu",
        "The square of the gate, negative gates included.",
        {
            "gpu": (Patch("gate < 0.0f ? 0.0f : gate;", "gate;"),),
            "wgsl": (Patch("select(g, 0.0, g < 0.0)", "g", file=GATE),),
            "native": (Patch("max(zero(), gate)", "gate"),),
            "torch": (Patch("functional.relu(gate).square()", "gate.square()"),),
            "numpy": (Patch("np.square(np.maximum(gate, 0))", "np.square(gate)"),),
        },
    ),
    Mutant(
        "sigmoid-for-silu",
        "The gate's sigmoid without the gate.",
        {
            "gpu": (Patch("gate * ((gate < 0.0f ? decay", "((gate < 0.0f ? decay"),),
            "wgsl": (Patch("g * select(decay", "select(decay", file=GATE),),
            "native": (
                Patch(
                    "mul(gate, div(pick_negative(gate, decay, set1(1.0f)), add(set1(1.0f), decay)))",
                    "div(pick_negative(gate, decay, set1(1.0f)), add(set1(1.0f), decay))",
                ),
            ),
            "torch": (Patch("functional.silu(gate)", "torch.sigmoid(gate)"),),
            "numpy": (Patch("gate * np.where(", "np.where("),),
        },
    ),
    Mutant(
        "exp-overflows",
        "SiLU as g·e^g / (1 + e^g): infinity over infinity from a gate of 89 on.",
        {
            "gpu": (
                Patch("EXP(gate < 0.0f ? gate : -gate)", "EXP(gate)"),
                Patch("(gate < 0.0f ? decay : 1.0f)", "decay"),
            ),
            "wgsl": (
                Patch("exp(-abs(g))", "exp(g)", file=GATE),
                Patch("select(decay, 1.0, g >= 0.0)", "decay", file=GATE),
            ),
            "native": (
                Patch(
                    "const F decay = exp_neg(neg_abs(gate));",
                    "float lanes[W];\n    store(lanes, Full{}, gate);\n"
                    "    for (float& lane : lanes) lane = expf(lane);\n"
                    "    const F decay = load(lanes, Full{});",
                ),
                Patch("pick_negative(gate, decay, set1(1.0f))", "decay"),
            ),
            "torch": (Patch("functional.silu(gate)", "gate * (gate.exp() / (1 + gate.exp()))"),),
            "numpy": (
                Patch("np.exp(-np.abs(gate))", "np.exp(gate)"),
                Patch("np.where(gate >= 0, 1 / (1 + decay), decay / (1 + decay))", "(decay / (1 + decay))"),
            ),
        },
    ),
    Mutant(
        "gate-and-up-swapped",
        "The activation of up times the gate.",
        {
            "gpu": (Patch("activate(gate[at]) * up[at]", "activate(up[at]) * gate[at]"),),
            "wgsl": (Patch("let g = gate[at];", "let g = up[at];"), Patch("* up[at]", "* gate[at]", times=2)),
            "native": (
                Patch("act(load(gate + i, tail)), load(up + i, tail)", "act(load(up + i, tail)), load(gate + i, tail)"),
            ),
            "torch": (Patch("gate, up = inputs", "up, gate = inputs"),),
            "numpy": (Patch("gate, up = (array.astype(dtype)", "up, gate = (array.astype(dtype)"),),
        },
    ),
    Mutant(
        "no-clamp",
        "The result is not limited to the range of f16.",
        {
            "gpu": (Patch("#if CLAMP", "#if 0"),),
            "wgsl": (Patch("CLAMP == 1u", "CLAMP == 2u"),),
            "native": (Patch("clamp ? 65504.0f : INFINITY", "INFINITY"),),
            "torch": (Patch('y.clamp(-65504.0, 65504.0) if case["clamp"] else y', "y"),),
            "numpy": (Patch('(np.clip(y, -F16_MAX, F16_MAX) if case["clamp"] else y)', "y"),),
        },
    ),
    Mutant(
        "clamp-above-only",
        "Results below -65504 are not limited.",
        {
            "gpu": (Patch("(value < -LIMIT ? -LIMIT : value)", "value"),),
            "wgsl": (
                Patch("magnitude <= INFINITY_BITS", "magnitude <= INFINITY_BITS && bits == magnitude", file=GATE),
            ),
            "native": (Patch("max(sub(zero(), limit), min(limit, value))", "min(limit, value)"),),
            "torch": (Patch("y.clamp(-65504.0, 65504.0)", "y.clamp(max=65504.0)"),),
            "numpy": (Patch("np.clip(y, -F16_MAX, F16_MAX)", "np.minimum(y, F16_MAX)"),),
        },
    ),
    Mutant(
        "nan-lost",
        "The ReLU makes 0 of a NaN, so that a broken layer looks sound.",
        {
            "gpu": (Patch("gate < 0.0f ? 0.0f : gate;", "gate > 0.0f ? gate : 0.0f;"),),
            "wgsl": (Patch("select(g, 0.0, g < 0.0)", "select(0.0, g, g > 0.0)", file=GATE),),
            "native": (Patch("max(zero(), gate)", "max(gate, zero())"),),
            "torch": (Patch("functional.relu(gate)", "functional.relu(gate).nan_to_num(posinf=torch.inf)"),),
            "numpy": (Patch("np.maximum(gate, 0)", "np.fmax(gate, 0)"),),
        },
    ),
    Mutant(
        "tail-skipped",
        "The elements behind the last whole group of 64 are not written (zeros where the output is a new array).",
        {
            "gpu": (Patch("at < M * D", "at < M * D / BLOCK * BLOCK"),),
            "wgsl": (Patch("at >= M * D", "at >= M * D / BLOCK * BLOCK"),),
            "native": (Patch("each(part.begin, part.end,", "each(part.begin, part.end / 64 * 64,"),),
            "torch": (
                Patch(
                    "    return [",
                    "    y = torch.where(torch.arange(y.numel()) < y.numel() // 64 * 64, y.view(-1), "
                    "0.0).view_as(y)\n    return [",
                ),
            ),
            "numpy": (
                Patch(
                    "        return [(np.clip",
                    "        y = np.where(np.arange(y.size) < y.size // 64 * 64, y.ravel(), 0).reshape(y.shape)\n"
                    "        return [(np.clip",
                ),
            ),
        },
    ),
    Mutant(
        "grid-not-folded",
        "The second dimension of a folded grid is ignored: elements past 65535 groups stay unwritten.",
        {
            "gpu": (Patch("GROUP_FOLDED * BLOCK", "GROUP_X * BLOCK"),),
            "wgsl": (Patch("place_of(item)", "item.group.x * BLOCK + item.local.x"),),
        },
    ),
)
