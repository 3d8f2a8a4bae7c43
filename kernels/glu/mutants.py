"""Wrong kernels of glu: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant, Patch

GATE, GPU_GATE = "prelude/gate.wgsl", "prelude/gate.cu"

MUTANTS = {
    "relu2-for-silu": Mutant(
        "Squared ReLU where the model has SiLU: seen on every backend at once, because specification and kernels "
        "agreed.",
        gpu="(«RELU2→1» ? relu2",
        wgsl="RELU2 «== 1u→< 2u»",
        native="[](F g) { return «silu→relu2»(g); }",
        torch="functional.«silu(gate)→relu(gate).square()»",
        numpy='        if case["act"] == "«silu→»":',
    ),
    "silu-for-relu2": Mutant(
        "SiLU where the model has the squared ReLU (BitNet b1.58).",
        gpu="(«RELU2→0» ? relu2",
        wgsl="RELU2 == «1u→2u»",
        native="[](F g) { return «relu2→silu»(g); }",
        torch="functional.«relu(gate).square()→silu(gate)»",
        numpy='        if case["act"]« == "silu"→»:',
    ),
    "relu-without-square": Mutant(
        "ReLU, not squared.",
        gpu=Patch("positive« * positive→»", file=GPU_GATE),
        wgsl=Patch("positive« * positive→»", file=GATE),
        native="«mul(kept, kept)→kept»",
        torch="functional.relu(gate)«.square()→»",
        numpy="«np.square(→»np.maximum(gate, 0)«)→»",
    ),
    "square-without-relu": Mutant(
        "The square of the gate, negative gates included.",
        gpu=Patch("«gate < 0.0f ? 0.0f : →»gate;", file=GPU_GATE),
        wgsl=Patch("«select(g, 0.0, g < 0.0)→g»", file=GATE),
        native="«max(zero(), gate)→gate»",
        torch="«functional.relu(gate)→gate».square()",
        numpy="np.square(«np.maximum(gate, 0)→gate»)",
    ),
    "sigmoid-for-silu": Mutant(
        "The gate's sigmoid without the gate.",
        gpu=Patch("«gate * →»((gate < 0.0f ? decay", file=GPU_GATE),
        wgsl=Patch("«g * →»select(decay", file=GATE),
        native="«mul(gate, →»div(pick_negative(gate, decay, set1(1.0f)), add(set1(1.0f), decay))«)→»",
        torch="«functional.silu→torch.sigmoid»(gate)",
        numpy="«gate * →»np.where(",
    ),
    "exp-overflows": Mutant(
        "SiLU as g·e^g / (1 + e^g): infinity over infinity from a gate of 89 on.",
        gpu=(
            Patch("EXP(gate« < 0.0f ? gate : -gate→»)", file=GPU_GATE),
            Patch("«(gate < 0.0f ? decay : 1.0f)→decay»", file=GPU_GATE),
        ),
        wgsl=(Patch("exp(«-abs(g)→g»)", file=GATE), Patch("«select(decay, 1.0, g >= 0.0)→decay»", file=GATE)),
        native=(
            "«→float lanes[W];\n"
            "    store(lanes, Full{}, gate);\n"
            "    for (float& lane : lanes) lane = expf(lane);\n"
            "    »const F decay = «exp_neg(neg_abs(gate))→load(lanes, Full{})»;",
            "«pick_negative(gate, decay, set1(1.0f))→decay»",
        ),
        torch="«functional.silu(gate)→gate * (gate.exp() / (1 + gate.exp()))»",
        numpy=("np.exp(«-np.abs(gate)→gate»)", "«np.where(gate >= 0, 1 / (1 + decay), →(»decay / (1 + decay))"),
    ),
    "gate-and-up-swapped": Mutant(
        "The activation of up times the gate.",
        gpu="relu2(«gate→up»[at]) : silu(«gate→up»[at])) * «up→gate»[at]",
        wgsl=("let g = «gate→up»[at];", Patch("* «up→gate»[at]", times=2)),
        native="act(load(«gate→up» + i, tail)), load(«up→gate» + i, tail)",
        torch="«gate, up→up, gate» = inputs",
        numpy="«gate, up→up, gate» = (array.astype(dtype)",
    ),
    "no-clamp": Mutant(
        "The result is not limited to the range of f16.",
        gpu="«CLAMP→0» ? limited",
        wgsl="CLAMP == «1u→2u»",
        native="«clamp ? 65504.0f : →»INFINITY",
        torch='y«.clamp(-65504.0, 65504.0) if case["clamp"] else y→»',
        numpy='«(np.clip(y, -F16_MAX, F16_MAX) if case["clamp"] else y)→y»',
    ),
    "clamp-above-only": Mutant(
        "Results below -65504 are not limited.",
        gpu=Patch("«(value < -65504.0f ? -65504.0f : value)→value»", file=GPU_GATE),
        wgsl=Patch("magnitude <= INFINITY_BITS«→ && bits == magnitude»", file=GATE),
        native="«max(sub(zero(), limit), →»min(limit, value)«)→»",
        torch="y.clamp(«-65504.0, →max=»65504.0)",
        numpy="np.«clip(y, -F16_MAX→minimum(y», F16_MAX)",
    ),
    "nan-lost": Mutant(
        "The ReLU makes 0 of a NaN, so that a broken layer looks sound.",
        gpu=Patch("gate «<→>» 0.0f ? «0.0f : gate→gate : 0.0f»;", file=GPU_GATE),
        wgsl=Patch("select(«g, 0.0, g <→0.0, g, g >» 0.0)", file=GATE),
        native="max(«zero(), gate→gate, zero()»)",
        torch="functional.relu(gate)«→.nan_to_num(posinf=torch.inf)»",
        numpy="np.«maximum→fmax»(gate, 0)",
    ),
    "tail-skipped": Mutant(
        "The elements behind the last whole group of 64 are not written (zeros where the output is a new array).",
        gpu="at < M * D«→ / BLOCK * BLOCK»",
        wgsl="at >= M * D«→ / BLOCK * BLOCK»",
        native="each(part.begin, part.end«→ / 64 * 64»,",
        torch=(
            "«→    y = torch.where(torch.arange(y.numel()) < y.numel() // 64 * 64, y.view(-1), 0.0).view_as(y)\n"
            "»    return ["
        ),
        numpy=(
            "«→        y = np.where(np.arange(y.size) < y.size // 64 * 64, y.ravel(), 0).reshape(y.shape)\n"
            "»        return [(np.clip"
        ),
    ),
    "grid-not-folded": Mutant(
        "The second dimension of a folded grid is ignored: elements past 65535 groups stay unwritten.",
        gpu="«GROUP_FOLDED→GROUP_X» * BLOCK",
        wgsl="«place_of(item)→item.group.x * BLOCK + item.local.x»",
    ),
}
