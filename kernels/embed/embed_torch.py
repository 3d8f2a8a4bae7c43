"""embed in torch operations, written apart from the reference: a gather, masked where no row of the table is meant."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[x] from [table, ids] or [table, ids, x]."""
    table, ids = inputs[:2]
    local = ids.long() - case["row0"]
    here = (local >= 0) & (local < case["rows"])
    rows = table[local.clamp(0, case["rows"] - 1)].to(torch.float32)
    rest = inputs[2] if case["rows"] < case["V"] else torch.full_like(rows, torch.nan)
    return [torch.where(here[:, None], rows, rest)]
