"""Burn-ins of a fleet: a log for each pair of servers, fetched while it grows, and gone on with where it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from kparity.burnin.record import Row
from kparity.errors import WrongInput
from kparity.fleet import here, store
from kparity.fleet.report import report
from tests import ray_cluster
from tests.burnin_server import Faulty, serving
from tests.cli import run

pytest.importorskip("duckdb", reason="DuckDB is not installed")


def rounds(path: Path) -> list[int]:
    return [msgspec.json.decode(line, type=Row).round for line in path.read_bytes().splitlines()]


def ledger(out: Path) -> list[dict[str, object]]:
    return [
        each for each in map(json.loads, (out / "fleet.jsonl").read_bytes().splitlines()) if each["what"] == "device"
    ]


def test_each_pair_has_its_log_and_a_wrong_server_is_named(tmp_path: Path) -> None:
    with serving() as right, serving() as also, serving(Faulty("tab")) as wrong:
        (tmp_path / "pairs").write_text(
            f"# ours\ngood {right} {also}\nbad {right} {wrong}\ndead {right} http://127.0.0.1:1\n"
        )
        words = ["fleet", "burnin", "--pairs", f"{tmp_path}/pairs", "--out", f"{tmp_path}/out", "--retries", "0"]
        done = run(*words, "--rounds", "90", "--", "--long-context", "50")
        assert done.returncode == 1, done.stderr
        by_name = {str(each["device"]): each for each in ledger(tmp_path / "out")}
        assert {name: each["outcome"] for name, each in by_name.items()} == {
            "good": "inconclusive", "bad": "failed", "dead": "failed"}  # fmt: skip
        assert rounds(tmp_path / "out/logs/0001-good.jsonl") == [*range(1, 91)]
        again = run(*words, "--rounds", "100", "--resume", "--", "--long-context", "50")
        assert again.returncode == 1 and "2 devices are done" in again.stderr, again.stderr
        assert rounds(tmp_path / "out/logs/0001-good.jsonl") == [*range(1, 101)]
        (tmp_path / "pairs").write_text(f"good {also} {right}\n")
        other = run(*words, "--rounds", "100", "--resume", "--", "--long-context", "50")
        assert other.returncode == 2 and "ask for the same" in other.stderr
    found = report(str(tmp_path / "out"), verify=True)
    burnt = {each.device: each.log for each in found.burnins}
    assert burnt["good"].exact == burnt["good"].rounds == 100 and burnt["good"].verdict == "INCONCLUSIVE"
    assert burnt["bad"].no_match > 0 and "exact_rate" in burnt["bad"].failed and burnt["dead"].unreachable == 90
    assert not found.damaged and found.exit_code == 1
    shown = run("fleet", "report", str(tmp_path / "out"))
    assert "burn-ins (3)" in shown.stdout and "exact_rate" in shown.stdout
    log = tmp_path / "out/logs/0001-bad.jsonl"
    log.write_bytes(log.read_bytes().replace(b"exact", b"EXACT", 1))
    assert report(str(tmp_path / "out"), verify=True).damaged == ["0001-bad.jsonl: not what was counted (bad)"]


def test_a_burn_in_that_was_interrupted_goes_on_where_its_log_ends(tmp_path: Path) -> None:
    with serving(Faulty(delay_s=0.02)) as one, serving() as other:
        (tmp_path / "pairs").write_text(f"pair {one} {other}\n")
        words = ["fleet", "burnin", "--pairs", str(tmp_path / "pairs"), "--out", str(tmp_path / "out")]
        command = [sys.executable, "-m", "kparity", *words, "--rounds", "5000"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
        log, until = tmp_path / "out/logs/0001-pair.jsonl", time.monotonic() + 90
        while not log.exists() and time.monotonic() < until:
            time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        before = log.read_bytes()
        n = len(rounds(log))
        with log.open("ab") as file:
            file.write(b'{"round":')  # what a power cut leaves
        done = run(*words, "--rounds", str(n + 5), "--resume")
    assert done.returncode == 3, done.stderr
    assert log.read_bytes().startswith(before) and rounds(log) == [*range(1, n + 6)]


def test_a_log_behind_a_url_is_whole_at_the_end(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    url = f"memory://{tmp_path}"
    place = store.opened(url)
    place.extend("a.jsonl", b"one\n")
    place.extend("a.jsonl", b"two\n")
    place.close()
    again = store.opened(url)
    assert again.log("a.jsonl").read_bytes() == b"one\ntwo\n"
    assert store.digest(again.log("a.jsonl"), 4) == store.digest(again.log("a.jsonl"), 4) != ""
    assert store.digest(again.log("a.jsonl"), 9) == "" == store.digest(again.log("b.jsonl"), 1)
    again.close()


@pytest.mark.parametrize("text", ["", "# nothing", "a http://x", "a http://x y", "a http://x http://y z",
                                  "a http://x http://y\na http://x http://y"])  # fmt: skip
def test_a_list_of_pairs_that_is_none_is_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text(text)
    with pytest.raises(WrongInput, match="NAME URL URL"):
        here.pairs(str(tmp_path / "pairs"))


def test_what_a_fleet_gives_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("a http://127.0.0.1:1 http://127.0.0.1:2\n")
    for words, why in (
        (("--max-rounds", "3"), "is not for a fleet"),
        (("--v1", "http://127.0.0.1:1"), "is what --pairs names"),
    ):
        done = run("fleet", "burnin", "--pairs", str(tmp_path / "pairs"), "--rounds", "1", "--", *words)
        assert done.returncode == 2 and why in done.stderr


@pytest.mark.slow
def test_a_node_of_a_real_cluster_burns_in_its_own_pair(tmp_path: Path) -> None:
    ray_cluster.needed()
    with serving() as one, serving() as other, ray_cluster.Raylets("one") as cluster:
        done = run("fleet", "burnin", "--address", cluster.address, "--per", "node", "--rounds", "60", "--out",
                   str(tmp_path / "out"), "--", "--v1", one, "--v2", other)  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert [(each["device"], each["outcome"]) for each in ledger(tmp_path / "out")] == [("one", "inconclusive")]
    assert rounds(tmp_path / "out/logs/0001-one.jsonl") == [*range(1, 61)]
