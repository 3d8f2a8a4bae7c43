"""Several sessions side by side: group by group, samples in turn, rows with everything that a time is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from kparity.bench.comparison import ratio
from kparity.bench.timing import Sample, Series, interleave, judge_times

SECONDS = 3.0
"""Of sampling for each group, all backends together."""


class Rpc(Protocol):
    """What answers for a session: the session itself, or a worker that holds one."""

    def __call__(self, method: str, **arguments: Any) -> Any:
        """Call a method of ``Session``; raises whatever made it fail."""


@dataclass
class Participant:
    """A backend in the run."""

    name: str
    calls: Rpc
    baseline: list[str] | None = None
    """The types of torch's own product, where that is what this side stands for."""
    ceiling: float = 0.0
    """Bytes per second: the device's own, or measured."""
    bandwidth: float = 0.0
    """Bytes per second as measured in this run."""
    measured: bool = True


def in_process(session: Any) -> Rpc:
    """Calls of a session of this process."""

    def calls(method: str, **arguments: Any) -> Any:
        return getattr(session, method)(**arguments)

    return calls


def proxies(calls: Rpc, described: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Series that ask a session for their samples."""

    def one(at: int, fields: Mapping[str, Any]) -> Series:
        return Series(
            **fields, sample=lambda: Sample(*calls("sample", at=at)), check=lambda: calls("check", at=at)
        )  # fmt: skip

    return [one(at, fields) for at, fields in enumerate(described)]


def ceilings(sides: Sequence[Participant], seconds: float) -> Iterator[dict[str, Any]]:
    """Measure every side's bandwidth and note it there; a row for each.

    Where no driver tells the peak, the ceiling is the best that any API of the same kind of device reached.
    """
    tables = [(side, side.calls("device"), _made(side, "ceiling")) for side in sides]
    interleave([series for _, _, table in tables for series in table], seconds=seconds)
    kinds: dict[str, float] = {}
    for side, device, table in tables:
        peak = float(device["peak_bytes_per_s"])
        for series in table:
            row = judge_times(series, peak, measured=False)
            if side.baseline is not None:
                row["baseline"] = True
            side.bandwidth = 0.0 if row["errors"] else row["gb_per_s"] * 1e9
            yield row
        side.ceiling, side.measured = peak, not peak
        kind = device["info"]["kind"]
        kinds[kind] = max(kinds.get(kind, 0.0), side.bandwidth)
        side.calls("release")
    for side, device, _ in tables:
        side.ceiling = side.ceiling or kinds[device["info"]["kind"]]


def rows_of(group: dict[str, Any], sides: Sequence[Participant], seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Time one case on all sides in turn: a row per backend and state (cold, hot), torch's own products last.

    A row is ``judge_times``'s with ``tag``, ``of_bandwidth`` (share of the bandwidth measured in the same turns; null
    where the case is not cold), ``unsupported`` (the reason) instead of an error, and ``ratios`` over torch's products.
    """
    held = [(side, _made(side, "build", group=group, **_types(side))) for side in sides]
    interleave([series for _, table in held for series in table], seconds=seconds)
    rows = []
    for side, table in held:
        bandwidth = max([0.0, *(_rate(series) for series in table if _is_ceiling(series))]) or side.bandwidth
        # A measured ceiling may be of a busier minute than these turns.
        ceiling = max(side.ceiling, bandwidth) if side.measured else side.ceiling
        for at, series in enumerate(table):
            if _is_ceiling(series):
                continue
            row = {"tag": group["tag"], **judge_times(series, ceiling, side.measured)}
            if side.baseline is None and not series.fault:
                row.update(side.calls("launched", at=at))
            if "unsupported" in row:
                row["errors"] = []
            known = series.cold and bandwidth and "gb_per_s" in row
            row["of_bandwidth"] = row["gb_per_s"] * 1e9 / bandwidth if known else None
            rows.append(row)
        _quietly(side, "release")
    theirs = [row for row in rows if row.get("baseline")]
    for row in rows:
        if not row.get("baseline") and theirs:
            row["ratios"] = [_ratio(row, each) for each in theirs if _comparable(row, each)]
    return rows


def _is_ceiling(series: Series) -> bool:
    return series.about["op"] in ("stream", "copy")


def _rate(series: Series) -> float:
    """Bytes per second of a series; 0 where it has a fault."""
    row = judge_times(series, 0.0)
    return 0.0 if row["errors"] else float(row["gb_per_s"]) * 1e9


def _types(side: Participant) -> dict[str, Any]:
    return {} if side.baseline is None else {"baseline": side.baseline}


def _made(side: Participant, method: str, **arguments: Any) -> list[Series]:
    """The series that a side made; one with the reason where it failed altogether."""
    try:
        return proxies(side.calls, side.calls(method, **arguments))
    except Exception as error:
        about = {"backend": side.name, "op": arguments.get("group", {}).get("op", method), "state": ""}
        name = f"{side.name} {about['op']}"
        return [Series(name, lambda: Sample(0, 0), about=about, fault=f"{type(error).__name__}: {error}")]


def _quietly(side: Participant, method: str) -> None:
    """A worker that died has said so in its row."""
    with suppress(Exception):
        side.calls(method)


def _comparable(row: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return "us" in row and "us" in theirs and row["cold"] == theirs["cold"]


def _ratio(row: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """How many times faster than theirs, per launch."""
    before, after = (
        [each / one["launches_per_sample"] for each in one["samples_device_s"]] for one in (theirs, row)
    )  # fmt: skip
    middle, low, high = ratio(before, after)
    return {"baseline": theirs["name"], "ratio": middle, "low": low, "high": high}


def line(row: Mapping[str, Any]) -> str:
    """A row for people."""
    if "us" not in row:
        return f"{row['name']:56} {row.get('unsupported') or '; '.join(row['errors'])}"
    rate = f"{row['gb_per_s']:8.1f} GB/s" if row["bytes"] else ""
    share = f"{100 * row['of_bandwidth']:5.1f} % of the bandwidth" if row.get("of_bandwidth") else ""
    over = ", ".join(f"{each['ratio']:.2f} x {each['baseline']}" for each in row.get("ratios", []))
    wrong = "".join(f" ERROR {error}" for error in row["errors"])
    low, high = row["us_low"], row["us_high"]
    return f"{row['name']:56} {row['us']:10.2f} µs ({low:.2f}, {high:.2f}) {rate} {share} {over}{wrong}".rstrip()
