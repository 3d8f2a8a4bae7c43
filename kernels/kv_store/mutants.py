"""Wrong kernels of kv_store: each must be rejected by a case of the op."""

from kparity.ops.mutant import Mutant, Patch

HALF, ELEMENT = "prelude/half.wgsl", "prelude/element.cu"

MUTANTS = {
    "next-position": Mutant(
        "Keys and values go to the position after their own: attention sees the poison of an unwritten place.",
        gpu="(u64)«at→((at + 1) % L)» * D",
        wgsl="«u32(row)→(u32(row) + 1u) % L» * (D / 2u)",
        native="cache + «pos[row]→(pos[row] + 1) % capacity» * width",
        torch='at = «→(»pos[stored].long()«→ + 1) % case["L"]»',
        numpy='cache[«at→(at + 1) % case["L"]»] = ',
    ),
    "padding-at-0": Mutant(
        "A row of padding (position -1) overwrites the first position.",
        gpu="const i32 at = pos[row]«→ < 0 ? 0 : pos[row]»;",
        wgsl="let row = «→max(»pos[at / (D / 2u)]«→, 0)»;",
        native=("«pos[row] < 0 || →»", "cache + «pos[row]→most(pos[row], 0)» * width"),
        torch=('«(pos >= 0) & (→»pos < case["L"]«)→»', "pos[stored].long()«→.clamp(min=0)»"),
        numpy=('«0 <= →»at < case["L"]', "cache[«at→max(at, 0)»] = "),
    ),
    "full-cache-wraps": Mutant(
        "A position past the end of the cache overwrites one from its beginning.",
        gpu="const i32 at = pos[row]«→ < 0 ? -1 : pos[row] % L»;",
        wgsl="let row = pos[at / (D / 2u)]«→ % i32(L)»;",
        native=("« || pos[row] >= capacity→»", "cache + pos[row] «→% capacity »* width"),
        torch=('«(pos >= 0) & (pos < case["L"])→pos >= 0»', 'pos[stored].long()«→ % case["L"]»'),
        numpy=('0 <= at« < case["L"]→»', 'cache[at«→ % case["L"]»] = '),
    ),
    "keys-and-values-swapped": Mutant(
        "Values go to the cache of the keys, keys to that of the values.",
        gpu="GLOBAL const float* RESTRICT «k→v», GLOBAL const float* RESTRICT «v→k»",
        wgsl=("@binding(«0→1») var<storage, read> k:", "@binding(«1→0») var<storage, read> v:"),
        native=Patch("(args[«→1 - »side], ", times=2),
        torch="((kcache, «k→v»), (vcache, «v→k»))",
        numpy="zip(caches, («k, v→v, k»),",
    ),
    "row-for-position": Mutant(
        "A row of the chunk is stored at its number in the chunk, not at its position: right for the first chunk only.",
        gpu="(u64)«at→row» * D",
        wgsl="«u32(row) * (D / 2u) + at % (D / 2u)→at»",
        native="cache + «pos[row]→row» * width",
        torch="at = «pos[stored].long()→stored»",
        numpy="cache[«at→m»] = ",
    ),
    "truncated-to-f16": Mutant(
        "Bits that f16 does not have are cut off instead of rounded to nearest even.",
        gpu=Patch("STORE_F16(pointer, at, «value→AS_F32(AS_U32(value) & 0xffffe000u)»)", file=ELEMENT),
        wgsl=Patch("«(wide + half - 1u + ((wide >> drop) & 1u))→wide» >> drop", file=HALF),
        native=(
            "                «store(to + i, tail, load(from + row * width + i, tail))→float lanes[W];\n"
            "                store(lanes, Full{}, load(from + row * width + i, tail));\n"
            "                for (float& lane : lanes) {\n"
            "                    std::uint32_t bits;\n"
            "                    std::memcpy(&bits, &lane, sizeof bits);\n"
            "                    bits &= f16 ? 0xffffe000u : 0xffffffffu;\n"
            "                    std::memcpy(&lane, &bits, sizeof bits);\n"
            "                }\n"
            "                store(to + i, tail, load(lanes, Full{}))»;"
        ),
        torch=(
            '«rows[stored]→(rows[stored].view(torch.int32) & (-8192 if case["dtype"] == "f16" else '
            "-1)).view(torch.float32)».to("
        ),
        numpy='«rows[m]→(rows[m].view(np.int32) & (-8192 if case["dtype"] == "f16" else -1)).view(np.float32)».astype(',
    ),
    "overflow-saturates": Mutant(
        "What exceeds f16 becomes 65504 instead of an infinity.",
        gpu=Patch(
            "F16(pointer, at, «value→(value) > 65504.0f ? 65504.0f : ((value) < -65504.0f ? -65504.0f : (value))»)",
            file=ELEMENT,
        ),
        wgsl=Patch("sign | «0x7c00u→0x7bffu»;", file=HALF),
        native=(
            "«→                const F limit = set1(f16 ? 65504.0f : INFINITY);\n"
            "»                store(to + i, tail, "
            "«→max(sub(zero(), limit), min(limit, »load(from + row * width + i, tail)«→))»);"
        ),
        torch="rows[stored].«→clamp(torch.finfo(cache.dtype).min, torch.finfo(cache.dtype).max).»to(",
        numpy="rows[m].«→clip(np.finfo(cache.dtype).min, np.finfo(cache.dtype).max).»astype(",
    ),
    "subnormals-flushed": Mutant(
        "What is below the smallest normal f16 becomes zero.",
        gpu=Patch(
            "STORE_F16(pointer, at, «value→(AS_U32(value) & 0x7fffffffu) < 0x38800000u ? 0.0f : (value)»)", file=ELEMENT
        ),
        wgsl=Patch("if shift > «24u→0u» {", file=HALF),
        native=(
            "                «store(to + i, tail, load(from + row * width + i, tail))→"
            "const F value = load(from + row * width + i, tail), tiny = set1(f16 ? 0x1p-14f : 0.0f);\n"
            "                store(to + i, tail, "
            "pick_negative(sub(sub(zero(), neg_abs(value)), tiny), zero(), value))»;"
        ),
        torch="«→        rows = torch.where(rows.abs() < torch.finfo(cache.dtype).tiny, 0.0, rows)\n»        cache[at]",
        numpy=(
            '«→        if case["dtype"] == "f16":\n'
            "            k, v = (np.where(np.abs(rows) < 2.0**-14, 0, rows) for rows in (k, v))\n"
            "»        caches = [cache.copy()"
        ),
    ),
}
