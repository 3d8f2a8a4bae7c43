"""How a burn-in went: rates and latencies of both sides, piece by piece of the time that it ran."""

from __future__ import annotations

from dataclasses import dataclass

from kparity.burnin.query import Table
from kparity.burnin.record import BUCKETS, Mode
from kparity.burnin.stats import HOUR

PIECES = 60


@dataclass(frozen=True)
class Piece:
    """A part of the time. ``hour`` is its middle, ``rounds`` all that were in it, ``compared`` those with two replies;
    shares of those, and milliseconds to the whole reply, are None where there are none.
    """

    hour: float
    rounds: int
    compared: int
    exact: float | None
    no_match: float | None
    v1_p50: float | None
    v1_p95: float | None
    v2_p50: float | None
    v2_p95: float | None


def course(table: Table, mode: Mode, pieces: int = PIECES) -> list[Piece]:
    """As many pieces of the same length, from the first round of a mode to its last; those without a round are left
    out.
    """
    whole = f"bucket IN {BUCKETS[:3]}"
    length = f"greatest(max(elapsed) OVER () - min(elapsed) OVER (), 1e-3) / {pieces}"
    quantiles = ", ".join(
        f"quantile_cont({side}_ms, {share}) FILTER ({whole})" for side in ("v1", "v2") for share in (0.5, 0.95)
    )
    found = table.rows(
        f"""SELECT any_value(start) + (piece + 0.5) * any_value(length), count(*),
        count(*) FILTER ({whole} AND NOT empty) AS compared,
        count(*) FILTER (bucket = 'exact' AND NOT empty) / nullif(compared, 0),
        count(*) FILTER (bucket = 'no-match') / nullif(compared, 0), {quantiles}
        FROM (SELECT *, least(floor((elapsed - start) / length), {pieces - 1}) AS piece
            FROM (SELECT *, min(elapsed) OVER () AS start, {length} AS length FROM rounds WHERE mode = '{mode}'))
        GROUP BY piece ORDER BY piece"""
    )
    return [Piece(middle / HOUR, *rest) for middle, *rest in found]
