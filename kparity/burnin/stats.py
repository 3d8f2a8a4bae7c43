"""What the rounds of a log show: rates with intervals, drift by prompt, latency, ties, and the gates.

Everything may be looked at after every round: intervals are confidence sequences, which hold at all times at once. The
unit of the exact rate is the distinct prompt, whose value is the share of its rounds that were exact.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from kparity import contracts
from kparity.burnin.query import Table, picked
from kparity.burnin.record import BUCKETS, Mode
from kparity.numerics import statistics
from kparity.receipts.cutover import Gate, State, target, verdict_of

HOUR, LATENCIES, SHOWN = 3600.0, 200_000, 20
"""Seconds; rounds, drawn from all, whose latencies are compared; prompts and rounds that are told of."""
WRITTEN = "'%Y-%m-%dT%H:%M:%S.%gZ'"
"""How a time is written."""


class Miss(msgspec.Struct):
    """A prompt whose replies differed: in how many of its rounds, and which share of all misses that is."""

    prompt: int
    digest: str
    kind: str
    asked: str
    rounds: int
    misses: int
    share: float
    median_prefix: float


class Latency(msgspec.Struct):
    """Milliseconds to the whole reply, and by how much v2 is behind, with a confidence sequence of 95 %. ``above``: how
    often a round of v2 is slower than one of v1; ``p`` that this is chance (Mann-Whitney).
    """

    v1_p50: float
    v1_p95: float
    v2_p50: float
    v2_p95: float
    p95_gap: float
    p95_gap_low: float | None
    p95_gap_high: float | None
    ratio: float
    ratio_low: float | None
    ratio_high: float | None
    above: float
    p: float
    rounds: int


class Ties(msgspec.Struct):
    """No-matches by the margin where they part: equal, within the ``floor`` of rounds of one server against itself,
    beyond it (unexplained), or not told. ``floor`` is None without such rounds. ``margin_median`` and ``margin_most``
    are of the no-matches, ``moved`` is the median of how far margins move before that place; all in nats.
    """

    exact_tie: int
    near_tie: int
    diverged: int
    unknown: int
    floor: float | None
    floor_rounds: int
    floor_no_match: int
    margin_median: float | None
    margin_most: float | None
    moved: float | None


class Judged(msgspec.Struct):
    """Something with a verdict."""

    verdict: State

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 3 INCONCLUSIVE."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.verdict]


class Stats(Judged):
    """What a log shows. ``fixed_rate`` is the exact rate without the prompt that misses most; ``pattern`` whether one
    prompt drifts (look at the sampler, and at ties) or many do (look at the model); ``unmeasured`` counts rounds in
    which both replies were empty, which show nothing. ``explained_rate`` is the exact rate with explained ties.
    """

    log: str
    mode: Mode
    since: str
    first: str
    last: str
    hours: float
    rounds: int
    buckets: dict[str, int]
    compared: int
    exact: int
    exact_rate: float | None
    explained_rate: float | None
    prompts: int
    prompts_exact: int
    wilson_low: float | None
    wilson_high: float | None
    unmeasured: int
    top_miss: Miss | None
    fixed_rate: float | None
    pattern: Literal["none", "one", "many"]
    median_prefix: float | None
    faults: dict[str, int]
    clock_jumps: int
    latency: Latency | None
    ties: Ties
    gates: list[Gate]
    contract: str
    ppl_v1: float | None = None
    ppl_v2: float | None = None
    schema: str = "kparity-burnin-v1"

    def weigh(self, gate: Gate, ppl_v1: float | None, ppl_v2: float | None) -> None:
        """Let the perplexity of both sides, which no round tells of, be a gate too."""
        self.gates.append(gate)
        self.ppl_v1, self.ppl_v2, self.verdict = ppl_v1, ppl_v2, verdict_of(self.gates)


def drift(table: Table, mode: Mode, most: int = SHOWN) -> list[Miss]:
    """The prompts that miss most, most misses first."""
    total = table.row(f"SELECT count(*) FROM rounds WHERE {_missed(mode)}")[0]
    found = table.rows(
        f"""SELECT id, count(*), count(*) FILTER ({_missed(mode)}) AS misses,
        median(prefix) FILTER ({_missed(mode)}), min(round) FROM rounds WHERE {_compared(mode)} GROUP BY id
        HAVING misses > 0 ORDER BY misses DESC, min(round) LIMIT {most}"""
    )
    spelt = {row.round: row for row in picked(table, {each[4] for each in found})}
    return [
        Miss(row.prompt, row.digest, row.kind, row.asked, rounds, misses, misses / total, float(prefix))
        for _, rounds, misses, prefix, first in found
        for row in [spelt[first]]
    ]


def _compared(mode: Mode) -> str:
    """Rounds of two replies, at least one of which says something."""
    return f"(mode = '{mode}' AND bucket IN {BUCKETS[:3]} AND NOT empty)"


def _missed(mode: Mode) -> str:
    return f"({_compared(mode)} AND bucket <> 'exact')"


def stats(table: Table, mode: Mode = "greedy", since: str = "") -> Stats:
    """All of it, judged by the contract."""
    judge = contracts.load(contracts.CUTOVER)
    counts = dict(table.rows(f"SELECT bucket::VARCHAR, count(*) FROM rounds WHERE mode = '{mode}' GROUP BY 1"))
    buckets: dict[str, int] = {name: counts.get(name, 0) for name in BUCKETS}
    first, last, begun, ended, jumps, unmeasured, prefix = table.row(
        f"""SELECT coalesce(strftime(min(time), {WRITTEN}), ''), coalesce(strftime(max(time), {WRITTEN}), ''),
        min(elapsed), max(elapsed),
        count(*) FILTER (jumped), count(*) FILTER (empty AND bucket = 'exact'),
        median(prefix) FILTER ({_missed(mode)}) FROM rounds WHERE mode = '{mode}'"""
    )
    compared, exact = table.row(
        f"SELECT count(*), count(*) FILTER (bucket = 'exact') FROM rounds WHERE {_compared(mode)}"
    )
    shares = table.row(
        f"""SELECT count(*), count(*) FILTER (share = 1), coalesce(sum(share), 0) FROM (SELECT avg((bucket =
        'exact')::INT) AS share FROM rounds WHERE {_compared(mode)} GROUP BY id)"""
    )
    prompts, prompts_exact, mean = int(shares[0]), int(shares[1]), float(shares[2])
    misses = drift(table, mode, 1)
    low, high = statistics.wilson_interval(prompts_exact, prompts) if prompts else (None, None)
    hours = (ended - begun) / HOUR if ended is not None else 0.0
    latency, ties = _latency(table, mode), _ties(table, judge, mode)
    gates = _gates(table, judge, mode, buckets, (mean, prompts), hours, latency)
    top = misses[0] if misses else None
    return Stats(
        log=str(table.path), mode=mode, since=since, first=first, last=last, hours=hours,
        rounds=sum(buckets.values()), buckets=buckets, compared=compared, exact=exact,
        exact_rate=exact / compared if compared else None,
        explained_rate=(exact + ties.exact_tie + ties.near_tie) / compared if compared else None,
        prompts=prompts, prompts_exact=prompts_exact, wilson_low=low, wilson_high=high, unmeasured=unmeasured,
        top_miss=top,
        fixed_rate=(exact + top.misses) / compared if top else None, pattern=_pattern(top, judge),
        median_prefix=prefix, faults=_faults(table, mode), clock_jumps=jumps, latency=latency,
        ties=ties, gates=gates, verdict=verdict_of(gates), contract=f"{judge.id} {judge.version}",
    )  # fmt: skip


def _pattern(top: Miss | None, judge: contracts.Contract) -> Literal["none", "one", "many"]:
    if top is None:
        return "none"
    return "one" if judge.threshold("one_prompt_share").holds(top.share) else "many"


def _faults(table: Table, mode: Mode) -> dict[str, int]:
    found = table.rows(
        f"""SELECT side || ' ' || fault, count(*) FROM (SELECT 'v1' AS side, v1_fault AS fault FROM rounds WHERE
        mode = '{mode}' UNION ALL SELECT 'v2', v2_fault FROM rounds WHERE mode = '{mode}') WHERE fault IS NOT NULL
        GROUP BY 1 ORDER BY 1"""
    )
    return dict(found)


def _ties(table: Table, judge: contracts.Contract, mode: Mode) -> Ties:
    rounds, differ, floor = table.row(
        f"""SELECT count(*), count(*) FILTER (bucket = 'no-match'), max(noise) FROM rounds WHERE mode = 'aa'
        AND bucket IN {BUCKETS[:3]}"""
    )
    equal = judge.threshold("tie_nats").value
    near = equal if floor is None else max(equal, float(floor))
    same, near_by, far, untold, middle, most = table.row(
        f"""SELECT count(*) FILTER (margin <= {equal}), count(*) FILTER (margin > {equal} AND margin <= {near}),
        count(*) FILTER (margin > {near}), count(*) FILTER (margin IS NULL), median(margin), max(margin)
        FROM rounds WHERE mode = '{mode}' AND bucket = 'no-match'"""
    )
    moved = table.row(f"SELECT median(noise) FROM rounds WHERE mode = '{mode}' AND bucket IN {BUCKETS[:3]}")[0]
    return Ties(same, near_by, far, untold, floor, rounds, differ, middle, most, moved)


def finite(value: float) -> float | None:
    """A number as JSON has it, which knows no other."""
    return value if math.isfinite(value) else None


def _latency(table: Table, mode: Mode) -> Latency | None:
    every = f"mode = '{mode}' AND bucket IN {BUCKETS[:3]}"
    share = LATENCIES / max(table.row(f"SELECT count(*) FROM rounds WHERE {every}")[0], 1)
    drawn = "" if share >= 1 else f"AND hash(round) < {int(share * 2**64)}"  # the same ones at every look
    found = table.columns(f"SELECT v1_ms, v2_ms FROM rounds WHERE {every} {drawn}")
    a, b = found["v1_ms"].astype("f8"), found["v2_ms"].astype("f8")
    if not a.size:
        return None
    half, most = ([statistics.quantile(side, share) for side in (a, b)] for share in (0.5, 0.95))
    (low1, high1), (low2, high2) = (statistics.quantile_sequence(side, 0.95) for side in (a, b))
    (mid1, top1), (mid2, top2) = (statistics.quantile_sequence(side, 0.5) for side in (a, b))
    above, p = statistics.mann_whitney(a, b)
    return Latency(
        half[0], most[0], half[1], most[1], most[1] - most[0], finite(low2 - high1), finite(high2 - low1),
        half[1] / max(half[0], 1e-9), finite(max(mid2, 0.0) / top1), finite(top2 / max(mid1, 1e-9)), above, p, a.size,
    )  # fmt: skip


def _gates(
    table: Table, judge: contracts.Contract, mode: Mode, buckets: dict[str, int], exact: tuple[float, int],
    hours: float, latency: Latency | None,
) -> list[Gate]:  # fmt: skip
    total = sum(buckets.values())
    done = sum(buckets[name] for name in BUCKETS[:3])
    lost = buckets["v2-unreachable"] + buckets["both-unreachable"]
    return [
        _rate(judge, "exact_rate", *exact, "distinct prompts"),
        _kinds(table, judge, mode),
        _count(judge, "rounds", done, _hours_for(judge.threshold("rounds").value - done, done, hours)),
        _count(judge, "distinct_prompts", exact[1], "distinct prompts"),
        _rate(judge, "v2_unreachable", lost, total, "rounds"),
        _between(judge, "p95_gap_ms", *(
            (latency.p95_gap, latency.p95_gap_low, latency.p95_gap_high) if latency else (None, None, None)
        )),
        _between(judge, "latency_ratio", *(
            (latency.ratio, latency.ratio_low, latency.ratio_high) if latency else (None, None, None)
        )),
        _worst_hour(table, judge, mode),
        _trend(table, judge, mode, hours),
    ]  # fmt: skip


def _hours_for(rounds: float, done: int, hours: float) -> str:
    pace = f", {rounds * hours / done:.1f} hours at the pace of these" if done and hours and rounds > 0 else ""
    return f"rounds{pace}"


def _count(judge: contracts.Contract, name: str, found: int, of: str) -> Gate:
    """A number that only grows: too few is none that failed."""
    limit = judge.threshold(name)
    good = limit.holds(found)
    return Gate(
        name, target(limit), found, "PASS" if good else "INCONCLUSIVE",
        needs="" if good else f"{limit.value - found:.0f} more {of}",
    )  # fmt: skip


def _rate(judge: contracts.Contract, name: str, successes: float, n: int, of: str) -> Gate:
    """A rate whose confidence sequence must lie wholly on one side of its limit."""
    limit = judge.threshold(name)
    below = limit.sign in ("<", "≤")
    low, high = statistics.confidence_sequence(successes, n)
    rate = successes / n if n else None
    if n and limit.holds(high if below else low):
        return Gate(name, target(limit), rate, "PASS", low, high)
    if n and not limit.holds(low if below else high):
        return Gate(name, target(limit), rate, "FAIL", low, high)
    left = statistics.sequence_left(successes, n, limit.value, below)
    needs = f"{left:.0f} more {of}" if math.isfinite(left) else f"no number of {of} at this rate"
    return Gate(name, target(limit), rate, "INCONCLUSIVE", low if n else None, high if n else None, needs)


def _kinds(table: Table, judge: contracts.Contract, mode: Mode) -> Gate:
    """The exact rate of the worst kind of prompts; those of too few prompts are one kind together."""
    limit, least = judge.threshold("kind_exact_rate"), judge.threshold("kind_prompts")
    kinds = table.rows(
        f"""WITH prompts AS (SELECT kind, avg((bucket = 'exact')::INT) AS share, min(round) AS first FROM rounds
        WHERE {_compared(mode)} GROUP BY kind, id), sized AS (SELECT *, count(*) OVER (PARTITION BY kind) AS n FROM
        prompts) SELECT sum(share), count(*), CASE WHEN max(n) >= {least.value:.0f} THEN min(first) END FROM sized
        GROUP BY CASE WHEN n >= {least.value:.0f} THEN kind END"""
    )
    found = [_rate(judge, limit.id, successes, n, "distinct prompts of a kind") for successes, n, _ in kinds]
    if not found:
        return _rate(judge, limit.id, 0, 0, "distinct prompts")
    order: list[State] = ["FAIL", "INCONCLUSIVE", "PASS"]
    worst, (_, _, first) = min(
        zip(found, kinds, strict=True), key=lambda each: (order.index(each[0].state), each[0].current)
    )
    kind = picked(table, {first})[0].kind if first else "kinds of few prompts"
    if worst.state != "PASS":
        worst.needs = f"{kind}: {worst.needs or 'see kparity burnin drift'}"
    return worst


def _between(judge: contracts.Contract, name: str, found: float | None, low: float | None, high: float | None) -> Gate:
    limit = judge.threshold(name)
    if high is not None and limit.holds(high):
        state: State = "PASS"
    else:
        state = "FAIL" if low is not None and not limit.holds(low) else "INCONCLUSIVE"
    return Gate(name, target(limit), found, state, low, high, "more rounds" if state == "INCONCLUSIVE" else "")


def _worst_hour(table: Table, judge: contracts.Contract, mode: Mode) -> Gate:
    """The largest share of no-match in an hour that has rounds enough: hours end at each quarter of one."""
    limit, least = judge.threshold("no_match_per_hour"), judge.threshold("spike_rounds")
    worst = table.row(
        f"""WITH quarters AS (SELECT floor(elapsed / 900) AS q, count(*) AS n,
            count(*) FILTER (bucket = 'no-match') AS misses FROM rounds WHERE {_compared(mode)} GROUP BY 1),
        hours AS (SELECT sum(n) OVER last AS n, sum(misses) OVER last AS misses FROM quarters
            WINDOW last AS (ORDER BY q RANGE BETWEEN 3 PRECEDING AND CURRENT ROW))
        SELECT max(misses / n) FROM hours WHERE n >= {least.value:.0f}"""
    )[0]
    if worst is None:
        return Gate(limit.id, target(limit), None, "INCONCLUSIVE", needs=f"an hour of {least.value:.0f} rounds")
    return Gate(limit.id, target(limit), worst, "PASS" if limit.holds(worst) else "FAIL")


def _trend(table: Table, judge: contracts.Contract, mode: Mode, hours: float) -> Gate:
    """Whether the exact rate of the newer half of the last hours lies below that of the older, interval by interval."""
    span, limit = judge.threshold("trend_hours"), judge.threshold("falling_trend")
    halves = table.rows(
        f"""SELECT elapsed > (SELECT max(elapsed) FROM rounds WHERE mode = '{mode}') - {span.value * HOUR / 2} AS newer,
        count(*) FILTER (bucket = 'exact'), count(*) FROM rounds WHERE {_compared(mode)} AND elapsed >
        (SELECT max(elapsed) FROM rounds WHERE mode = '{mode}') - {span.value * HOUR} GROUP BY 1 ORDER BY 1"""
    )
    drop, falling = 0.0, 0.0
    if len(halves) == 2:
        (low, _), (_, high) = (statistics.confidence_sequence(*each[1:]) for each in halves)
        drop, falling = halves[0][1] / halves[0][2] - halves[1][1] / halves[1][2], max(0.0, low - high)
    if not limit.holds(falling):
        return Gate(limit.id, target(limit), drop, "FAIL", falling)
    if not span.holds(hours):
        return Gate(limit.id, target(limit), drop, "INCONCLUSIVE", needs=f"{span.value - hours:.1f} more hours")
    return Gate(limit.id, target(limit), drop, "PASS", falling)
