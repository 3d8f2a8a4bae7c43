"""What a log of rounds shows: the numbers of the story, the gate that catches each fault, and statistics that may be
looked at at any time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity.burnin import page, query
from kparity.burnin.prompts import built_in
from kparity.burnin.record import Row, Side
from kparity.burnin.stats import Stats, drift, stats
from kparity.errors import WrongInput
from kparity.numerics.statistics import (
    confidence_sequence,
    evidence,
    mann_whitney,
    quantile_sequence,
    sequence_left,
)
from tests.burnin_server import Faulty
from tests.cli import run
from tests.test_burnin import burned, rows
from tests.test_ppl import Made, judged, right


def row(number: int, **changes: Any) -> Row:
    """An exact round of one of 240 prompts."""
    at = number % 240
    made = Row(
        round=number, time=f"2026-04-20T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.000Z",
        elapsed=float(number), prompt=at, digest=f"{at:016x}", kind="factual", asked=f"prompt {at}", mode="greedy",
        bucket="exact", prefix=80, v1=Side(100.0 + number % 7, bytes=80, text="x" * 80),
        v2=Side(101.0 + number % 5, bytes=80, text="x" * 80),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def log_of(path: Path, made: Iterable[Row]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in made))
    return path


def read(path: Path, since: str = "") -> Stats:
    with query.opened(path, since) as table:
        return stats(table, since=since)


def gates(found: Stats) -> dict[str, str]:
    return {gate.name: gate.state for gate in found.gates}


OTHERS = [at for at in range(5, 15_013, 83) if at % 30 != 7][:167]


def story(number: int) -> Row:
    """668 misses of 15,012 rounds, 501 of them of one prompt."""
    if number % 30 == 7:
        return row(number, prompt=7, digest="7", asked="chemical symbol for gold", bucket="no-match", prefix=4)
    return row(number, bucket="no-match", prefix=9) if number in OTHERS else row(number)


def test_the_lines_of_the_story(tmp_path: Path) -> None:
    path = log_of(tmp_path / "shadow burnin.jsonl", map(story, range(1, 15_013)))
    done = run("burnin", "stats", "--log", str(path), env={"COLUMNS": "119"})
    assert "bytes_exact: 14344 / 15012 (95.55%)" in done.stdout and done.returncode == 3
    assert 'top_miss: idx=7 "chemical symbol for gold" (75.0% of misses); with it fixed 98.89%' in done.stdout
    page = (Path(__file__).parent.parent / "docs/burnin.md").read_text()
    assert page.split("$ kparity burnin stats\n")[1].split("```")[0].strip() in done.stdout
    with query.opened(path) as table:
        found = drift(table, "greedy")
    assert (found[0].prompt, found[0].misses, found[0].median_prefix) == (7, 501, 4) and len(found) == 20
    spread = log_of(path, (row(at, **({"bucket": "no-match"} if at % 20 == 0 else {})) for at in range(1, 5000)))
    assert read(spread).pattern == "many"


def whole(count: int = 60_000, **changes: Any) -> Iterable[Row]:
    """Four seconds a round, 66 hours of them."""
    return (row(at, elapsed=4.0 * at, **changes) for at in range(1, count + 1))


def test_all_gates_are_green_where_everything_is_right(tmp_path: Path) -> None:
    found = read(log_of(tmp_path / "log", whole()))
    assert set(gates(found).values()) == {"PASS"} and found.verdict == "PASS" and found.exit_code == 0
    assert [gate.needs for gate in found.gates] == [""] * 9


@pytest.mark.parametrize(
    ("gate", "change"),
    [
        ("exact_rate", lambda each: {"bucket": "prefix-only"} if each.prompt % 4 == 0 else {}),
        ("kind_exact_rate", lambda each: {"kind": "long-context", "bucket": "no-match"} if each.prompt < 12 else {}),
        ("v2_unreachable", lambda each: {"bucket": "v2-unreachable"} if each.round % 400 == 0 else {}),
        ("v2_unreachable", lambda each: {"bucket": "both-unreachable"} if each.round % 400 == 0 else {}),
        ("p95_gap_ms", lambda each: {"v2": Side(260.0)} if each.round % 10 == 0 else {}),
        ("latency_ratio", lambda each: {"v1": Side(10.0), "v2": Side(21.0)}),
        ("no_match_per_hour", lambda each: {"bucket": "no-match"} if 900 < each.round < 1200 else {}),
        ("falling_trend", lambda each: {"bucket": "no-match"} if each.round > 57_000 and each.round % 20 == 0 else {}),
    ],
)  # fmt: skip
def test_each_gate_fails_alone(gate: str, change: Callable[[Row], dict[str, Any]], tmp_path: Path) -> None:
    changed = (msgspec.structs.replace(each, **change(each)) for each in whole())
    found = read(log_of(tmp_path / "log", changed))
    assert [name for name, state in gates(found).items() if state == "FAIL"] == [gate]
    assert found.verdict == "FAIL" and found.exit_code == 1


def test_too_little_data_is_never_green(tmp_path: Path) -> None:
    found = read(log_of(tmp_path / "log", map(row, range(1, 31))))
    assert found.verdict == "INCONCLUSIVE" and found.exit_code == 3 and found.exact == found.compared == 30
    waiting = {gate.name: gate.needs for gate in found.gates if gate.state == "INCONCLUSIVE"}
    assert waiting["rounds"].startswith("49970 more rounds") and waiting["exact_rate"] == "39 more distinct prompts"
    assert waiting["falling_trend"] == "48.0 more hours" and set(waiting) >= {"v2_unreachable", "p95_gap_ms"}
    same = [row(at, prompt=0, digest="0") for at in range(1, 50_001)]
    found = read(log_of(tmp_path / "log", same))  # one prompt, however often, is one
    assert gates(found)["exact_rate"] == gates(found)["distinct_prompts"] == "INCONCLUSIVE"
    found = read(log_of(tmp_path / "log", [row(1, bucket="v1-unreachable")]))
    assert found.exact_rate is None and set(gates(found).values()) == {"INCONCLUSIVE"}


def test_rounds_of_one_server_are_the_floor_and_in_no_rate(tmp_path: Path) -> None:
    alone = [row(at, mode="aa", noise=0.02 if at == 3 else 0.0) for at in range(1, 31)]
    margins = [0.0, 0.01, 0.02, 0.5, None]
    differ = [row(31 + at, bucket="no-match", margin=margin) for at, margin in enumerate(margins)]
    found = read(log_of(tmp_path / "log", [*alone, *differ]))
    ties = found.ties
    assert (ties.exact_tie, ties.near_tie, ties.diverged, ties.unknown) == (1, 2, 1, 1)
    assert (ties.margin_median, ties.margin_most, ties.moved) == (pytest.approx(0.015), 0.5, None)
    assert ties.floor == pytest.approx(0.02) and ties.floor_rounds == 30 and found.rounds == 5
    assert (found.exact_rate, found.explained_rate) == (0, 0.6)
    found = read(log_of(tmp_path / "log", [row(1, bucket="no-match", margin=0.01)]))
    assert found.ties.diverged == 1 and found.ties.floor is None  # nothing is explained without a floor


@pytest.mark.parametrize(
    ("since", "rounds"),
    [("2026-04-20T00:01:40Z", 21), ("2026-04-20T02:01:40+02:00", 21), ("2026-04-20T00:01:40", 21),
     ("2026-04-19T20:01:40.000-04:00", 21), ("2026-04-20", 120), ("2027-01-01", 0)],
)  # fmt: skip
def test_since_a_time_of_any_zone(since: str, rounds: int, tmp_path: Path) -> None:
    path = log_of(tmp_path / "log", map(row, range(1, 121)))
    assert read(path, since).rounds == rounds
    done = run("burnin", "since", "yesterday", "--log", str(path)) if rounds == 0 else None
    assert done is None or (done.returncode == 2 and "'yesterday' is no time" in done.stderr)


def test_recent_rounds_and_an_export(tmp_path: Path) -> None:
    path = log_of(tmp_path / "it's [a] log*", [row(1), row(2, bucket="no-match", v2=Side(1.0, text="x" * 80 + "\t✗"))])
    shown = run("burnin", "recent", "--log", str(path), "--differing")
    assert shown.returncode == 0 and "no-match" in shown.stdout and "\\t✗" in shown.stdout
    assert [each["round"] for each in json.loads(run("burnin", "recent", "--log", str(path), "--json").stdout)] == [
        2,
        1,
    ]
    for name, ms in (("rows.csv", "v1"), ("rows.parquet", "v1.ms")):
        assert run("burnin", "export", str(tmp_path / name), "--log", str(path)).returncode == 0
        with query.opened(path) as table:
            found = table.rows(f"SELECT round, asked, {ms} FROM '{tmp_path / name}'")
        assert [each[:2] for each in found] == [(1, "prompt 1"), (2, "prompt 2")] and "101.0" in str(found[0][2])
    assert "neither .parquet nor .csv" in run("burnin", "export", str(tmp_path / "rows.xls"), "--log", str(path)).stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"\x00\x01", "no whole round"), (b"not json\n", "1 lines are no rounds"),
     (msgspec.json.encode(row(5)) + b"\n", "1 rounds and its last one is round 5"), (b"[1, 2]\n", "no rounds"),
     (b'{"round": 1}\n', "1 lines are no rounds"), (b"[" * 9999 + b"\n", "1 lines are no rounds")],
)  # fmt: skip
def test_what_is_no_log_is_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(WrongInput, match=sentence):
        read(path)


@pytest.mark.parametrize("piece", [1, 333, 1 << 25])
def test_every_number_of_a_log_is_read_as_it_was_written(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a thread's piece ends within a line, and however the line is spelt."""
    hostile = ['", "bucket": "exact', "\\", '\\"', "{", "\x00\t\n", "🙂\u2028", "v1"]
    clocks, numbers = (0.0, -0.25, 3e-7), (None, 0.0, 1.5e-9, 0.1234567890123456789, 12.130222222222223, 5e300)
    made = [
        row(
            at, elapsed=at / 7, digest=f"{at % 5}", kind=hostile[at % 5], asked=hostile[at % 7], prefix=at % 9,
            bucket=query.BUCKETS[at % 6], clock=clocks[at % 3], margin=numbers[at % 5], noise=numbers[at % 4],
            v1=Side(1e-3 * at**3, bytes=at % 2, text=hostile[-at % 7], fault="http" if at % 6 > 2 else ""),
        )
        for at in range(1, 85)
    ]  # fmt: skip
    path = log_of(tmp_path / "log", made)
    lines = [json.dumps(each, ensure_ascii=at % 2 == 0, indent=at % 3 or None).replace("\n", "\r\t")
             for at, each in enumerate(map(json.loads, path.read_bytes().split(b"\n")[:-1]))]  # fmt: skip
    path.write_text("\n".join(lines))  # and the last line has no end
    monkeypatch.setattr(query, "PIECE", piece)
    with query.opened(path) as table:
        found = table.rows("""SELECT round, epoch_ms(time), elapsed, mode::VARCHAR, bucket::VARCHAR, prefix, jumped,
            v1_ms, v1_fault::VARCHAR, v2_fault::VARCHAR, empty, margin, noise FROM rounds ORDER BY round""")
        same = table.row("SELECT count(DISTINCT id), count(DISTINCT kind) FROM rounds")
    f32 = np.float32
    assert same == (5, 5) and found == [
        (each.round, round(datetime.fromisoformat(each.time[:-1] + "+00:00").timestamp() * 1000), each.elapsed,
         each.mode, each.bucket, each.prefix, each.clock != 0, f32(each.v1.ms), each.v1.fault or None, None, False,
         *(None if value is None else f32(value) for value in (each.margin, each.noise))) for each in made
    ]  # fmt: skip


