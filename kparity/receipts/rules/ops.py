"""Whether the row of a single op is that of its case: bytes, operations and kernel follow from its specification."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kparity import ops
from kparity.contracts import Contract
from kparity.errors import KparityError
from kparity.ops.spec import Case, Value
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.kernel_ids import dialect_of
from kparity.receipts.record import CEILINGS, Predicate, Row

LARGEST = 1 << 40
"""Of a parameter of a case."""


def case_of(row: Row) -> Case | None:
    """The case of a row; None where it is no case of its op."""
    op, _, told = row.case.rstrip("]").partition("[")
    try:
        params = dict(each.split("=", 1) for each in told.split(","))
        case = ops.get(op).case(**{name: _value(text) for name, text in params.items()})
    except (KparityError, ValueError, TypeError):
        return None
    return case if (op, case.id) == (row.op, row.case) else None


def _value(text: str) -> Value:
    """A number or a word; raises ValueError for a number that no shape has."""
    if not re.fullmatch(r"-?[0-9.][0-9.eE+-]*", text):
        return text
    value = float(text)
    if not abs(value) < LARGEST:
        raise ValueError(text)
    return int(text) if text.lstrip("-").isdigit() else value


def cases(predicate: Predicate, contract: Contract) -> Findings:
    """A row of an op that kparity has names a case of it, and tells the bytes, the rate and the kernel of that case."""
    for at, row, owner in predicate.rows():
        if owner is None and not row.baseline and row.op not in CEILINGS and row.op in ops.names():
            yield from (
                Finding(code, f"{at}/{place}", f"{row.name}: {why}") for code, place, why in _faults(row, contract)
            )


def _faults(row: Row, contract: Contract) -> Iterator[tuple[str, str, str]]:
    case = case_of(row)
    if case is None:
        yield "RCPT-RECOMPUTED", "case", f"{row.case!r} is no case of {row.op}"
        return
    op, dialect = ops.get(row.op), dialect_of(row.kernel, row.backend)
    work = op.work(case)
    if row.bytes != work.bytes:
        yield "RCPT-BANDWIDTH", "bytes", f"{row.bytes:.0f} bytes, the case moves {work.bytes}"
    rate = work.flops / row.unit_s * 1e-9 if row.unit_s else 0.0
    if (rate or row.gflop_per_s) and not (
        rate and row.gflop_per_s and contract.threshold("recomputed").holds(abs(row.gflop_per_s / rate - 1))
    ):
        yield "RCPT-RECOMPUTED", "gflop_per_s", f"{row.gflop_per_s!r}, the samples give {rate!r}"
    if row.kernel and dialect and row.kernel != f"{row.op}_{dialect}_{op.variant(case)}":
        yield "RCPT-KERNEL-ID", "kernel", f"{row.kernel} is not of the case {row.case}"
