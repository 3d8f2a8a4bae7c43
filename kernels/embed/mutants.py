"""Wrong kernels of embed: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant, Patch

MUTANTS = {
    "next-row": Mutant(
        "The row after the one that is meant.",
        gpu="(u32)ids[m] - (u32)ROW0«→ + 1»;",
        wgsl="let id = ids[row]«→ + 1»;",
        native="ids[row] - row0«→ + 1»;",
        torch='ids.long() - case["row0"]«→ + 1»',
        numpy='ids.astype(np.int64) - case["row0"]«→ + 1»',
    ),
    "row0-ignored": Mutant(
        "A part of a vocabulary that was split over bindings is read as if it began at id 0.",
        gpu="(u32)ids[m]« - (u32)ROW0→»;",
        wgsl="let id = ids[row]«→ + i32(ROW0)»;",
        native="ids[row]« - row0→»;",
        torch='ids.long()« - case["row0"]→»',
        numpy='ids.astype(np.int64)« - case["row0"]→»',
    ),
    "clamped-id": Mutant(
        "An id outside the vocabulary gives its first or last row instead of NaN.",
        gpu="(u32)«ids[m]→(ids[m] < 0 ? 0 : (ids[m] < V ? ids[m] : V - 1))» - ",
        wgsl="let id = «ids[row]→clamp(ids[row], 0, i32(V) - 1)»;",
        native="«→partial ? »ids[row] - row0«→ : least(most(ids[row], 0), rows - 1)»;",
        torch='ids«→.clamp(0, case["V"] - 1)».long()',
        numpy='ids«→.clip(0, case["V"] - 1)».astype(np.int64)',
    ),
    "zeros-for-no-id": Mutant(
        "An id outside the vocabulary gives zeros, which a model goes on with, instead of NaN.",
        gpu="«AS_F32(0x7fc00000u)→0.0f»",
        wgsl="const NAN_BITS: u32 = «0x7fc00000u→0u»;",
        native="«set1(NAN)→zero()»",
        torch="torch.«full_like(rows, torch.nan)→zeros_like(rows)»",
        numpy='np.«full→zeros»((case["M"], case["D"]), «np.nan, →»dtype)',
    ),
    "subnormals-flushed": Mutant(
        "Subnormal f16 weights become zero, as conversions of some devices and unpack2x16float make them.",
        gpu=Patch(
            ", at) «→((AS_U32(»LOAD_F16(pointer, at)«→) & 0x7fffffffu) < 0x38800000u ? 0.0f : LOAD_F16(pointer, at))»",
            file="prelude/element.cu",
        ),
        wgsl="sign« | bitcast<u32>(f32(fraction) * 5.9604644775390625e-8)→»",
        native=(
            "«store(to + i, tail, load(from + i, tail))→"
            "const F value = load(from + i, tail), least = set1(f16 ? 0x1p-14f : 0.0f); store(to + i, tail, "
            "pick_negative(sub(sub(zero(), neg_abs(value)), least), zero(), value))»;"
        ),
        torch="«→    rows = torch.where(rows.abs() < torch.finfo(table.dtype).tiny, 0.0, rows)\n»    rest = inputs",
        numpy="«→        table = np.where(np.abs(table) < np.finfo(table.dtype).tiny, 0, table)\n»        x[here] = ",
    ),
    "tail-of-the-row": Mutant(
        "The columns behind the last 64 (or vector) that are whole are not written.",
        gpu="d < D«→ / 64 * 64»; d += BLOCK) {\n            target[d] = LOAD",
        wgsl="pair < D / «2u→64u * 32u»; pair",
        native="each(part.begin, part.end«→ / 64 * 64»,\n",
        torch='torch.where(here[:, None], rows«→ * (torch.arange(case["D"]) < case["D"] // 64 * 64)»,',
        numpy='x[here«→, : case["D"] // 64 * 64»] = table[local[here]«→, : case["D"] // 64 * 64»].astype(dtype)',
    ),
    "first-id-for-all": Mutant(
        "Every row of the batch is that of the first id: a batch of one cannot see it.",
        gpu="(u32)ids[«m→0»]",
        wgsl="let id = ids[«row→0»];",
        native="ids[«row→0»] - row0",
        torch="ids«→[:1].expand_as(ids)».long()",
        numpy="«ids→np.full_like(ids, ids[0])».astype(np.int64)",
    ),
    "other-parts-overwritten": Mutant(
        "A launch over one part of the vocabulary overwrites what the launches over the other parts wrote.",
        gpu="#if «ROWS == V→1»",
        wgsl="!here && ROWS «<→>» V",
        native="} else «if (!partial) →»{",
        torch='«inputs[2] if case["rows"] < case["V"] else →»torch',
        numpy="«inputs[2].astype(dtype) if partial else →»np",
    ),
}