@pytest.mark.parametrize("change", [
    (b'"round":1,', b""), (b'"round":1,', b'"round":1.5,'), (b'"round":1,', b'"round":99999999999,'),
    (b"factual", b'fac"tual'), (b'"exact"', b'"alike"'), (b'"greedy"', b"null"), (b'"elapsed":1.0', b'"elapsed":"1"'),
    (b"2026-04-20T", b"2026-13-20T"), (b"2026-04-20T", b"2026-04-20 "), (b".000Z", b""), (b'"ms":101.0', b'"mz":1'),
    (b'"v2":{', b'"v3":{'), (b'},"margin"', b',"margin"'), (b'"clock":0.0}', b'"clock":0.0} 1'),
    (b'"clock":0.0}', b'"clock":0.0'), (b'"fault"', b'"fault'), (b'"v1":{', b'"v1":{"fault":"no such one",'),
    (b"80", b"8-0"), (b'"tie"', b'"tie":"x"'),
])  # fmt: skip
def test_a_line_that_is_no_round_is_counted_as_none(change: tuple[bytes, bytes], tmp_path: Path) -> None:
    path, line = tmp_path / "log", msgspec.json.encode(row(1))
    if change[0] not in line:
        line = line.replace(b'"v1":{', b'"v1":{"fault":"",')
    assert change[0] in line
    path.write_bytes(line.replace(*change, 1) + b"\n")
    with pytest.raises(WrongInput, match="1 lines are no rounds"):
        read(path)


