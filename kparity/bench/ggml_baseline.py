"""ggml's own matrix-vector product with TQ2_0 weights, beside a ternary GEMV of the same N×K: its case on the backend
``ggml:CPU`` of the package ``kparity_ggml``.

The product quantises its activations by itself, which a ``tgemv`` leaves to ``act_quant``: compare it with the sum of
the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kparity import ops
from kparity.bench import llamacpp
from kparity.bench.ops.session import Described, Session
from kparity.bench.timing import Timed
from kparity.device import names
from kparity.errors import Unavailable
from kparity.ops.spec import Case

BACKEND, OP, PRODUCT = "ggml:CPU", "ggml_mul_mat", "mul_mat_TQ2_0"
"""The last is how rows name the product."""
BLOCK = 256
"""Weights of a block: there are no parts of one."""


class GgmlSession(Session):
    """The product of the shape of a ternary GEMV of whole blocks, cold and hot.

    ``threads``: 0 for as many as ``llamacpp.threads``; other options of a session mean nothing here. Raises Unavailable
    without the package, or without a build of ggml.
    """

    def __init__(self, *, threads: int = 0, cold_mib: int = 1024, **_: Any) -> None:
        if BACKEND not in names.names():
            reason, remedy = "ggml's kernels come with a package of their own", "pip install ./integrations/ggml"
            raise Unavailable(reason, remedy, "KP-BENCH-BASELINE")
        super().__init__(BACKEND, threads=threads or llamacpp.threads(), cold_mib=cold_mib)

    def ceiling(self) -> Described:
        """None: bandwidth is measured by our own backends."""
        return []

    def made(self, case: Case) -> Sequence[Timed]:
        """As ``Group.made``."""
        if case.op != "tgemv" or case["M"] != 1 or case["K"] % BLOCK:
            return []
        found = super().made(ops.get(OP).case(type="tq2_0", M=1, N=case["N"], K=case["K"]))
        for row in (each.row for each in found):
            row.op, row.name = PRODUCT, f"ggml mul_mat TQ2_0 K={case['K']} N={case['N']} {row.state}"
        return found
