"""Whether how many times faster than a baseline something is follows from both sides' samples, doubt included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from kparity import contracts
from kparity.contracts import Contract
from kparity.numerics.statistics import ratio
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Bandwidth, Compared, Predicate, Ratio, Row

MANY = 1 << 16
"""Samples of a side beyond which an interval is not made again: that takes time by their number."""


def doubt(middle: float, low: float, high: float, share: float | None = None) -> str:
    """Why a ratio in somebody's favour is no comparison; empty where it is one.

    ``share`` is what the slower side moves of what the memory can move, None where that is not known. The limits are
    those of receipt-v1.
    """
    limits = contracts.load(contracts.RECEIPT)
    if not limits.threshold("ratio_widest").holds(high / low if low > 0 else float("inf")):
        return f"its interval spans {low:.3g} to {high:.3g}"
    if not limits.threshold("ratio_farthest").holds(middle):
        return f"a factor of {middle:.3g} is more than kernels differ by in the same work"
    if middle > 1 and share is not None and not limits.threshold("baseline_share").holds(share):
        return f"the baseline moves {share:.2%} of what the memory can: its calls are timed, not its kernels"
    return ""


def share(ours: Row, theirs: Row, bandwidth: Bandwidth | None) -> float | None:
    """What the other engine moves of the bandwidth, if it read the weights anew for every token of a prompt."""
    if not (ours.bytes and theirs.unit_s and bandwidth):
        return None
    return ours.bytes * ours.units / theirs.unit_s / bandwidth.bytes_per_s


def ratios(predicate: Predicate, contract: Contract) -> Findings:
    """Every measurement that a baseline has, too, has its ratio; one of an op is over a baseline's row in the same
    receipt.
    """
    for number, baseline in enumerate(predicate.baselines):
        theirs = {each.name: each for each in baseline.measurements}
        missing = {(run.backend, row.name): (row, run.bandwidth) for run in predicate.runs for row in run.measurements
                   if row.name in theirs}  # fmt: skip
        for index, each in enumerate(baseline.ratios):
            where = f"/predicate/baselines/{number}/ratios/{index}"
            row, bandwidth = missing.pop((each.backend, each.name), (None, None))
            sides = [(row, theirs[each.name])] if row else []
            yield from _follows(each, f"{each.backend} {each.name}", sides, bandwidth, contract, where)
        for backend, name in missing:
            where = f"/predicate/baselines/{number}/ratios"
            yield Finding("RCPT-RECOMPUTED", where, f"{backend} {name} was measured on both sides and has no ratio")
    for at, row, owner in predicate.rows():
        for index, told in enumerate(row.ratios if owner is None else ()):
            sides = [(row, each) for each in predicate.ops if each.baseline and each.name == told.baseline]
            yield from _follows(told, f"{row.name} over {told.baseline}", sides, None, contract, f"{at}/ratios/{index}")


def _follows(
    told: Compared, name: str, sides: Sequence[tuple[Row, Row]], bandwidth: Bandwidth | None,
    contract: Contract, where: str,
) -> Findings:  # fmt: skip
    """A ratio, its interval and its doubt, by our row and theirs; of several rows of a name any may be meant."""
    found = [
        list(_faults(told, ours, theirs, bandwidth, contract, where))
        for ours, theirs in sides
        if ours.seconds and theirs.seconds
    ]
    if not found:
        yield Finding("RCPT-RECOMPUTED", where, f"{name}: one side was not measured")
    elif all(found):
        yield from found[0]


def _faults(
    told: Compared, ours: Row, theirs: Row, bandwidth: Bandwidth | None, contract: Contract, where: str
) -> Iterator[Finding]:
    before, after = (each.seconds for each in (theirs, ours))
    middle, low, high = median(before) / median(after), told.low, told.high
    if max(len(before), len(after)) <= MANY:
        _, low, high = ratio(before, after)
    if not contract.threshold("recomputed").holds(abs(told.ratio / middle - 1)):
        yield Finding("RCPT-RECOMPUTED", f"{where}/ratio", f"{told.ratio!r}, the samples give {middle!r}")
    off = max(abs(told.low - low), abs(told.high - high)) / max(high - low, 1e-6 * middle)
    if not contract.threshold("ratio_interval").holds(off):
        why = f"{told.low:.6g} … {told.high:.6g}, the samples give {low:.6g} … {high:.6g}"
        yield Finding("RCPT-INTERVAL", f"{where}/low", why)
    own = doubt(told.ratio, told.low, told.high, share(ours, theirs, bandwidth))
    # The ceiling of a device beside single ops is not on record: a doubt more may come from it.
    if bool(own) is not bool(told.doubt) and (own or isinstance(told, Ratio)):
        why = f"it says {told.doubt!r}, the figures {own or 'leave none'!r}"
        yield Finding("RCPT-RECOMPUTED", f"{where}/doubt", why)
