"""Wrong kernels of norm_tgemv: what a group gets wrong where it norms the row for itself. Those of the product are
tgemv's.
"""

from kparity.ops.mutant import Mutant, Patch

NORMED = "prelude/normed.cu"

MUTANTS = {
    "second-input-forgotten": Mutant(
        "h is the first input alone: the block's own output is lost.",
        gpu=Patch("value[i][j] = value[i][j]« + more[j]→»;", file=NORMED),
    ),
    "residual-not-written": Mutant(
        "No group stores h: the residual stream goes on with what the buffer held.",
        gpu=Patch("if («GROUP_X == 0→0»)", file=NORMED),
    ),
    "gain-forgotten": Mutant(
        "The row is normed, and not multiplied by the weight of the norm.",
        gpu=Patch("value[i][j] * inverse_root« * gains[j]→»", file=NORMED),
    ),
    "last-turn-dropped": Mutant(
        "Work-items for whom the last turn is one of a part of the group are left out.",
        gpu=Patch("#define TURNS («(NORM_BLOCK + BLOCK - 1) / BLOCK→NORM_BLOCK > BLOCK ? NORM_BLOCK / BLOCK : 1»)",
                  file=NORMED),
    ),
    "counted-twice": Mutant(
        "Who stands for nobody in the last turn takes the elements of others, which count twice in the sums.",
        gpu=Patch("(«STANDS_FOR((i) / EACH) < NORM_BLOCK→1» ?", file=NORMED),
    ),
    "excess-forgotten": Mutant(
        "The sum of the codes, by which the products are too large, is not subtracted.",
        gpu="excess[slot] = «excess[0]→0»;",
    ),
    "codes-not-turned": Mutant(
        "Codes lie in local memory in the order of the row, not of the pieces that the products read.",
        gpu="[(«piece % 4 * PITCH + piece / 4→piece / 4 * 4 + piece % 4») * 4",
    ),
    "padding-uncleared": Mutant(
        "Behind the end of the row stand the codes of its last elements.",
        gpu=Patch("const i32 code = «QUAD(i) < D / 4 ? code_of(value[i][j] * factor) : 0→"
                  "code_of((QUAD(i) < D / 4 ? value[i][j] : value[0][j]) * factor)»;", file=NORMED),
    ),
    "products-begin-early": Mutant(
        "Products begin before the whole row is in local memory.",
        only="cuda-ptx",
        gpu="«BARRIER();→»\n        ISSUED(); /* no product",
    ),
    "waves-not-waited-for": Mutant(
        "The sum of squares is read before every wave has written its part.",
        only="cuda-ptx",
        gpu=Patch("«        BARRIER(); \\\n→»        type total = scratch[0]; \\", file="prelude/turns.h"),
    ),
}  # fmt: skip
