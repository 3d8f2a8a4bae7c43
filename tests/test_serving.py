"""The process that serves: it repeats what was probed, and a known step tells when its device goes wrong later."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import kparity
from kparity.backends.cpu import CpuBackend
from kparity.engine import Engine
from kparity.engine.canary import EVERY, KEYS, SHARE, Canary, Tripped
from kparity.errors import Refused
from kparity.model import load_model
from tests.cli import TAG, run

WORDS = ("--prompt", "In the beginning", "--max-tokens")


def test_what_is_right_in_the_probes_process_alone_does_not_serve() -> None:
    done = run("run", "-b", "liar-next,cpu", *WORDS, "2", liars=True)
    line = f"[{TAG}] liar-next path rejected, attempting fallback: [KP-CHANGED] repeated in the serving process: "
    assert done.stderr.startswith(line) and "Backend: cpu (" in done.stderr and done.returncode == 0, done.stderr


@pytest.mark.parametrize("every", [(), ("--canary", "20")])
def test_what_goes_wrong_while_it_serves_trips_and_the_next_backend_goes_on(
    every: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "receipt.json"
    done = run("run", "-b", "liar-weary,cpu", *WORDS, "300", *every, "--receipt", str(path), liars=True)
    _, first, *rest = done.stderr.splitlines()
    assert first.startswith(f"[{TAG}] liar-weary path rejected while serving, attempting fallback: [KP-CANARY] "), first
    told = re.fullmatch(r"tokens (\d+) to (\d+) of the output above are in doubt", rest[0])
    assert told and "Backend: cpu (" in rest[1] and done.returncode == 1, done.stderr
    assert rest[2] == f"the output follows from token {told[1]} on"
    right = run("run", "-b", "cpu", *WORDS, "300").stdout.strip()
    above, _, below = done.stdout.strip().rpartition("\n")
    assert right.startswith(above[:60]) and right.endswith(below[-60:]), "what was in doubt is computed again"
    assert not every or int(told[1]) > 80
    seen = {each["backend"]: each["canary"] for each in json.loads(path.read_text())["predicate"]["runs"]}
    assert [seen[name]["trips"] for name in ("liar-weary", "cpu")] == [1, 0]
    assert seen["liar-weary"]["doubtful"] == int(told[1]) and seen["cpu"]["doubtful"] is None
    assert seen["liar-weary"]["checks"] > 0 and seen["liar-weary"]["every"] == int(every[-1]) if every else True


def test_the_last_word_of_a_short_answer_is_followed_by_a_known_step() -> None:
    done = run("run", "-b", "liar-later-wrong,cpu", *WORDS, "85", liars=True)
    assert f"[{TAG}] liar-later-wrong path rejected while serving, attempting fallback: [KP-CANARY] " in done.stderr
    assert "tokens 1 to 85 of the output above are in doubt" in done.stderr and done.returncode == 1, done.stderr


def test_a_forced_backend_that_trips_refuses(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    forced = ("--require", "liar-weary", "--canary", "50", "--receipt", str(path))
    done = run("run", *WORDS, "200", *forced, liars=True)
    assert json.loads(path.read_text())["predicate"]["runs"][0]["canary"]["trips"] == 1
    assert done.returncode == 3 and "rejected while serving, refusing, it was required: [KP-CANARY]" in done.stderr
    lines: list[str] = []
    chosen = kparity.select("cpu", canary=5, log=lines.append)
    assert chosen.engine.canary is not None and chosen.engine.canary.every == 5
    chosen.engine.canary.first = chosen.engine.canary.first + 1
    with pytest.raises(Tripped):
        list(chosen.engine.generate([0, 5], 20))
    assert "cpu path rejected while serving" in lines[-1] and "in doubt from position 0" in lines[-1]
    with pytest.raises(Refused, match="nothing was downgraded"):
        chosen.fall_back()


@pytest.mark.parametrize("divides", [True, False])
def test_a_canary_leaves_the_cache_and_the_text_as_they_were(divides: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not divides:
        monkeypatch.setattr(CpuBackend, "view", lambda *_: None)
    prompt, found = [0, *range(300, 340)], []
    for every in (0, 3):
        engine = Engine(load_model(None), CpuBackend())
        if every:
            engine.canary = Canary(engine, every)
        text = list(engine.generate(prompt, 40))
        assert engine.position > KEYS and (engine.canary is None or engine.canary.sure > 40)
        caches = [engine.backend.download(buffer)[: engine.position] for pair in engine.cache for buffer in pair]
        found.append((text, np.stack(caches)))
        engine.close()
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])


def test_by_default_it_takes_a_hundredth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(load_model(None), CpuBackend())
    ticks = (float(100 * turn + at) for turn in range(5) for at in (0, 1, 31))  # a step takes 1 s, a canary 30
    monkeypatch.setattr("time.perf_counter", ticks.__next__)
    assert Canary(engine).every == 30 / SHARE > EVERY
