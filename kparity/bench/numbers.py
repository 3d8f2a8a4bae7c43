"""Numbers from raw samples: rates with their interval, percentiles, the floor of memory; and what is impossible."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kparity.bench.plan import Point
from kparity.bench.timing import GOAL, below_floor, bootstrap, clock_errors
from kparity.receipts.record import Measurement, Percentiles

PERCENTILES = (10, 50, 90, 99)


@dataclass
class Samples:
    """Everything that was timed of one engine at one point."""

    seconds: list[float] = field(default_factory=list)
    """Of one token (decode) or of one prompt (prefill)."""
    device: list[dict[str, float]] = field(default_factory=list)
    """``device_s`` and ``wall_s`` of the same work, by the device's clock."""
    joules: list[float | None] = field(default_factory=list)
    """Of one turn: several tokens, or one prompt."""
    digests: list[str] = field(default_factory=list)
    """Of the output of each turn."""


@dataclass(frozen=True)
class Ceiling:
    """Bytes per second that were measured in the same run, and the bytes below which a cache may hold everything."""

    bytes_per_s: float
    cache_bytes: int


def measurement(
    point: Point, samples: Samples, nbytes: int | None = None, ceiling: Ceiling | None = None
) -> Measurement:
    """A point as a receipt holds it; ``nbytes`` must move for one token. Raises ValueError without samples.

    ``errors`` names what cannot be: faster than the memory allows, a device's clock that runs ahead of the wall's.
    Where everything fits in a cache there is no floor, and the share of the bandwidth may exceed 1.
    """
    middle, low, high = bootstrap(samples.seconds)
    tokens = point.tokens
    each = np.array(samples.seconds) / tokens
    moved = nbytes * tokens if nbytes else None
    bound = moved / ceiling.bytes_per_s if moved and ceiling else None
    floor = bound if moved and ceiling and moved > ceiling.cache_bytes else None
    joules = [value for value in samples.joules if value is not None]
    per_turn = len(samples.seconds) * tokens / max(len(samples.joules), 1)
    errors = []
    if floor and below_floor(middle, floor):
        errors.append(f"faster than the roofline floor: {middle * 1e3:.3f} < {floor * 1e3:.3f} ms")
    errors += clock_errors(*([one[clock] for one in samples.device] for clock in ("device_s", "wall_s")))
    wide = high - low > 2 * GOAL * middle
    return Measurement(
        name=point.name, phase=point.phase, tokens=tokens, depth=point.length * (point.phase == "decode"),
        samples_s=samples.seconds, device_s=[one["device_s"] for one in samples.device] or None,
        tokens_per_s=tokens / middle, low=tokens / high, high=tokens / low,
        limit=f"±{50 * (high - low) / middle:.1f} % after {len(each)} samples" if wide else None,
        ms_per_token=Percentiles(**{f"p{p}": float(np.percentile(each, p)) * 1e3 for p in PERCENTILES}),
        bytes_per_token=nbytes, gb_per_s=moved / middle * 1e-9 if moved else None,
        of_bandwidth=bound / middle if bound else None, floor_s=floor,
        energy_j_per_token=float(np.mean(joules)) / per_turn if joules and np.mean(joules) > 0 else None,
        errors=errors,
    )  # fmt: skip
