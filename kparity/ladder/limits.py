"""What judges a difference of logits: the playbook's numbers, a multiple of the measured floor, or an overridden limit.

Two right engines differ by rounding, and where activations are rounded to int8 a code that flips at a tie spreads over
all later positions: no fixed number fits every model. So the limits of a climb are those of the contract or, where it
is more, what two passes that are right were measured to differ by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kparity import contracts
from kparity.contracts import Contract
from kparity.ladder.record import Control, FloorRecord, Measure, PositionVerdict
from kparity.ladder.stream import CONTRACT, Tally
from kparity.numerics.logits import Rows, bhattacharyya, sigma_ratio
from kparity.ops.spec import Array

WINDOW = 16
"""Positions whose median is looked at, wherever they lie: what goes wrong late has little weight in the whole."""


@dataclass(frozen=True)
class Metric:
    """A distance: its array of ``Rows``, whether it goes with the square of an error, and its thresholds."""

    name: str
    rows: str
    squared: bool
    first: str = ""
    later: str = ""
    ceiling: str = ""
    typical: str = ""
    """The ceiling of typical statistics."""

    def limit(self, contract: Contract, threshold: str) -> float:
        """A threshold as a distance: that of a cosine is 1 - cosine; infinite where there is none."""
        if not threshold:
            return np.inf
        found = contract.threshold(threshold)
        return 1 - found.value if found.rule == "at least" else found.value


METRICS = (
    Metric("cosine", "cosine_distance", True, "first_logit_cosine", "positions_cosine", "ceiling_cosine",
           "ceiling_typical_cosine"),
    Metric("mse", "mse", True, "first_logit_mse", "positions_mse"),
    Metric("max_abs", "max_abs", False, "first_logit_max_abs", "positions_max_abs"),
    Metric("kl", "kl", True, "", "positions_kl"),
    Metric("l2", "l2", False, "", "positions_l2"),
    Metric("norm", "log_norm_ratio", False, "positions_norm", "positions_norm"),
)  # fmt: skip
HUNDRED = 100
"""Positions without which a p99 is the largest, which has a limit of its own."""
STATISTICS = {"median": "floor_typical", "window": "floor_typical", "p99": "floor_tail", "most": "floor_tail"}
"""Statistic over the positions -> the factor by which it may exceed the floor's."""
SHOWN = {"cosine": "1 - cosine", "norm": "|ln norm ratio|"}


def statistic(values: Array, name: str) -> float:
    """Of one metric over the positions; infinite where one of them is not finite."""
    if not np.isfinite(values).all():
        return np.inf
    if name == "mean":
        return float(values.mean())
    if name == "window":
        size = min(WINDOW, len(values))
        return float(np.median(np.lib.stride_tricks.sliding_window_view(values, size), axis=1).max())
    share = {"median": 0.5, "p99": 0.99, "most": 1.0}[name]
    return float(np.quantile(values, share, method="higher"))


@dataclass(frozen=True)
class Floor:
    """Passes that are right and differ by noise: what a candidate may do, too."""

    basis: str
    covers_numerics: bool
    controls: Mapping[str, Tally]

    def most(self, metric: Metric, name: str) -> float:
        """A statistic of the control that differs most; for the median the worst median of some positions in a row:
        where in a text the first code flips is chance, and a candidate's may flip before a control's.
        """
        name = "window" if name == "median" else name
        return max(statistic(getattr(each.rows, metric.rows), name) for each in self.controls.values())

    def at_first(self, metric: Metric) -> float:
        """The distance at position 0."""
        return max(float(getattr(each.rows, metric.rows)[0]) for each in self.controls.values())

    @property
    def widest(self) -> Tally:
        """The control whose errors are largest."""
        return max(self.controls.values(), key=lambda each: each.rows.sigma)

    def record(self) -> FloorRecord:
        """For the JSON."""
        controls = []
        for name, each in self.controls.items():
            values = {metric.name: getattr(each.rows, metric.rows) for metric in METRICS}
            spreads = {of: {at: statistic(them, at) for at in (*STATISTICS, "mean")} for of, them in values.items()}
            controls.append(Control(name=name, positions=len(each.rows), spreads=spreads))
        return FloorRecord(basis=self.basis, covers_numerics=self.covers_numerics, controls=controls)


