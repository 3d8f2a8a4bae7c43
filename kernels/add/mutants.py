"""Wrong kernels of add: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant

MUTANTS = {
    "difference": Mutant(
        "a - b.",
        gpu="a[at] «+→-» b[at]",
        wgsl="a[at] «+→-» b[at]",
        native="«add→sub»(load(a + i, tail)",
        torch="torch.«add→sub»(",
        numpy="inputs[0].astype(dtype) «+→-» ",
    ),
    "tail-skipped": Mutant(
        "The elements behind the last whole group of 64 are not written (zeros where the output is a new array).",
        gpu="at < M * D«→ / BLOCK * BLOCK»",
        wgsl="at < M * D«→ / BLOCK * BLOCK»",
        native="each(part.begin, part.end«→ / 64 * 64»,",
        torch=(
            "«→    count = inputs[0].numel()\n"
            "    kept = (torch.arange(count) < count // 64 * 64).view_as(inputs[0])\n"
            "»    return [",
            "torch.add(inputs[0], inputs[1])«→ * kept»",
        ),
        numpy=(
            '«→        count = case["M"] * case["D"]\n'
            '        kept = (np.arange(count) < count // 64 * 64).reshape(case["M"], -1)\n'
            "»        return [inputs[0].astype",
            "«→(»inputs[0].astype(dtype) + inputs[1].astype(dtype)«→) * kept»",
        ),
    ),
    "row-0-for-all": Mutant(
        "The first row of b is added to every row: right for one row, wrong for a batch.",
        gpu="b[at«→ % D»]",
        wgsl="b[at«→ % D»]",
        native=(
            'count(d.integer("M") * d.integer("D"))«→, width(d.integer("D"))»',
            "std::int64_t count«→, width»;",
            "«→            float second[W];\n"
            "            for (int lane = 0; lane < W; ++lane) second[lane] = b[(i + lane) % width];\n"
            "»            store(y + i",
            "load(«b + i, tail→second, Full{}»)",
        ),
        torch="inputs[1]«→[:1]»)",
        numpy="inputs[1]«→[:1]».astype(dtype)]",
    ),
    "second-row-off-by-one": Mutant(
        "b is read one element further on: the last one of the buffer is read twice.",
        gpu="b[at«→ + 1 < M * D ? at + 1 : at»]",
        wgsl="b[«at→min(at + 1u, M * D - 1u)»]",
        native=(
            "«→            float second[W];\n"
            "            for (int lane = 0; lane < W; ++lane) second[lane] = b[least(i + lane + 1, count - 1)];\n"
            "»            store(y + i",
            "load(«b + i, tail→second, Full{}»)",
        ),
        torch=(
            "inputs[1]«→.view(-1)"
            "[(torch.arange(inputs[1].numel()) + 1).clamp(max=inputs[1].numel() - 1)].view_as(inputs[1])»)"
        ),
        numpy="«inputs[1]→np.append(inputs[1].ravel()[1:], inputs[1].ravel()[-1]).reshape(inputs[1].shape)».astype(",
    ),
    "operand-twice": Mutant(
        "a + a: the second operand is bound to the first one's buffer.",
        gpu="«b→a»[at]",
        wgsl="«b[at]→select(b[at], a[at], at < M * D)»",
        native="load(«b→a» + i, tail)",
        torch="inputs[«1→0»])",
        numpy="inputs[«1→0»].astype(dtype)]",
    ),
    "f16-sum": Mutant(
        "The residual stream is rounded to f16 at every addition.",
        gpu=(
            "«y[at] = a[at] + b[at]→u32 half_bits = 0;\n"
            "        STORE_F16((f16*)&half_bits, 0, a[at] + b[at]);\n"
            "        y[at] = LOAD_F16((const f16*)&half_bits, 0)»;"
        ),
        wgsl=(
            "«a[at] + b[at]→unpack2x16float(pack2x16float(vec2<f32>(clamp(a[at] + b[at], -65504.0, 65504.0), 0.0))).x»"
        ),
        native=(
            "«→            Half rounded[W];\n"
            "            store(rounded, Full{}, add(load(a + i, tail), load(b + i, tail)));\n"
            "»            store(y + i",
            "«add(load(a + i, tail), load(b + i, tail))→load(rounded, Full{})»);\n        });",
        ),
        torch="torch.add(inputs[0], inputs[1])«→.half().float()»",
        numpy="«→(»inputs[0].astype(dtype) + inputs[1].astype(dtype)«→).astype(np.float16).astype(dtype)»",
    ),
    "grid-not-folded": Mutant(
        "The second dimension of a folded grid is ignored: elements past 65535 groups stay unwritten.",
        gpu="«GROUP_FOLDED→GROUP_X» * BLOCK",
        wgsl="«place_of(item)→item.group.x * BLOCK + item.local.x»",
    ),
}
