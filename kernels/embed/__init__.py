"""embed: rows of a table, gathered by id.

    x[m, :] = f32(table[ids[m] - row0, :])      where row0 <= ids[m] < row0 + rows

``table`` holds ``rows`` rows of a vocabulary of V, beginning at ``row0``: a table that exceeds one binding is bound in
parts, one launch each, and a launch leaves the rows of other parts as they are. With the whole table bound (rows = V),
an id outside [0, V) gives a row of NaN: it fails closed.

ABI: table [rows, D] f16|f32, ids [M] i32 → x [M, D] f32. D is even (f16 pairs).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import MODELS, ROWS, VOCABULARY, normal
from kparity.ops.spec import DTYPES, Arg, Array, Case, ErrorBound, Grid, Op, Value, Work


class Embed(Op):
    """Parameters: M ids, V vocabulary, D width, dtype of the table, row0 and rows of the bound part."""

    name = "embed"
    required = ("M", "V", "D")
    named_by = ("dtype",)
    defaults: ClassVar[Mapping[str, Value]] = {"dtype": "f16", "row0": 0, "rows": 0}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ("f16", "f32")}

    def case(self, **params: int | float | str) -> Case:
        return super().case(**{**params, "rows": params.get("rows") or params.get("V", 0)})

    def check(self, case: Case) -> None:
        if case["D"] % 2:
            raise WrongInput(f"embed: D is {case['D']}, expected an even number")
        if case["row0"] < 0 or case["row0"] + case["rows"] > case["V"]:
            raise WrongInput(f"embed: rows {case['row0']}+{case['rows']} exceed the vocabulary of {case['V']}")

    def args(self, case: Case) -> tuple[Arg, ...]:
        partial = case["rows"] < case["V"]
        return (
            Arg("table", case["dtype"], (case["rows"], case["D"])),
            Arg("ids", "i32", (case["M"],)),
            Arg("x", "f32", (case["M"], case["D"]), "inout" if partial else "out"),
        )

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        table, ids = inputs[0], inputs[1]
        partial = case["rows"] < case["V"]
        x = inputs[2].astype(dtype) if partial else np.full((case["M"], case["D"]), np.nan, dtype)
        local = ids.astype(np.int64) - case["row0"]
        here = (local >= 0) & (local < case["rows"])
        x[here] = table[local[here]].astype(dtype)
        return [x]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"ROW0": case["row0"], "ROWS": case["rows"], "F16": int(case["dtype"] == "f16")}

    def launch(self, case: Case) -> Grid:
        return Grid((case["M"], 1, 1), 64)

    def cases(self) -> list[Case]:
        shapes, parts = ((1, 7, 2), (5, 33, 66), (33, 300, 256)), ((0, 0), (2, 3))
        bound = [(*shape, dtype, *part) for shape in shapes for dtype in ("f16", "f32") for part in parts]
        return self.every("M V D dtype row0 rows", bound)

    def more(self) -> list[Case]:
        models = [self.case(M=m, V=515, D=model.width) for model in MODELS.values() for m in (1, 64)]
        shapes = [*((m, 97, 66) for m in ROWS), *((2, 33, d) for d in (4, 62, 64, 126, 128, 130, 254, 258, 1026))]
        found = self.in_turn("M V D", shapes, "dtype", ("f16", "f16", "f32"))
        # The table of 2B-4T, narrow, and the last part of it as it is bound.
        last = self.case(M=9, V=VOCABULARY, D=2560, row0=VOCABULARY - 500, rows=500)
        return [*models, *found, self.case(M=9, V=VOCABULARY, D=64), last]

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random", "outside", "edges", "extreme")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        m, v, row0, rows = (case[name] for name in ("M", "V", "row0", "rows"))
        table = normal(rng, rows, case["D"], dtype=DTYPES[case["dtype"]])
        ids = rng.integers(0, v, m).astype(np.int32)
        if kind == "outside":  # no id of the vocabulary, beside some that are
            ids[::2] = np.resize(np.array([-1, v, v + 7, 2**31 - 1, -(2**31)], np.int32), len(ids[::2]))
        if kind == "edges":  # the first and the last row of the part, and their neighbours
            ids = np.resize(np.array([row0 + rows - 1, row0, row0 - 1, row0 + rows], np.int32), m).clip(0, v - 1)
        if kind == "extreme":  # signed zeros, the largest, infinities, NaN; for f16 the smallest subnormals
            least = 2.0**-24 if case["dtype"] == "f16" else 2.0**-126
            table[:] = np.resize(
                np.array([0.0, -0.0, 65504.0, -np.inf, np.inf, np.nan, least, -least, 3 * least]), table.shape
            )
        found = [table, ids]
        return [*found, normal(rng, m, case["D"])] if rows < v else found

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [ErrorBound(None, "a copy: every bit")]

    def work(self, case: Case) -> Work:
        width = 2 if case["dtype"] == "f16" else 4
        return Work(case["M"] * case["D"] * (width + 4), 0)


OP = Embed()