@dataclass
class Judge:
    """The limits of one climb. ``same`` is whether both sides have the same numerics; ``overrides`` are limits by the
    name of their metric (``cosine`` and ``top5`` at least, the others at most).
    """

    same: bool = True
    overrides: Mapping[str, float] = field(default_factory=dict)
    floor: Floor | None = None
    contract: Contract = field(default_factory=lambda: contracts.load(CONTRACT))
    doubted: Measure | None = None
    """What a third engine and the reference differ by, where that is more than noise."""

    def value(self, threshold: str) -> float:
        """Of the contract."""
        return self.contract.threshold(threshold).value

    @property
    def covered(self) -> bool:
        """Whether the floor says what engines of these numerics may differ by."""
        return self.floor is not None and (self.same or self.floor.covers_numerics)

    @property
    def short(self) -> str:
        """Why the floor carries no verdict on what the contract alone does not admit; empty where it does."""
        there = min((len(each.rows) for each in self.floor.controls.values()), default=0) if self.floor else np.inf
        least = self.value("floor_positions")
        return f"the floor has {there} of {least:g} positions; raise --context or give a longer text" * (there < least)

    @property
    def noise(self) -> float:
        """How far a logit may lie from where it should by noise: the p99 of the floor, and no less than the contract's
        margin of a tie.
        """
        controls = self.floor.controls.values() if self.floor else ()
        return max(self.value("decode_tie") / 2, *(statistic(each.rows.max_abs, "p99") for each in controls), 0.0)

    def measure(self, threshold: str, of: str, value: float, short: str = "") -> Measure:
        """A number against a threshold as it stands in the contract."""
        limit = self.contract.threshold(threshold)
        return Measure(
            threshold=threshold, of=of, value=value, limit=limit.value, sign=limit.sign,
            holds=limit.holds(value), basis=f"{self.contract.id} {threshold}", short=short,
        )  # fmt: skip

    def _limit(self, metric: Metric, statistic_name: str, first: bool) -> tuple[float, str]:
        """Limit of a distance and where it comes from."""
        threshold = metric.first if first and metric.first else metric.later
        limit, basis = metric.limit(self.contract, threshold), f"{threshold}"
        typical = STATISTICS[statistic_name] == "floor_typical"
        ceiling = metric.typical if typical else metric.ceiling
        if self.floor and not self.covered:  # nothing says what another arithmetic may do: the coarse limits alone
            return metric.limit(self.contract, ceiling), ceiling or "no floor of other numerics"
        if self.floor is None or (self.short and not (first and self.same)):
            return limit, basis
        factor = self.value(STATISTICS[statistic_name])
        times = factor * factor if metric.squared else factor
        noise = self.floor.at_first(metric) if first and self.same else self.floor.most(metric, statistic_name)
        if times * noise > limit:
            limit, basis = times * noise, f"{times:g} × floor {noise:.3g}"
        if not self.same and metric.limit(self.contract, ceiling) < limit:
            return metric.limit(self.contract, ceiling), ceiling
        return limit, basis

    def _overridden(self, metric: Metric) -> float | None:
        if metric.name not in self.overrides:
            return None
        value = self.overrides[metric.name]
        return 1 - value if metric.name == "cosine" else value

    def limits(self, first: bool = False) -> dict[str, float]:
        """The limit of a single position by the name of its metric."""
        found = {}
        for metric in METRICS:
            given = self._overridden(metric)
            found[metric.name] = self._limit(metric, "most", first)[0] if given is None else given
        return found

    def by_position(self) -> dict[str, tuple[float, float]]:
        """The limits of position 0 and of a later one."""
        later = self.limits()
        return {name: (limit, later[name]) for name, limit in self.limits(first=True).items()}

    def verdicts(self, rows: Rows, begin: int = 0) -> list[PositionVerdict]:
        """OK, WARN (more than half of a limit) or FAIL for each position, the first of them being ``begin``."""
        used, limits, first = np.zeros(len(rows)), self.limits(), self.limits(first=True)
        for metric in METRICS:
            limit = np.full(len(rows), limits[metric.name])
            limit[: begin == 0] = first[metric.name]
            values = getattr(rows, metric.rows)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(values == 0, 0.0, np.where(np.isfinite(values), values / limit, np.inf))
            used = np.maximum(used, share)
        return ["FAIL" if not share <= 1 else "WARN" if share > 0.5 else "OK" for share in used]

    def distances(self, rows: Rows, first: bool = False) -> list[Measure]:
        """Every metric: at position 0, or each statistic over later positions."""
        enough = {"most"} if first or not self.carried(rows) else set(STATISTICS)
        names = [name for name in STATISTICS if name in enough - ({"p99"} if len(rows) < HUNDRED else set())]
        found = []
        for metric in METRICS:
            values, given = getattr(rows, metric.rows), self._overridden(metric)
            for name in names if given is None else ["most"]:
                limit, basis = self._limit(metric, name, first) if given is None else (given, "given")
                value = statistic(values, name)
                if np.isfinite(limit) or not np.isfinite(value):
                    threshold = (metric.first if first else "") or metric.later
                    short = self.short if self.covered and given is None and not (first and self.same) else ""
                    found.append(_distance(metric, threshold, "" if first else name, value, limit, basis, short))
        return found

    def carried(self, rows: Rows) -> bool:
        """Whether there are positions enough for a median, or a mean."""
        return self.contract.threshold("positions_least").holds(len(rows))

    def walked(self, tally: Tally) -> list[Measure]:
        """All that judges the positions of a text. Of few of them each is judged, and nothing is said of all."""
        rows, short = tally.rows, "medians, overlap and distribution need more; give a longer text"
        few = self.measure("positions_least", "positions", len(rows), "" if self.carried(tally.rows) else short)
        overlap = [self.overlap(rows)] if self.carried(rows) or "top5" in self.overrides else []
        return [few, *self.distances(rows), *overlap, *self.shapes(tally), *self.coarse(rows)]

    def overlap(self, rows: Rows) -> Measure:
        """Mean overlap of the five likeliest tokens."""
        value, limit, basis = float(rows.top5.mean()), self.value("positions_top5"), "positions_top5"
        if "top5" in self.overrides:
            limit, basis = self.overrides["top5"], "given"
        elif self.floor is not None and not self.short:
            factor = self.value("floor_tail")
            lost = max(1 - float(each.rows.top5.mean()) for each in self.floor.controls.values())
            if 1 - factor * lost < limit:
                limit, basis = 1 - factor * lost, f"{factor:g} × what the floor loses"
        return Measure(
            threshold="positions_top5", of="top-5 overlap", value=value, limit=limit, sign="≥", holds=value >= limit,
            basis=basis, overridden=basis == "given", short="" if value >= limit or basis == "given" else self.short,
        )  # fmt: skip

    def shapes(self, tally: Tally) -> list[Measure]:
        """How the errors are distributed, beside the floor's: their size, and their form. Only where codes have flipped
        on both sides often enough to have a distribution; elsewhere each position has its limits.
        """
        if self.floor is None or not self.covered or self.short or not self.carried(tally.rows):
            return []
        widest = self.floor.widest
        if min(tally.shaped, widest.shaped) < WINDOW:
            return []
        return [self.measure("floor_sigma_ratio", "sigma ÷ floor's", sigma_ratio(tally.rows, widest.rows)),
                self.measure("floor_shape", "Bhattacharyya coefficient of the errors",
                             bhattacharyya(tally.shape, widest.shape))]  # fmt: skip

    def coarse(self, rows: Rows, of: str = "") -> list[Measure]:
        """What no floor excuses where numerics differ: the cosine anywhere, KL and gain at most positions."""
        if self.same and not of and not self.short:
            return []
        away, apart = abs(float(np.median(rows.factor)) - 1), rows.cosine_distance
        found = [("cosine", "ceiling_cosine", "least cosine", 1 - statistic(apart, "most"))]
        if self.carried(rows):
            found += [("cosine", "ceiling_typical_cosine", "median cosine", 1 - statistic(apart, "median")),
                      ("kl", "ceiling_kl", "median KL", statistic(rows.kl, "median")),
                      ("norm", "ceiling_gain", "|factor - 1|", away)]  # fmt: skip
        # a limit that was given takes the place of the ceiling, too; a floor is believed by the contract alone
        return [self.measure(threshold, of + what, value) for metric, threshold, what, value in found
                if of or metric not in self.overrides]  # fmt: skip

    def doubt(self) -> Measure | None:
        """What is wrong with the floor itself: right passes are not so far apart."""
        if self.doubted:
            return self.doubted
        controls = self.floor.controls.items() if self.floor else ()
        found = (each for name, control in controls for each in self.coarse(control.rows, f"floor ({name}) "))
        return next((each for each in found if not each.holds), None)


def _distance(
    metric: Metric, threshold: str, name: str, value: float, limit: float, basis: str, short: str
) -> Measure:  # fmt: skip
    finite, holds = bool(np.isfinite(value)), bool(value <= limit)
    return Measure(
        threshold=threshold, of=" ".join(filter(None, (SHOWN.get(metric.name, metric.name), name))), value=value,
        limit=limit, sign="≤", holds=finite and holds, basis=basis, overridden=basis == "given",
        short=short if finite and not holds else "",
    )  # fmt: skip