def test_a_round_that_is_being_written_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log_of(tmp_path / "log", map(row, range(1, 4)))
    path.write_bytes(path.read_bytes()[:-50])
    assert read(path).rounds == 2 and "not whole" in capsys.readouterr().err


def test_a_cache_that_is_not_reset_shows_after_200_completions(tmp_path: Path) -> None:
    """The bug that perplexity did not see: right for 200 rounds, and wrong ever after."""
    _, found, said = burned(tmp_path / "log", Faulty(), Faulty("kv-reset"), built_in(), rounds=300, halt_on_spike=True)
    assert {each.bucket for each in found[:200]} == {"exact"} and 201 <= len(found) < 300
    assert "of the last hour are no-match" in said[-1]
    counted = read(tmp_path / "log")
    assert gates(counted)["no_match_per_hour"] == "FAIL" and counted.pattern == "many"


def test_a_wrong_rope_shows_in_long_contexts_alone(tmp_path: Path) -> None:
    burned(tmp_path / "log", Faulty(), Faulty("rope"), built_in(), rounds=90)
    with query.opened(tmp_path / "log") as table:
        found = drift(table, "greedy")
    assert len(found) == 15 and {each.kind for each in found} == {"long-context"}
    counted = read(tmp_path / "log")
    assert counted.pattern == "many" and counted.ties.diverged + counted.ties.unknown == counted.buckets["no-match"]


