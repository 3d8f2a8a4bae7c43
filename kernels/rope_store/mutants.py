"""Wrong rope_store kernels: what is turned and what is stored, where, and how it is rounded."""

from kparity.ops.mutant import Mutant, Patch

MUTANTS = {
    "convention-swapped": Mutant(
        "NEOX where interleaved is meant, and the reverse.",
        gpu="#if «→!»NEOX",
        wgsl=Patch("if NEOX == «1u→0u»", times=2),
        native='d.integer("NEOX") «!→=»= 0',
        torch='case["mode"] «=→!»= "neox"',
        numpy='if case["mode"] «=→!»= "neox" else',
    ),
    "position-of-the-first-row": Mutant(
        "Every row turns by the position of the first, and is stored at its own.",
        gpu="(float)«at→pos[0]» * freq[pair]",
        wgsl="e, f32(«position→pos[0]»))",
        native="rotation.angles(pos[«row→0»],",
        torch="torch.outer(pos«→[:1].expand_as(pos)».to",
        numpy="heads[:, : h + g], pos«→[:1]», freq)\n        kcache",
    ),
    "linear-scale-ignored": Mutant(
        "The factor of linear context scaling is lost: the first frequency is 1 whatever it should be.",
        gpu="(float)at * «freq[pair]→(freq[pair] / freq[0])»",
        wgsl=("freq[e % (R / 2u)]«→ / freq[0]»", "freq[(e + 1u) % (R / 2u)]«→ / freq[0]»", "freq[e / 2u]«→ / freq[0]»"),
        native=Patch("position * «freq[i]→(freq[i] / freq[0])»;", file="rope/rope.h"),
        torch='(torch.float32), freq«→ * case["scale"]»)',
        numpy='pos, freq«→ * case["scale"]»)\n        kcache',
    ),
    "values-not-stored": Mutant(
        "The new values never reach the cache.",
        gpu=(
            "«STORE(vcache, target + low, source[low])→(void)target»;",
            "«STORE(vcache, target + high, source[high]);→»",
        ),
        wgsl=(
            "vcache[target_pair] = «narrow_pair(pair.x, pair.y)→vcache[target_pair]»;",
            "vcache[2u * target_pair] = «pair.x→vcache[2u * target_pair]»;",
            "«vcache[2u * target_pair + 1u] = pair.y;→»",
        ),
        native="} else if (stored«→ && head < 0») {",
        torch="((kcache, turned(keys)),« (vcache, values)→»)",
        numpy="«vcache[pos[row]] = heads[row, h + g :].reshape(-1).astype(vcache.dtype)→pass»",
    ),
    "keys-stored-before-they-turn": Mutant(
        "Keys enter the cache as they came: scores no longer depend on the distance.",
        gpu=(
            "STORE(kcache, target + low, «first→source[low]»);",
            "STORE(kcache, target + high, «second→source[high]»);",
        ),
        wgsl="if head < H« + G→» {\n        pair = turned_pair((row * HEADS + head) * D,",
        native=(
            "«rotation.turn(x, sine, turned)→std::memcpy(turned, x, sizeof(float) * static_cast<std::size_t>(width))»;"
        ),
        torch="(kcache, «turned(keys)→keys»)",
        numpy="«turned[row, h:]→heads[row, h : h + g]».reshape(-1).astype(kcache.dtype)",
    ),
    "values-turned-too": Mutant(
        "Values are turned like keys before they are stored.",
        gpu=(
            "if (head >= «H + G→HEADS») {",
            ")at * G + (head - H)«) * D→ % G) * D;\n        GLOBAL ELEMENT* cache = head < H + G ? kcache : vcache»;",
            "STORE(«kcache→cache», target + low, first);",
            "STORE(«kcache→cache», target + high, second);",
        ),
        wgsl="if head < «H + G→HEADS» {\n        pair = turned_pair((row * HEADS + head) * D,",
        native=(
            "«if (part.begin < queries + groups) →»rotation.angles",
            "«place(x→rotation.turn(x, sine, turned);\n                    place(turned», vcache",
        ),
        torch="(vcache, «values→turned(values)»)",
        numpy="«heads→self._turned(case, heads, pos, freq)»[row, h + g :].reshape(-1).astype(vcache.dtype)",
    ),
    "keys-from-the-head-before": Mutant(
        "The offset of the keys in a row of qkv is one head short: the last query head is stored as a key.",
        gpu="qkv + ((u64)row * HEADS + head«→ - (head >= H && head < H + G)») * D;",
        wgsl="turned_pair((row * HEADS + head«→ - u32(head >= H)») * D,",
        native="rotation.turn(x«→ - width», sine, turned);",
        torch='(kcache, turned(«keys→qkv.view(case["M"], h + 2 * g, -1)[:, h - 1 : h + g - 1]»))',
        numpy="turned[row, h«:→ - 1 : -1»].reshape(-1).astype(kcache.dtype)",
    ),
    "stored-one-position-later": Mutant(
        "The cache is written one position after the one that is attended to.",
        gpu=Patch("(u64)«at→(at + 1 < L ? at + 1 : 0)» * G", times=2),
        wgsl="«u32(position)→(u32(position) + 1u) % L» * G",
        native=Patch("«pos[row]→(pos[row] + 1) % capacity» * groups", times=2),
        torch='at = «→(»pos[stored].long()«→ + 1) % case["L"]»\n',
        numpy=("kcache[«pos[row]→(pos[row] + 1) % cap»] =", "vcache[«pos[row]→(pos[row] + 1) % cap»] ="),
    ),
    "padding-stored-at-zero": Mutant(
        "Rows of padding, whose position is negative, overwrite position 0 instead of being skipped.",
        gpu=("«(at < 0 || at >= L)→at >= L»", Patch("(u64)«at→(at < 0 ? 0 : at)» * G", times=2)),
        wgsl=("if« position < 0 ||→» position >= i32(L) {", "u32(«position→max(position, 0)») * G"),
        native=(
            "const bool stored = pos[row] «>= 0 && pos[row] →»< capacity;",
            Patch("«pos[row]→most(pos[row], 0)» * groups", times=2),
        ),
        torch=(
            'stored =« ((pos >= 0) &→» (pos < case["L"])«)→».nonzero()[:, 0]\n',
            "at = pos[stored].long()«→.clamp(min=0)»\n",
        ),
        numpy=(
            "stored = «(pos >= 0) & (pos < cap)→pos < cap»\n",
            "kcache[«pos[row]→max(pos[row], 0)»] =",
            "vcache[«pos[row]→max(pos[row], 0)»] =",
        ),
    ),
    "full-cache-overwrites-its-end": Mutant(
        "Positions beyond the cache are clamped to its last row instead of being skipped.",
        gpu=("«(at < 0 || at >= L)→at < 0»", Patch("(u64)«at→(at < L ? at : L - 1)» * G", times=2)),
        wgsl=("if position < 0 «|| position >= i32(L) →»{", "«u32(position)→min(u32(position), L - 1u)» * G"),
        native=(
            "const bool stored = pos[row] >= 0« && pos[row] < capacity→»;",
            Patch("«pos[row]→least(pos[row], capacity - 1)» * groups", times=2),
        ),
        torch=(
            'stored = («(pos >= 0) & (pos < case["L"])→pos >= 0»).nonzero()[:, 0]\n',
            'at = pos[stored].long()«→.clamp(max=case["L"] - 1)»\n',
        ),
        numpy=(
            "stored = «(pos >= 0) & (pos < cap)→pos >= 0»\n",
            "kcache[«pos[row]→min(pos[row], cap - 1)»] =",
            "vcache[«pos[row]→min(pos[row], cap - 1)»] =",
        ),
    ),
    "truncated-to-half-precision": Mutant(
        "An f16 cache takes the upper bits of what is stored instead of the nearest f16.",
        gpu=Patch("STORE_F16(pointer, at, «value→AS_F32(AS_U32(value) & 0xffffe000u)»)", file="prelude/element.cu"),
        wgsl=Patch(" = (wide + «half - 1u + ((wide >> drop) & 1u)→0u * half») >> drop;", file="prelude/half.wgsl"),
        native=(
            "«each(0, width, [&](std::int64_t i, auto tail) { store(to + i, tail, load(from + i, tail)); });→"
            "for (std::int64_t i = 0; i < width; ++i) {\n"
            "            std::uint32_t bits;\n"
            "            std::memcpy(&bits, from + i, sizeof bits);\n"
            "            if (sizeof(T) == 2) bits &= 0xffffe000u;\n"
            "            float kept;\n"
            "            std::memcpy(&kept, &bits, sizeof bits);\n"
            "            store(to + i, Part{1}, set1(kept));\n"
            "        }»"
        ),
        torch=(
            '«→        if case["dtype"] == "f16":\n'
            "            rows = (rows.contiguous().view(torch.int32) & -8192).view(torch.float32)\n"
            "»        cache[at] ="
        ),
        numpy=(
            "«→(»turned[row, h:].reshape(-1).astype(«→"
            'np.float32).view(np.int32) & (-8192 if case["dtype"] == "f16" else -1)).view(np.float32).astype(»'
            "kcache.dtype)",
            "«→(»heads[row, h + g :].reshape(-1).astype(«→"
            'np.float32).view(np.int32) & (-8192 if case["dtype"] == "f16" else -1)).view(np.float32).astype(»'
            "vcache.dtype)",
        ),
    ),
}
