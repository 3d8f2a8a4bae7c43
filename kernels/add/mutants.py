"""Wrong kernels of add: each must be rejected by a case of the op."""

from __future__ import annotations

from kparity.ops.mutant import Mutant, Patch

MUTANTS = (
    Mutant(
        "difference",
        "a - b.",
        {
            "gpu": (Patch("a[at] + b[at]", "a[at] - b[at]"),),
            "wgsl": (Patch("a[at] + b[at]", "a[at] - b[at]"),),
            "native": (Patch("add(load(a + i, tail)", "sub(load(a + i, tail)"),),
            "torch": (Patch("torch.add(", "torch.sub("),),
            "numpy": (Patch("inputs[0].astype(dtype) + ", "inputs[0].astype(dtype) - "),),
        },
    ),
    Mutant(
        "tail-skipped",
        "The elements behind the last whole group of 64 are not written (zeros where the output is a new array).",
        {
            "gpu": (Patch("at < M * D", "at < M * D / BLOCK * BLOCK"),),
            "wgsl": (Patch("at < M * D", "at < M * D / BLOCK * BLOCK"),),
            "native": (Patch("each(part.begin, part.end,", "each(part.begin, part.end / 64 * 64,"),),
            "torch": (
                Patch(
                    "    return [",
                    "    count = inputs[0].numel()\n"
                    "    kept = (torch.arange(count) < count // 64 * 64).view_as(inputs[0])\n    return [",
                ),
                Patch("torch.add(inputs[0], inputs[1])", "torch.add(inputs[0], inputs[1]) * kept"),
            ),
            "numpy": (
                Patch(
                    "        return [inputs[0].astype",
                    '        count = case["M"] * case["D"]\n'
                    '        kept = (np.arange(count) < count // 64 * 64).reshape(case["M"], -1)\n'
                    "        return [inputs[0].astype",
                ),
                Patch(
                    "inputs[0].astype(dtype) + inputs[1].astype(dtype)",
                    "(inputs[0].astype(dtype) + inputs[1].astype(dtype)) * kept",
                ),
            ),
        },
    ),
    Mutant(
        "row-0-for-all",
        "The first row of b is added to every row: right for one row, wrong for a batch.",
        {
            "gpu": (Patch("b[at]", "b[at % D]"),),
            "wgsl": (Patch("b[at]", "b[at % D]"),),
            "native": (
                Patch(
                    'count(d.integer("M") * d.integer("D"))',
                    'count(d.integer("M") * d.integer("D")), width(d.integer("D"))',
                ),
                Patch("std::int64_t count;", "std::int64_t count, width;"),
                Patch(
                    "            store(y + i",
                    "            float second[W];\n"
                    "            for (int lane = 0; lane < W; ++lane) second[lane] = b[(i + lane) % width];\n"
                    "            store(y + i",
                ),
                Patch("load(b + i, tail)", "load(second, Full{})"),
            ),
            "torch": (Patch("inputs[1])", "inputs[1][:1])"),),
            "numpy": (Patch("inputs[1].astype(dtype)]", "inputs[1][:1].astype(dtype)]"),),
        },
    ),
    Mutant(
        "second-row-off-by-one",
        "b is read one element further on: the last one of the buffer is read twice.",
        {
            "gpu": (Patch("b[at]", "b[at + 1 < M * D ? at + 1 : at]"),),
            "wgsl": (Patch("b[at]", "b[min(at + 1u, M * D - 1u)]"),),
            "native": (
                Patch(
                    "            store(y + i",
                    "            float second[W];\n"
                    "            for (int lane = 0; lane < W; ++lane) second[lane] = b[least(i + lane + 1, count - "
                    "1)];\n            store(y + i",
                ),
                Patch("load(b + i, tail)", "load(second, Full{})"),
            ),
            "torch": (
                Patch(
                    "inputs[1])",
                    "inputs[1].view(-1)[(torch.arange(inputs[1].numel()) + 1).clamp(max=inputs[1].numel() - "
                    "1)].view_as(inputs[1]))",
                ),
            ),
            "numpy": (
                Patch(
                    "inputs[1].astype(dtype)]",
                    "np.append(inputs[1].ravel()[1:], inputs[1].ravel()[-1]).reshape(inputs[1].shape).astype(dtype)]",
                ),
            ),
        },
    ),
    Mutant(
        "operand-twice",
        "a + a: the second operand is bound to the first one's buffer.",
        {
            "gpu": (Patch("b[at]", "a[at]"),),
            "wgsl": (Patch("b[at]", "select(b[at], a[at], at < M * D)"),),
            "native": (Patch("load(b + i, tail)", "load(a + i, tail)"),),
            "torch": (Patch("inputs[1])", "inputs[0])"),),
            "numpy": (Patch("inputs[1].astype(dtype)]", "inputs[0].astype(dtype)]"),),
        },
    ),
    Mutant(
        "f16-sum",
        "The residual stream is rounded to f16 at every addition.",
        {
            "gpu": (
                Patch(
                    "y[at] = a[at] + b[at];",
                    "u32 half_bits = 0;\n        STORE_F16((f16*)&half_bits, 0, a[at] + b[at]);\n"
                    "        y[at] = LOAD_F16((const f16*)&half_bits, 0);",
                ),
            ),
            "wgsl": (
                Patch(
                    "a[at] + b[at]",
                    "unpack2x16float(pack2x16float(vec2<f32>(clamp(a[at] + b[at], -65504.0, 65504.0), 0.0))).x",
                ),
            ),
            "native": (
                Patch(
                    "            store(y + i",
                    "            Half rounded[W];\n"
                    "            store(rounded, Full{}, add(load(a + i, tail), load(b + i, tail)));\n"
                    "            store(y + i",
                ),
                Patch(
                    "add(load(a + i, tail), load(b + i, tail)));\n        });", "load(rounded, Full{}));\n        });"
                ),
            ),
            "torch": (Patch("torch.add(inputs[0], inputs[1])", "torch.add(inputs[0], inputs[1]).half().float()"),),
            "numpy": (
                Patch(
                    "inputs[0].astype(dtype) + inputs[1].astype(dtype)",
                    "(inputs[0].astype(dtype) + inputs[1].astype(dtype)).astype(np.float16).astype(dtype)",
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