def test_a_tie_of_the_sampler_is_one_prompt(tmp_path: Path) -> None:
    burned(tmp_path / "log", Faulty(), Faulty("tie"), built_in(), rounds=60)
    found = read(tmp_path / "log")
    assert found.pattern == "one" and found.top_miss is not None and found.top_miss.prompt == 0
    assert found.fixed_rate == 1.0 and found.ties.unknown == 0


def test_a_confidence_sequence_holds_however_often_it_is_looked_at() -> None:
    """Of runs of 3,000 trials, looked at after each, at most 5 % ever exclude the truth; an interval of one look does
    in far more.
    """
    runs, trials, dice = 1000, 1000, np.random.default_rng(0)
    n, logs = np.arange(1, trials + 1), np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 2)))])
    for rate in (0.9, 0.5, 0.999):
        hits = np.cumsum(dice.random((runs, trials)) < rate, axis=1)
        mixed = logs[hits] + logs[n - hits] - logs[n + 1]
        found = mixed - hits * np.log(rate) - (n - hits) * np.log1p(-rate)
        for at in (0, 7, trials - 1):
            assert evidence(int(hits[0, at]), at + 1, rate) == pytest.approx(found[0, at])
        lost = float((found >= np.log(20)).any(axis=1).mean())
        assert 0 < lost < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs), rate
    z = (hits / n - 0.999) / np.sqrt(0.999 * 0.001 / n)
    assert (abs(z[:, 20:]) > 1.96).any(axis=1).mean() > 0.2  # an interval of one look, looked at often


