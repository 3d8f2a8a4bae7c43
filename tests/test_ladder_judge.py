"""The limits of a climb by rows that are made: contract, floor, ceiling and override, and which of them judges."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kparity.ladder.limits import METRICS, Floor, Judge, statistic
from kparity.ladder.record import Measure
from kparity.numerics.logits import Rows

BY = {metric.name: metric for metric in METRICS}
JUDGE = Judge()


def rows(count: int, **values: Any) -> Rows:
    """Rows of sides that are equal, but for what is given."""
    zero, one = np.zeros(count), np.ones(count)
    same = dict.fromkeys(Rows.__dataclass_fields__, zero) | dict.fromkeys(
        ("cosine", "norm_ratio", "factor", "top1", "top5", "top10"), one
    )
    return Rows(**{**same, **{name: np.broadcast_to(np.asarray(each, float), count) for name, each in values.items()}})


def tally(of: Rows, shaped: int = 0) -> Any:
    return SimpleNamespace(rows=of, shaped=shaped, shape=np.ones(4, np.int64))


def floor(*controls: Rows, covers: bool = False) -> Floor:
    return Floor("a batch", covers, {str(at): tally(each) for at, each in enumerate(controls)})


def value(name: str) -> float:
    return JUDGE.value(name)


VALUES = np.array([*range(32), 100.0])


@pytest.mark.parametrize(("name", "wanted"), [
    ("mean", VALUES.mean()), ("median", 16.0), ("p99", 100.0), ("most", 100.0), ("window", 24.5),
])  # fmt: skip
def test_statistics_of_positions(name: str, wanted: float) -> None:
    assert statistic(VALUES, name) == pytest.approx(wanted)
    assert statistic(np.array([1.0, np.nan]), name) == statistic(np.array([1.0, np.inf]), name) == np.inf
    assert statistic(np.array([3.0]), name) == 3


def test_a_p99_of_many_is_not_the_largest() -> None:
    many = np.arange(1001.0)
    assert statistic(many, "p99") == 990 and statistic(many, "most") == 1000 and statistic(many, "median") == 500
    assert statistic(np.array([1.0, 2.0]), "median") == 2, "the higher one"


def test_a_limit_of_a_cosine_is_its_distance() -> None:
    assert BY["cosine"].limit(JUDGE.contract, "positions_cosine") == pytest.approx(1 - value("positions_cosine"))
    assert BY["mse"].limit(JUDGE.contract, "positions_mse") == value("positions_mse")
    assert BY["kl"].limit(JUDGE.contract, "") == np.inf


def test_a_floor_tells_its_worst_control() -> None:
    one, two = rows(64, mse=np.arange(64.0), mean_error=0.0), rows(64, mse=[5.0] * 63 + [70.0], mean_error=1.0)
    found = floor(one, two)
    assert found.most(BY["mse"], "most") == 70 and found.most(BY["mse"], "median") == found.most(BY["mse"], "window")
    assert found.most(BY["mse"], "window") == 55.5 and found.at_first(BY["mse"]) == 5
    assert found.widest is found.controls["0"]
    told = found.record()
    assert [each.positions for each in told.controls] == [64, 64] and told.basis == "a batch"
    assert told.controls[1].spreads["mse"]["most"] == 70 and told.controls[0].spreads["mse"]["mean"] == 31.5


@pytest.mark.parametrize(("squared", "metric", "name"), [(True, "mse", "floor_tail"), (False, "max_abs", "floor_tail")])
def test_noise_raises_a_limit_where_it_is_more(squared: bool, metric: str, name: str) -> None:
    factor = value(name) ** (2 if squared else 1)
    contract = value(f"positions_{metric}")
    for share, raised in ((0.99, False), (1.01, True)):
        noise = contract / factor * share
        judge = Judge(floor=floor(rows(128, **{metric: noise})))
        assert judge.limits()[metric] == pytest.approx(contract * share if raised else contract)
        limit, basis = judge._limit(BY[metric], "most", False)
        assert ("× floor" in basis) is raised and limit == judge.limits()[metric]
        assert Judge().limits()[metric] == contract


def test_typical_statistics_have_their_own_factor() -> None:
    judge = Judge(floor=floor(rows(128, max_abs=1e3)))
    factors = {"median": "floor_typical", "window": "floor_typical", "p99": "floor_tail", "most": "floor_tail"}
    for name, factor in factors.items():
        assert judge._limit(BY["max_abs"], name, False)[0] == value(factor) * 1e3


@pytest.mark.parametrize(("positions", "covered"), [(127, False), (128, True)])
def test_a_floor_of_too_few_positions_raises_nothing_but_the_first(positions: int, covered: bool) -> None:
    judge = Judge(floor=floor(rows(positions, max_abs=1e3)))
    assert bool(judge.short) is not covered and (judge.limits()["max_abs"] > 1e3) is covered
    assert judge.limits(first=True)["max_abs"] > 1e3
    assert covered or f"the floor has {positions} of 128 positions" in judge.short
    other = Judge(same=False, floor=floor(rows(positions, max_abs=1e3), covers=True))
    assert (other.limits(first=True)["max_abs"] > 1e3) is covered


def test_other_numerics_have_the_ceilings_alone_where_no_floor_covers_them() -> None:
    judge = Judge(same=False, floor=floor(rows(128, mse=1.0, cosine=0.5)))
    assert not judge.covered and judge._limit(BY["mse"], "most", False) == (np.inf, "no floor of other numerics")
    for name, ceiling in (("most", "ceiling_cosine"), ("median", "ceiling_typical_cosine")):
        limit, basis = judge._limit(BY["cosine"], name, False)
        assert limit == pytest.approx(1 - value(ceiling)) and basis == ceiling
    covered = Judge(same=False, floor=floor(rows(128, cosine=0.5), covers=True))
    assert covered.covered and covered._limit(BY["cosine"], "most", False)[1] == "ceiling_cosine"
    same = Judge(floor=floor(rows(128, cosine=0.5)))
    assert same.covered and "× floor 0.5" in same._limit(BY["cosine"], "most", False)[1]
    assert not Judge().covered and Judge().short == ""


def test_an_override_takes_every_place() -> None:
    judge = Judge(overrides={"cosine": 0.9, "mse": 7.0, "top5": 0.25}, floor=floor(rows(128, mse=1e9)))
    assert judge.limits()["cosine"] == pytest.approx(0.1) and judge.limits(first=True)["mse"] == 7
    assert judge.by_position()["mse"] == (7, 7) and judge.by_position()["max_abs"] == (
        judge.limits(first=True)["max_abs"],
        judge.limits()["max_abs"],
    )
    given = [each for each in judge.distances(rows(128, mse=8.0)) if each.overridden]
    assert [(each.of, each.holds) for each in given] == [("1 - cosine most", True), ("mse most", False)]
    for share, holds in ((0.25, True), (0.24, False)):
        found = judge.overlap(rows(128, top5=share))
        assert (found.holds, found.limit, found.basis, found.short) == (holds, 0.25, "given", "")


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.0, "OK"), (0.49, "OK"), (0.51, "WARN"), (1.0, "WARN"), (1.01, "FAIL")]
)
def test_a_position_is_judged_by_its_largest_share(share: float, verdict: str) -> None:
    limits, first = JUDGE.limits(), JUDGE.limits(first=True)
    some = rows(4, l2=0.3 * limits["l2"], max_abs=[0.0, share * limits["max_abs"], 0.0, 0.0])
    assert JUDGE.verdicts(some, begin=7) == ["OK", verdict, "OK", "OK"]
    at_first = rows(2, max_abs=[share * first["max_abs"], 0.0])
    assert JUDGE.verdicts(at_first) == [verdict, "OK"]
    assert JUDGE.verdicts(rows(2, mse=[np.inf, np.nan]), begin=1) == ["FAIL", "FAIL"]


def names(found: list[Measure]) -> set[str]:
    return {each.of for each in found}


@pytest.mark.parametrize(("count", "kinds"), [
    (31, {"most"}), (32, {"median", "window", "most"}), (99, {"median", "window", "most"}),
    (100, {"median", "window", "p99", "most"}),
])  # fmt: skip
def test_few_positions_have_few_statistics(count: int, kinds: set[str]) -> None:
    found = JUDGE.distances(rows(count))
    assert {each.of.split()[-1] for each in found if each.threshold == "positions_mse"} == kinds
    assert names(JUDGE.distances(rows(count), first=True)) == {
        "1 - cosine",
        "mse",
        "max_abs",
        "|ln norm ratio|",
        "kl",
        "l2",
    }
    walked = JUDGE.walked(tally(rows(count)))
    assert walked[0].holds is (count >= 32) and bool(walked[0].short) is (count < 32)
    assert ("top-5 overlap" in names(walked)) is (count >= 32)
    infinite = JUDGE.distances(rows(1, kl=np.inf), first=True)
    assert "kl" in names(infinite) and not any(each.holds for each in infinite if each.of == "kl")


@pytest.mark.parametrize("excess", [-1e-9, 0.0, 1e-9])
def test_a_distance_holds_up_to_its_limit(excess: float) -> None:
    limit = value("positions_max_abs")
    found = next(each for each in JUDGE.distances(rows(1, max_abs=limit * (1 + excess))) if each.of == "max_abs most")
    assert found.holds is (excess <= 0) and found.limit == limit and found.short == ""
    short = Judge(floor=floor(rows(9)))
    far = next(each for each in short.distances(rows(1, max_abs=limit * (1 + excess))) if each.of == "max_abs most")
    assert bool(far.short) is (excess > 0)


def test_the_overlap_may_lose_what_the_floor_loses() -> None:
    factor, limit = value("floor_tail"), value("positions_top5")
    lost = 2 * (1 - limit) / factor
    judge = Judge(floor=floor(rows(128), rows(128, top5=1 - lost)))
    found = judge.overlap(rows(128, top5=1 - factor * lost + 1e-9))
    assert found.holds and found.limit == pytest.approx(1 - factor * lost) and "what the floor loses" in found.basis
    assert not judge.overlap(rows(128, top5=1 - factor * lost - 1e-6)).holds
    little = Judge(floor=floor(rows(128, top5=1 - (1 - limit) / factor / 2)))
    assert little.overlap(rows(4)).limit == JUDGE.overlap(rows(4)).limit == limit
    short = Judge(floor=floor(rows(9, top5=0.0)))
    assert short.overlap(rows(4, top5=0.0)).limit == limit and short.overlap(rows(4, top5=0.0)).short == short.short
    assert short.overlap(rows(4)).short == ""


def test_what_no_floor_excuses() -> None:
    ceilings = ["ceiling_cosine", "ceiling_typical_cosine", "ceiling_kl", "ceiling_gain"]
    other = Judge(same=False, floor=floor(rows(128), covers=True))
    assert [each.threshold for each in other.coarse(rows(32))] == ceilings
    assert [each.threshold for each in other.coarse(rows(31))] == ceilings[:1]
    assert Judge(floor=floor(rows(128))).coarse(rows(32)) == [] and Judge(floor=floor(rows(9))).coarse(rows(32))
    given = Judge(same=False, overrides={"cosine": 0.1, "kl": 1.0})
    assert [each.threshold for each in given.coarse(rows(32))] == ceilings[3:]
    assert [each.threshold for each in given.coarse(rows(32), "x ")] == ceilings
    far = other.coarse(rows(33, cosine=[0.5] * 16 + [1.0] * 17, kl=3.0, factor=0.75))
    assert [each.value for each in far] == pytest.approx([0.5, 1.0, 3.0, 0.25])


def test_a_floor_that_is_far_from_itself_is_doubted() -> None:
    assert Judge().doubt() is None and Judge(floor=floor(rows(128))).doubt() is None
    found = Judge(floor=floor(rows(128), rows(128, cosine=0.0))).doubt()
    assert found is not None and found.of == "floor (1) least cosine" and not found.holds
    first = JUDGE.measure("positions_least", "x", 1.0)
    assert Judge(doubted=first).doubt() is first


@pytest.mark.parametrize(("shaped", "beside", "told"), [(16, 16, 2), (15, 16, 0), (16, 15, 0)])
def test_the_form_of_errors_is_judged_where_there_are_enough(shaped: int, beside: int, told: int) -> None:
    found = floor(rows(128, mse=1.0))
    found.controls["0"].shaped = beside
    assert len(Judge(floor=found).shapes(tally(rows(32, mse=1.0), shaped))) == told
    assert Judge(floor=found).shapes(tally(rows(31, mse=1.0), shaped)) == []
    assert (
        Judge(same=False, floor=found).shapes(tally(rows(32, mse=1.0), shaped))
        == []
        == Judge().shapes(tally(rows(32), 99))
    )


def test_the_noise_of_a_logit_is_the_floors_and_no_less_than_a_tie() -> None:
    assert Judge().noise == value("decode_tie") / 2
    assert Judge(floor=floor(rows(2, max_abs=value("decode_tie")), rows(2))).noise == value("decode_tie")
