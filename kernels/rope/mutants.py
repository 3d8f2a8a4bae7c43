"""Wrong rope kernels: convention, sign, position, frequencies, partial rotation, the reduction of the angle."""

from kparity.ops.mutant import Mutant, Patch


def _native_angle(position: str = "pos", frequency: str = "freq[i]") -> tuple[str, str]:
    return f"position = static_cast<float>(«pos→{position}»);", f"angle = position * «freq[i]→({frequency})»;"


def _numpy_angle(position: str = "pos", frequency: str = "freq") -> str:
    return f"(«pos→({position})».astype(dtype)[:, None] * «freq→({frequency})»[None, :])"


MUTANTS = {
    "convention-swapped": Mutant(
        "NEOX where interleaved is meant, and the reverse: gibberish after a few tokens, and right at position 0.",
        gpu="#if «→!»NEOX",
        wgsl="if NEOX == «1u→0u»",
        native="if («→!»neox_)",
        torch='case["mode"] «=→!»= "neox"',
        numpy='if case["mode"] «=→!»= "neox" else',
    ),
    "turned-backwards": Mutant(
        "The sine has the wrong sign in both halves: every pair turns the other way.",
        gpu=("source[low] * cosine «-→+» source[high] * sine;", "source[high] * cosine «+→-» source[low] * sine;"),
        wgsl=("x1 * cs.x «-→+» x2 * cs.y;", "x2 * cs.x «+→-» x1 * cs.y;"),
        native=_native_angle("-pos"),
        torch="torch.outer(«→-»pos.to(torch.float32), freq)",
        numpy=_numpy_angle("-pos"),
    ),
    "one-sine-negated": Mutant(
        "The sine has the wrong sign in the second element of each pair only: not a rotation any more.",
        gpu="source[high] * cosine «+→-» source[low] * sine;",
        wgsl="x2 * cs.x «+→-» x1 * cs.y;",
        native=("«add→sub»(mul(second, c), mul(first, s))", "second * cosine[i] «+→-» first * sine[i]"),
        torch=("torch.cat((-right, «→-»left)", "(-pairs[..., 1], «→-»pairs[..., 0])"),
        numpy="x[..., second] * cos «+→-» x[..., first] * sin\n",
    ),
    "sine-and-cosine-swapped": Mutant(
        "Sine and cosine are exchanged: a quarter turn, and wrong at position 0 already.",
        gpu="&«sine, &cosine→cosine, &sine»)",
        wgsl="rotation(f32(pos[row]) * freq[i])«→.yx»",
        native=Patch("(x«, sine→», sine + rotated_ / 2, «→sine, »y)", times=2),
        torch="turning * angles.«cos→sin»() + rotated * angles.«sin→cos»()",
        numpy="np.«cos→sin»(angle), np.«sin→cos»(angle)",
    ),
    "position-one-later": Mutant(
        "Positions are counted from 1.",
        gpu="(float)«pos[row]→(pos[row] + 1)» * freq[pair]",
        wgsl="f32(pos[row]«→ + 1») * freq[i]",
        native=_native_angle("pos + 1"),
        torch="torch.outer(«pos→(pos + 1)».to(torch.float32), freq)",
        numpy=_numpy_angle("pos + 1"),
    ),
    "position-of-the-first-row": Mutant(
        "Every row turns by the position of the first: prefill is wrong where single steps are right.",
        gpu="row = head / «H→(M * H)»;",
        wgsl="f32(pos[«row→0»]) * freq[i]",
        native="rotation.angles(pos[«row→0»],",
        torch="torch.outer(pos«→[:1].expand_as(pos)».to(torch.float32), freq)",
        numpy=_numpy_angle("np.full_like(pos, pos[0])"),
    ),
    "position-clamped": Mutant(
        "Positions are clamped to a table of 4096 rows.",
        gpu="(float)«pos[row]→(pos[row] < 4096 ? pos[row] : 4095)» * freq[pair]",
        wgsl="f32(«pos[row]→min(pos[row], 4095)») * freq[i]",
        native=_native_angle("pos < 4096 ? pos : 4095"),
        torch="torch.outer(pos«→.clamp(max=4095)».to(torch.float32), freq)",
        numpy=_numpy_angle("np.minimum(pos, 4095)"),
    ),
    "position-in-half-precision": Mutant(
        "Positions are held with the 11 bits of an f16: right up to 2048.",
        gpu="«→AS_F32(AS_U32(»(float)pos[row]«→) & 0xffffe000u)» * freq[pair]",
        wgsl="«f32(pos[row])→bitcast<f32>(bitcast<u32>(f32(pos[row])) & 0xffffe000u)» * freq[i]",
        native=_native_angle("pos - 8193.0f * pos + 8193.0f * pos"),
        torch="torch.outer(pos«→.to(torch.float16)».to(torch.float32), freq)",
        numpy=_numpy_angle("pos.astype(np.float16)"),
    ),
    "frequency-of-the-next-pair": Mutant(
        "The index of the frequency is one too large.",
        gpu="(float)«pos[row] * freq[pair]→(pos[row]) * freq[(pair + 1) % ROTATED]»",
        wgsl="f32(pos[row]) * freq[«i→(i + 1u) % (R / 2u)»]",
        native=_native_angle(frequency="freq[(i + 1) % (rotated_ / 2)]"),
        torch="torch.outer(pos.to(torch.float32), freq«→.roll(-1)»)",
        numpy=_numpy_angle(frequency="np.roll(freq, -1)"),
    ),
    "theta-of-another-model": Mutant(
        "The kernel takes frequencies of its own, with theta = 10000 and no scale.",
        gpu="(float)«pos[row] * freq[pair]→(pos[row]) * EXP(-9.210340372f * (float)pair / (float)ROTATED)»",
        wgsl="f32(pos[row]) * «freq[i]→exp(-9.210340372 * f32(i) / f32(R / 2u))»",
        native=_native_angle(
            frequency="static_cast<float>(std::exp(-9.210340371976182 * static_cast<double>(2 * i) / rotated_))"
        ),
        torch="(pos.to(torch.float32), «freq→10000.0 ** (-torch.arange(len(freq), device=freq.device) / len(freq))»)",
        numpy=_numpy_angle(frequency="(10000.0 ** (-np.arange(len(freq)) / len(freq))).astype(dtype)"),
    ),
    "linear-scale-ignored": Mutant(
        "The factor of linear context scaling is lost: the first frequency is 1 whatever it should be.",
        gpu="(float)«pos[row] * freq[pair]→(pos[row]) * (freq[pair] / freq[0])»",
        wgsl="f32(pos[row]) * «freq[i]→(freq[i] / freq[0])»",
        native=_native_angle(frequency="freq[i] / freq[0]"),
        torch='torch.outer(pos.to(torch.float32), freq«→ * case["scale"]»)',
        numpy=_numpy_angle(frequency='freq * case["scale"]'),
    ),
    "last-pair-still": Mutant(
        "The last pair of a head does not turn: the loop over pairs ends one early.",
        gpu="(float)«pos[row] * freq[pair]→(pos[row]) * (pair + 1 < ROTATED ? freq[pair] : 0.0f)»",
        wgsl="f32(pos[row]) * «freq[i]→select(freq[i], 0.0, i + 1u == R / 2u)»",
        native=_native_angle(frequency="i + 1 < rotated_ / 2 ? freq[i] : 0.0f"),
        torch="torch.outer(pos.to(torch.float32), «freq→torch.cat((freq[:-1], freq[-1:] * 0))»)",
        numpy=_numpy_angle(frequency="np.append(freq[:-1], freq[-1:] * 0)"),
    ),
    "rest-zeroed": Mutant(
        "Where only a part of a head turns, the others are zeroed instead of copied.",
        gpu=("target[2 * pair] = «source[2 * pair]→0.0f»;", "target[2 * pair + 1] = «source[2 * pair + 1]→0.0f»;"),
        wgsl=("y[head + 2u * i] = «x[head + 2u * i]→0.0»;", "y[head + 2u * i + 1u] = «x[head + 2u * i + 1u]→0.0»;"),
        native="std::«memcpy→memset»(y + rotated_, «x + rotated_→0», sizeof(float) * static_cast<std::size_t>(width_ -",
        torch="rotated * angles.sin(), rest«→ * 0»)",
        numpy='y = x«.copy()→ * (np.arange(case["D"]) < case["R"])»\n',
    ),
    "rest-turned": Mutant(
        "The whole head turns although only the first R elements should.",
        gpu=("#define ROTATED («R→D» / 2)", "(float)pos[row] * freq[pair«→ % (R / 2)»]"),
        wgsl=("if i >= «R→D» / 2u {", "second = first + «R→D» / 2u;", "f32(pos[row]) * freq[i«→ % (R / 2u)»]"),
        native=(
            "«std::memcpy(y + rotated_, x + rotated_, sizeof(float) * static_cast<std::size_t>(width_ - rotated_));→"
            "for (std::int64_t d = rotated_; d < width_; d += 2) {\n"
            "                const std::int64_t i = d / 2 % (rotated_ / 2);\n"
            "                y[d] = x[d] * sine[rotated_ / 2 + i] - x[d + 1] * sine[i];\n"
            "                y[d + 1] = x[d + 1] * sine[rotated_ / 2 + i] + x[d] * sine[i];\n"
            "            }»"
        ),
        torch=(
            'x«[..., : case["R"]], x[..., case["R"] :]→, x[..., :0]»',
            'torch.outer(pos.to(torch.float32), freq«→[torch.arange(case["D"] // 2, device=freq.device) % len(freq)]»)',
        ),
        numpy=(
            _numpy_angle(frequency='np.resize(freq, case["D"] // 2)'),
            'first, second = self._pairs(«case→self.case(**{**dict(case.params), "R": case["D"]})»)\n        y = ',
        ),
    ),
    "last-head-still": Mutant(
        "The last head of a row is copied instead of turned.",
        gpu="if (pair >= ROTATED«→ || head % H == H - 1») {",
        wgsl="if i >= R / 2u «→|| head / D % H == H - 1u »{",
        native=(
            "«→if (at + 1 < (row + 1) * heads)\n"
            "                    »rotation.turn(x + at * width, sine, y + at * width);«→\n"
            "                else\n"
            "                    std::memcpy(y + at * width, x + at * width, sizeof(float) * "
            "static_cast<std::size_t>(width));»"
        ),
        torch=(
            "«return [→y = »torch.cat((turning * angles.cos() + rotated * angles.sin(), rest), dim=-1)«→\n"
            "    y[:, -1] = x[:, -1]\n"
            "    return [y»]"
        ),
        numpy="x[..., second] * cos + x[..., first] * sin\n«→        y[:, -1] = x[:, -1]\n»        return [y]",
    ),
    "turned-in-place": Mutant(
        "The second element of a pair is computed from the first after it was turned.",
        gpu="source[high] * cosine + «source→target»[low] * sine;",
        wgsl="x2 * cs.x + «x1→y[first]» * cs.y;",
        native=("mul(«first→load(y + i, tail)», s))", "second * cosine[i] + «first→y[2 * i]» * sine[i]"),
        numpy="x[..., second] * cos + «x→y»[..., first] * sin\n",
    ),
    "cosines-in-half-precision": Mutant(
        "Cosines come from a table of halves: 11 bits of them.",
        gpu="&sine, &cosine);«→\n    cosine = AS_F32(AS_U32(cosine) & 0xffffe000u);»",
        wgsl=(
            "«let→var» cs = rotation(f32(pos[row]) * freq[i]);«→\n"
            "    cs.x = bitcast<f32>(bitcast<u32>(cs.x) & 0xffffe000u);»"
        ),
        native=" -second : second);«→\n            cosine[i] = cosine[i] - 8193.0f * cosine[i] + 8193.0f * cosine[i];»",
        torch="angles.cos()«→.half().float()»",
        numpy="np.cos(angle)«→.astype(np.float16).astype(dtype)», np.sin",
    ),
    "reduction-with-a-short-pi": Mutant(
        "Angles are reduced by a pi of few digits: right near position 0, wrong far away.",
        gpu=Patch("«1.570796371f→1.5708f», angle", file="prelude/angle.cu"),
        wgsl=Patch("«0xbe60db93u→0xbe600000u»", file="prelude/angle.wgsl"),
        native="angle - turns * «1.57079632679489661923→1.5708»",
        torch="«→torch.remainder(»torch.outer(pos.to(torch.float32), freq)«→, 6.2832)»",
        numpy="«→np.remainder(»(pos.astype(dtype)[:, None] * freq[None, :])«→, 6.2832)»",
    ),
}