def test_a_confidence_sequence_is_where_the_evidence_is_too_small() -> None:
    for successes, n in ((0, 5), (5, 5), (7, 10), (95.5, 100), (49_999, 50_000)):
        low, high = confidence_sequence(successes, n)
        assert low < successes / n < high or successes in (0, n)
        for end in (low, high):
            assert end in (0.0, 1.0) or evidence(successes, n, end) == pytest.approx(np.log(20), rel=1e-3)
    assert confidence_sequence(0, 0) == (0.0, 1.0)
    with pytest.raises(WrongInput):
        evidence(3, 2, 0.5)


def test_what_is_left_is_what_decides() -> None:
    assert sequence_left(30, 30, 0.9) == 39 and confidence_sequence(69, 69)[0] >= 0.9 > confidence_sequence(68, 68)[0]
    assert sequence_left(69, 69, 0.9) == 0 and sequence_left(8, 10, 0.9) == np.inf
    left = sequence_left(0, 0, 0.001, below=True)
    assert confidence_sequence(0, int(left))[1] < 0.001 <= confidence_sequence(0, int(left) - 1)[1]


def test_bounds_of_a_quantile_hold_at_every_look() -> None:
    dice, lost = np.random.default_rng(1), 0
    for _ in range(100):
        values = dice.exponential(size=600)
        bounds = [quantile_sequence(values[:at], 0.95) for at in range(20, 601, 20)]
        lost += any(not low <= -np.log(0.05) <= high for low, high in bounds)
    assert lost <= 8 and quantile_sequence([1.0, 2.0], 0.95) == (1.0, np.inf)  # of two, one is below
    low, high = quantile_sequence(dice.exponential(size=5000), 0.5)
    assert 0.62 < low < np.log(2) < high < 0.77


def test_mann_whitney_counts_pairs() -> None:
    dice = np.random.default_rng(2)
    a, b = dice.integers(0, 6, 40), dice.integers(1, 7, 30)
    pairs = [(y > x) + 0.5 * (y == x) for x, y in itertools.product(a, b)]
    above, p = mann_whitney(a, b)
    assert above == pytest.approx(np.mean(pairs)) and 0 < p < 1
    shuffled = [mann_whitney(*np.split(dice.permutation(np.concatenate([a, b])), [40]))[0] for _ in range(4000)]
    assert p == pytest.approx(np.mean([abs(each - 0.5) >= abs(above - 0.5) for each in shuffled]), abs=0.01)
    assert mann_whitney([1.0], [1.0]) == (0.5, 1.0)


def test_a_real_log_reads_back_as_it_was_written(tmp_path: Path) -> None:
    _, written, _ = burned(tmp_path / "log", Faulty(), Faulty("prefix"), rounds=5)
    with query.opened(tmp_path / "log") as table:
        assert query.last(table, 10)[::-1] == written == rows(tmp_path / "log")
        assert table.row("SELECT count(*), sum(prefix) FROM rounds WHERE bucket = 'prefix-only'") == (
            5, sum(each.prefix for each in written),
        )  # fmt: skip


def test_the_perplexity_of_both_sides_is_a_gate_more(tmp_path: Path) -> None:
    """The lines of the story, and a burn-in that is right but for it."""
    log, ppl = log_of(tmp_path / "log", whole()), tmp_path / "ppl.json"
    flat = Made(lambda fed: right(fed) * np.float32(0.9))
    for candidate, code, state in ((Made(), 0, "PASS"), (flat, 1, "FAIL")):
        found = judged(candidate)
        ppl.write_bytes(msgspec.json.encode(found))
        done = run("burnin", "stats", "--log", str(log), "--ppl", str(ppl))
        assert done.returncode == code and f"ppl_v1: {found.reference.ppl:.4f}\n" in done.stdout
        assert f"ppl_v2: {found.candidate.ppl:.4f} (Δ {found.delta:+.4f}) {state}\n" in done.stdout
        text = page.dashboard(log, tmp_path / "state", "greedy", 2, found)
        assert "ppl_delta" in text
    assert "ppl_delta" not in page.dashboard(log, tmp_path / "state", "greedy", 2)
    ppl.write_text("{}")
    for more in ((), ("--dashboard", "0")):
        assert run("burnin", "stats", "--log", str(log), "--ppl", str(ppl), *more).returncode == 2
