"""The rungs ``first-logit`` and ``positions``: teacher-forced logits of both sides, position by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity.gates.decode import tie_classes
from kparity.ladder.limits import Judge
from kparity.ladder.record import FAIL, Position, ThreeWay
from kparity.ladder.stream import CHUNK, Seat, Tally, compared, side_by_side
from kparity.numerics.statistics import bootstrap_farther


def walked(seats: Sequence[Seat], ids: list[int], judge: Judge, stop: bool) -> tuple[Tally, tuple[Tally, Tally]]:
    """Reference, candidate and perhaps a third over the tokens: the first two, and each beside the third. Ends with
    the first bad position if told to ``stop``.
    """
    tally, others, at = Tally(detailed=True), (Tally(), Tally()), 0
    for logits in side_by_side(seats, ids, CHUNK if stop else 0):
        if stop:
            bad = [each == FAIL for each in judge.verdicts(compared(logits[0], logits[1]).rows, at)]
            logits = [each[: bad.index(True) + 1 if True in bad else None] for each in logits]
        rows = tally.add(logits[0], logits[1])
        for third in logits[2:]:
            others[0].add(third, logits[0])
            others[1].add(third, logits[1])
        if stop and True in bad:
            break
        at += len(rows)
    return tally, others


def listed(tally: Tally, judge: Judge) -> list[Position]:
    """A record for each position."""
    rows = tally.rows
    same = rows.reference_argmax == rows.candidate_argmax
    ties = tie_classes(same, rows.reference_gap, judge.noise).tolist()
    return [
        Position(
            position=at, verdict=verdict, cosine_similarity=float(rows.cosine[at]), l2_distance=float(rows.l2[at]),
            mse=float(rows.mse[at]), rmse=float(rows.rmse[at]), max_abs=float(rows.max_abs[at]),
            mean_abs=float(rows.mean_abs[at]), kl=float(rows.kl[at]), norm_ratio=float(rows.norm_ratio[at]),
            top1=float(rows.top1[at]), top5=float(rows.top5[at]), top10=float(rows.top10[at]),
            tokens=(int(rows.reference_argmax[at]), int(rows.candidate_argmax[at])), tie=ties[at], top=top,
        )
        for at, (verdict, top) in enumerate(zip(judge.verdicts(rows), tally.tops, strict=True))
    ]  # fmt: skip


def three_way(others: tuple[Tally, Tally], third: Seat) -> ThreeWay:
    """Which side lies farther from the third engine."""
    left, right = (each.rows.l2 for each in others)
    return ThreeWay(
        third=third.spec, reference_l2=float(np.median(left)), candidate_l2=float(np.median(right)),
        candidate_farther=bootstrap_farther(right, left),
    )  # fmt: skip
