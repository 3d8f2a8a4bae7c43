"""Wrong rope kernels: convention, sign, position, frequencies, partial rotation, the reduction of the angle."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

GPU_ANGLE = "(float)pos[row] * freq[pair]"
GPU_FIRST = "source[low] * cosine - source[high] * sine;"
GPU_SECOND = "source[high] * cosine + source[low] * sine;"
WGSL_ANGLE = "f32(pos[row]) * freq[i]"
WGSL_FIRST = "x1 * cs.x - x2 * cs.y;"
WGSL_SECOND = "x2 * cs.x + x1 * cs.y;"
NATIVE_POSITION = "position = static_cast<float>(pos);"
NATIVE_ANGLE = "angle = position * freq[i];"
NATIVE_COSINE = "cosine[i] = static_cast<float>((quadrant + 1) & 2 ? -second : second);"
NATIVE_TURN = "rotation.turn(x + at * width, sine, y + at * width);"
NATIVE_REST = "std::memcpy(y + rotated_, x + rotated_, sizeof(float) * static_cast<std::size_t>(width_ - rotated_));"
TORCH_POSITION = "pos.to(torch.float32)"
TORCH_ANGLE = f"torch.outer({TORCH_POSITION}, freq)"
TORCH_RESULT = "return [torch.cat((turning * angles.cos() + rotated * angles.sin(), rest), dim=-1)]"
NUMPY_ANGLE = "(pos.astype(dtype)[:, None] * freq[None, :])"
NUMPY_COPY = "y = x.copy()\n"
NUMPY_FIRST = "x[..., first] * cos - x[..., second] * sin\n"
NUMPY_SECOND = "x[..., second] * cos + x[..., first] * sin\n"


def _gpu_angle(position: str = "pos[row]", frequency: str = "freq[pair]") -> tuple[Patch, ...]:
    return (Patch(GPU_ANGLE, f"(float)({position}) * {frequency}"),)


def _wgsl_angle(position: str = "pos[row]", frequency: str = "freq[i]") -> tuple[Patch, ...]:
    return (Patch(WGSL_ANGLE, f"f32({position}) * {frequency}"),)


def _native_angle(position: str = "pos", frequency: str = "freq[i]") -> tuple[Patch, ...]:
    return (
        Patch(NATIVE_POSITION, f"position = static_cast<float>({position});"),
        Patch(NATIVE_ANGLE, f"angle = position * ({frequency});"),
    )


def _torch_angle(position: str = TORCH_POSITION, frequency: str = "freq") -> tuple[Patch, ...]:
    return (Patch(TORCH_ANGLE, f"torch.outer({position}, {frequency})"),)


def _numpy_angle(position: str = "pos", frequency: str = "freq") -> tuple[Patch, ...]:
    return (Patch(NUMPY_ANGLE, f"(({position}).astype(dtype)[:, None] * ({frequency})[None, :])"),)


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "convention-swapped",
        "NEOX where interleaved is meant, and the reverse: gibberish after a few tokens, and right at position 0.",
        {
            "gpu": (Patch("#if NEOX", "#if !NEOX"),),
            "wgsl": (Patch("if NEOX == 1u", "if NEOX == 0u"),),
            "native": (Patch("if (neox_)", "if (!neox_)"),),
            "torch": (Patch('case["mode"] == "neox"', 'case["mode"] != "neox"'),),
            "numpy": (Patch('if case["mode"] == "neox" else', 'if case["mode"] != "neox" else'),),
        },
    ),
    Mutant(
        "turned-backwards",
        "The sine has the wrong sign in both halves: every pair turns the other way.",
        {
            "gpu": (Patch(GPU_FIRST, GPU_FIRST.replace("-", "+")), Patch(GPU_SECOND, GPU_SECOND.replace("+", "-"))),
            "wgsl": (
                Patch(WGSL_FIRST, WGSL_FIRST.replace("-", "+")),
                Patch(WGSL_SECOND, WGSL_SECOND.replace("+", "-")),
            ),
            "native": _native_angle("-pos"),
            "torch": _torch_angle(f"-{TORCH_POSITION}"),
            "numpy": _numpy_angle("-pos"),
        },
    ),
    Mutant(
        "one-sine-negated",
        "The sine has the wrong sign in the second element of each pair only: not a rotation any more.",
        {
            "gpu": (Patch(GPU_SECOND, GPU_SECOND.replace("+", "-")),),
            "wgsl": (Patch(WGSL_SECOND, WGSL_SECOND.replace("+", "-")),),
            "native": (
                Patch("add(mul(second, c), mul(first, s))", "sub(mul(second, c), mul(first, s))"),
                Patch("second * cosine[i] + first * sine[i]", "second * cosine[i] - first * sine[i]"),
            ),
            "torch": (
                Patch("torch.cat((-right, left)", "torch.cat((-right, -left)"),
                Patch("(-pairs[..., 1], pairs[..., 0])", "(-pairs[..., 1], -pairs[..., 0])"),
            ),
            "numpy": (Patch(NUMPY_SECOND, NUMPY_SECOND.replace("+", "-")),),
        },
    ),
    Mutant(
        "sine-and-cosine-swapped",
        "Sine and cosine are exchanged: a quarter turn, and wrong at position 0 already.",
        {
            "gpu": (Patch("&sine, &cosine)", "&cosine, &sine)"),),
            "wgsl": (Patch(f"rotation({WGSL_ANGLE})", f"rotation({WGSL_ANGLE}).yx"),),
            "native": (Patch("(x, sine, sine + rotated_ / 2, y)", "(x, sine + rotated_ / 2, sine, y)", times=2),),
            "torch": (
                Patch(
                    "turning * angles.cos() + rotated * angles.sin()", "turning * angles.sin() + rotated * angles.cos()"
                ),
            ),
            "numpy": (Patch("np.cos(angle), np.sin(angle)", "np.sin(angle), np.cos(angle)"),),
        },
    ),
    Mutant(
        "position-one-later",
        "Positions are counted from 1.",
        {
            "gpu": _gpu_angle("pos[row] + 1"),
            "wgsl": _wgsl_angle("pos[row] + 1"),
            "native": _native_angle("pos + 1"),
            "torch": _torch_angle(f"(pos + 1){TORCH_POSITION[3:]}"),
            "numpy": _numpy_angle("pos + 1"),
        },
    ),
    Mutant(
        "position-of-the-first-row",
        "Every row turns by the position of the first: prefill is wrong where single steps are right.",
        {
            "gpu": (Patch("row = head / H;", "row = head / (M * H);"),),
            "wgsl": _wgsl_angle("pos[0]"),
            "native": (Patch("rotation.angles(pos[row],", "rotation.angles(pos[0],"),),
            "torch": _torch_angle(f"pos[:1].expand_as(pos){TORCH_POSITION[3:]}"),
            "numpy": _numpy_angle("np.full_like(pos, pos[0])"),
        },
    ),
    Mutant(
        "position-clamped",
        "Positions are clamped to a table of 4096 rows.",
        {
            "gpu": _gpu_angle("pos[row] < 4096 ? pos[row] : 4095"),
            "wgsl": _wgsl_angle("min(pos[row], 4095)"),
            "native": _native_angle("pos < 4096 ? pos : 4095"),
            "torch": _torch_angle(f"pos.clamp(max=4095){TORCH_POSITION[3:]}"),
            "numpy": _numpy_angle("np.minimum(pos, 4095)"),
        },
    ),
    Mutant(
        "position-in-half-precision",
        "Positions are held with the 11 bits of an f16: right up to 2048.",
        {
            "gpu": (Patch(GPU_ANGLE, "AS_F32(AS_U32((float)pos[row]) & 0xffffe000u) * freq[pair]"),),
            "wgsl": (Patch(WGSL_ANGLE, "bitcast<f32>(bitcast<u32>(f32(pos[row])) & 0xffffe000u) * freq[i]"),),
            "native": _native_angle("pos - 8193.0f * pos + 8193.0f * pos"),
            "torch": _torch_angle("pos.to(torch.float16).to(torch.float32)"),
            "numpy": _numpy_angle("pos.astype(np.float16)"),
        },
    ),
    Mutant(
        "frequency-of-the-next-pair",
        "The index of the frequency is one too large.",
        {
            "gpu": _gpu_angle(frequency="freq[(pair + 1) % ROTATED]"),
            "wgsl": _wgsl_angle(frequency="freq[(i + 1u) % (R / 2u)]"),
            "native": _native_angle(frequency="freq[(i + 1) % (rotated_ / 2)]"),
            "torch": _torch_angle(frequency="freq.roll(-1)"),
            "numpy": _numpy_angle(frequency="np.roll(freq, -1)"),
        },
    ),
    Mutant(
        "theta-of-another-model",
        "The kernel takes frequencies of its own, with theta = 10000 and no scale.",
        {
            "gpu": _gpu_angle(frequency="EXP(-9.210340372f * (float)pair / (float)ROTATED)"),
            "wgsl": _wgsl_angle(frequency="exp(-9.210340372 * f32(i) / f32(R / 2u))"),
            "native": _native_angle(
                frequency="static_cast<float>(std::exp(-9.210340371976182 * static_cast<double>(2 * i) / rotated_))"
            ),
            "torch": _torch_angle(frequency="10000.0 ** (-torch.arange(len(freq), device=freq.device) / len(freq))"),
            "numpy": _numpy_angle(frequency="(10000.0 ** (-np.arange(len(freq)) / len(freq))).astype(dtype)"),
        },
    ),
    Mutant(
        "linear-scale-ignored",
        "The factor of linear context scaling is lost: the first frequency is 1 whatever it should be.",
        {
            "gpu": _gpu_angle(frequency="(freq[pair] / freq[0])"),
            "wgsl": _wgsl_angle(frequency="(freq[i] / freq[0])"),
            "native": _native_angle(frequency="freq[i] / freq[0]"),
            "torch": _torch_angle(frequency='freq * case["scale"]'),
            "numpy": _numpy_angle(frequency='freq * case["scale"]'),
        },
    ),
    Mutant(
        "last-pair-still",
        "The last pair of a head does not turn: the loop over pairs ends one early.",
        {
            "gpu": _gpu_angle(frequency="(pair + 1 < ROTATED ? freq[pair] : 0.0f)"),
            "wgsl": _wgsl_angle(frequency="select(freq[i], 0.0, i + 1u == R / 2u)"),
            "native": _native_angle(frequency="i + 1 < rotated_ / 2 ? freq[i] : 0.0f"),
            "torch": _torch_angle(frequency="torch.cat((freq[:-1], freq[-1:] * 0))"),
            "numpy": _numpy_angle(frequency="np.append(freq[:-1], freq[-1:] * 0)"),
        },
    ),
    Mutant(
        "rest-zeroed",
        "Where only a part of a head turns, the others are zeroed instead of copied.",
        {
            "gpu": (
                Patch("target[2 * pair] = source[2 * pair];", "target[2 * pair] = 0.0f;"),
                Patch("target[2 * pair + 1] = source[2 * pair + 1];", "target[2 * pair + 1] = 0.0f;"),
            ),
            "wgsl": (
                Patch("y[head + 2u * i] = x[head + 2u * i];", "y[head + 2u * i] = 0.0;"),
                Patch("y[head + 2u * i + 1u] = x[head + 2u * i + 1u];", "y[head + 2u * i + 1u] = 0.0;"),
            ),
            "native": (
                Patch(
                    NATIVE_REST,
                    "std::memset(y + rotated_, 0, sizeof(float) * static_cast<std::size_t>(width_ - rotated_));",
                ),
            ),
            "torch": (Patch("rotated * angles.sin(), rest)", "rotated * angles.sin(), rest * 0)"),),
            "numpy": (Patch(NUMPY_COPY, 'y = x * (np.arange(case["D"]) < case["R"])\n'),),
        },
    ),
    Mutant(
        "rest-turned",
        "The whole head turns although only the first R elements should.",
        {
            "gpu": (
                Patch("#define ROTATED (R / 2)", "#define ROTATED (D / 2)"),
                Patch(GPU_ANGLE, "(float)pos[row] * freq[pair % (R / 2)]"),
            ),
            "wgsl": (
                Patch("if i >= R / 2u {", "if i >= D / 2u {"),
                Patch("second = first + R / 2u;", "second = first + D / 2u;"),
                Patch(WGSL_ANGLE, "f32(pos[row]) * freq[i % (R / 2u)]"),
            ),
            "native": (
                Patch(
                    NATIVE_REST,
                    "for (std::int64_t d = rotated_; d < width_; d += 2) {\n"
                    "                const std::int64_t i = d / 2 % (rotated_ / 2);\n"
                    "                y[d] = x[d] * sine[rotated_ / 2 + i] - x[d + 1] * sine[i];\n"
                    "                y[d + 1] = x[d + 1] * sine[rotated_ / 2 + i] + x[d] * sine[i];\n"
                    "            }",
                ),
            ),
            "torch": (
                Patch('x[..., : case["R"]], x[..., case["R"] :]', "x, x[..., :0]"),
                *_torch_angle(frequency='freq[torch.arange(case["D"] // 2, device=freq.device) % len(freq)]'),
            ),
            "numpy": (
                *_numpy_angle(frequency='np.resize(freq, case["D"] // 2)'),
                Patch(
                    "first, second = self._pairs(case)\n        y = ",
                    'first, second = self._pairs(self.case(**{**dict(case.params), "R": case["D"]}))\n        y = ',
                ),
            ),
        },
    ),
    Mutant(
        "last-head-still",
        "The last head of a row is copied instead of turned.",
        {
            "gpu": (Patch("if (pair >= ROTATED) {", "if (pair >= ROTATED || head % H == H - 1) {"),),
            "wgsl": (Patch("if i >= R / 2u {", "if i >= R / 2u || head / D % H == H - 1u {"),),
            "native": (
                Patch(
                    NATIVE_TURN,
                    "if (at + 1 < (row + 1) * heads)\n                    "
                    f"{NATIVE_TURN}\n                else\n                    "
                    "std::memcpy(y + at * width, x + at * width, sizeof(float) * static_cast<std::size_t>(width));",
                ),
            ),
            "torch": (
                Patch(
                    TORCH_RESULT,
                    f"{TORCH_RESULT.replace('return [', 'y = ')[:-1]}\n    y[:, -1] = x[:, -1]\n    return [y]",
                ),
            ),
            "numpy": (
                Patch(
                    f"{NUMPY_SECOND}        return [y]",
                    f"{NUMPY_SECOND}        y[:, -1] = x[:, -1]\n        return [y]",
                ),
            ),
        },
    ),
    Mutant(
        "turned-in-place",
        "The second element of a pair is computed from the first after it was turned.",
        {
            "gpu": (Patch(GPU_SECOND, GPU_SECOND.replace("source[low]", "target[low]")),),
            "wgsl": (Patch(WGSL_SECOND, WGSL_SECOND.replace("x1", "y[first]")),),
            "native": (
                Patch("mul(first, s))", "mul(load(y + i, tail), s))"),
                Patch("second * cosine[i] + first * sine[i]", "second * cosine[i] + y[2 * i] * sine[i]"),
            ),
            "numpy": (Patch(NUMPY_SECOND, NUMPY_SECOND.replace("x[..., first]", "y[..., first]")),),
        },
    ),
    Mutant(
        "cosines-in-half-precision",
        "Cosines come from a table of halves: 11 bits of them.",
        {
            "gpu": (Patch("&sine, &cosine);", "&sine, &cosine);\n    cosine = AS_F32(AS_U32(cosine) & 0xffffe000u);"),),
            "wgsl": (
                Patch(
                    f"let cs = rotation({WGSL_ANGLE});",
                    f"var cs = rotation({WGSL_ANGLE});\n    cs.x = bitcast<f32>(bitcast<u32>(cs.x) & 0xffffe000u);",
                ),
            ),
            "native": (
                Patch(
                    NATIVE_COSINE,
                    f"{NATIVE_COSINE}\n            cosine[i] = cosine[i] - 8193.0f * cosine[i] + 8193.0f * cosine[i];",
                ),
            ),
            "torch": (Patch("angles.cos()", "angles.cos().half().float()"),),
            "numpy": (Patch("np.cos(angle), np.sin", "np.cos(angle).astype(np.float16).astype(dtype), np.sin"),),
        },
    ),
    Mutant(
        "reduction-with-a-short-pi",
        "Angles are reduced by a pi of few digits: right near position 0, wrong far away.",
        {
            "gpu": (Patch("1.570796371f, angle", "1.5708f, angle", file="prelude/angle.cu"),),
            "wgsl": (Patch("0xbe60db93u", "0xbe600000u", file="prelude/angle.wgsl"),),
            "native": (Patch("angle - turns * 1.57079632679489661923", "angle - turns * 1.5708"),),
            "torch": (Patch(TORCH_ANGLE, f"torch.remainder({TORCH_ANGLE}, 6.2832)"),),
            "numpy": (Patch(NUMPY_ANGLE, f"np.remainder({NUMPY_ANGLE}, 6.2832)"),),
        },
    ),
)
