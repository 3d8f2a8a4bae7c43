"""Wrong kernels of rope_attention: what a group turns, and how it comes by the newest key and value. Those of the
softmax are attention's.
"""

from kparity.ops.mutant import Mutant, Patch

ROPED = "prelude/roped.cu"

MUTANTS = {
    "convention-swapped": Mutant(
        "NEOX where interleaved is meant, and the reverse.",
        gpu=Patch("#if «→!»NEOX", file=ROPED),
    ),
    "queries-not-turned": Mutant(
        "Queries are taken as they come, and meet keys that are turned.",
        gpu="which «<=→==» TILE_H && pair",
    ),
    "newest-key-not-turned": Mutant(
        "The newest key is taken, and stored, as it comes.",
        gpu="which «<=→<» TILE_H && pair",
    ),
    "values-turned-too": Mutant(
        "The newest value is turned like the key.",
        gpu="«which <= TILE_H→1» && pair",
    ),
    "newest-key-of-another-place": Mutant(
        "The key that stands in on the way is not replaced by the newest one.",
        gpu="«            RENEW(keys[ahead], fresh, held(tile, ahead, slot, end));\n→»",
    ),
    "newest-value-of-another-place": Mutant(
        "The value that stands in on the way is not replaced by the newest one.",
        gpu="«            RENEW(values[ahead], fresh + FRESH, held(tile, ahead, slot, end));\n→»",
    ),
    "stored-by-nobody": Mutant(
        "Each group takes another one for the owner of the place: the caches stay as they were.",
        gpu="owner = at >= 0 && «split == 0→split == SPLITS»",
    ),
    "full-cache-overwrites-its-end": Mutant(
        "A position past the end is stored at the end.",
        gpu="const i32 at = pos[row] >= 0 «&& pos[row] < L ? pos[row] : -1→? (pos[row] < L ? pos[row] : L - 1) : -1»;",
    ),
    "place-read-while-it-is-written": Mutant(
        "Groups load the newest key from its place in the caches, where another group is writing it.",
        only="cuda-ptx",
        gpu="#define PLACE(key) («(key) != at ? (key) : at > 0 ? at - 1 : L > 1→key»)",
    ),
    "used-before-all-is-turned": Mutant(
        "Queries are read before every work-item has turned its pairs.",
        only="cuda-ptx",
        gpu="«    ALL_TURNED();\n→»",
    ),
}
