"""Rounds of two servers and the log of them: every way to fail by its name, and nothing lost however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kparity.burnin import mirror, prompts, wire
from kparity.burnin import run as rounds
from kparity.burnin.compare import Step, margins
from kparity.burnin.log import Log
from kparity.burnin.mirror import Mirror
from kparity.burnin.prompts import Listed, Prompt, single
from kparity.burnin.record import Row, Side
from kparity.burnin.run import Ended, Settings, burn
from kparity.burnin.wire import Answer, Pair, Server, encoded
from kparity.errors import WrongInput
from tests.burnin_server import TIE, Faulty, serving
from tests.cli import run

ASKED = [single(f"prompt {at}") for at in range(5)]


def state_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.state")


def opened(path: Path, said: list[str] | None = None) -> Log:
    return Log(path, state_of(path), (said if said is not None else []).append)


def rows(path: Path) -> list[Row]:
    return [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]


def burned(
    path: Path, one: Faulty, other: Faulty, asked: list[Prompt] | Mirror = ASKED, seconds: float = 5.0, **settings: Any
) -> tuple[Ended, list[Row], list[str]]:
    """Rounds of two servers: how they ended, the log, and what was said."""
    said: list[str] = []
    with serving(one) as a, serving(other) as b:
        log = opened(path, said)
        made = Settings(a, b, **{"rounds": 1, **settings})
        pair = Pair(Server("v1", a, seconds, made.chat), Server("v2", b, seconds, made.chat))
        try:
            return (
                burn(made, Listed(asked) if isinstance(asked, list) else asked, log, pair, said.append),
                rows(path),
                said,
            )
        finally:
            log.close()


@pytest.mark.parametrize(
    ("fault", "bucket", "name"),
    [
        ("", "exact", ""), ("prefix", "prefix-only", ""), ("model", "no-match", ""), ("empty", "prefix-only", "empty"),
        ("http", "v2-unreachable", "http"), ("bad-json", "v2-unreachable", "bad-json"),
        ("bad-form", "v2-unreachable", "bad-form"), ("error-body", "v2-unreachable", "error-body"),
        ("late-error", "v2-unreachable", "error-body"), ("close", "v2-unreachable", "connect"),
        ("truncated", "v2-unreachable", "truncated"), ("hang", "v2-unreachable", "timeout"),
        ("flood", "v2-unreachable", "too-large"),
    ],
)  # fmt: skip
def test_every_way_to_fail_has_its_name(
    fault: str, bucket: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "REPLY", 1000)
    seconds = 0.5 if fault == "hang" else 5.0
    done, [row], said = burned(tmp_path / "log", Faulty(), Faulty(fault), seconds=seconds)
    assert (row.bucket, row.v1.fault, row.v2.fault) == (bucket, "", name)
    assert done.buckets[bucket] == 1 and done.exit_code == (3 if "unreachable" in bucket else 0)
    assert [line for line in said if name and f"v2: {name}" in line] or not name
    assert row.v1.tokens == 12 and row.v1.finish == "stop" and row.v1.first_ms is not None


def test_nobody_there_is_unreachable_on_that_side(tmp_path: Path) -> None:
    with serving() as up:
        for one, other, bucket in ((up, "http://127.0.0.1:9", "v2"), ("http://127.0.0.1:9", up, "v1"),
                                   ("http://127.0.0.1:9", "http://127.0.0.1:10", "both")):  # fmt: skip
            path = tmp_path / bucket
            done = run("burnin", "run", "--v1", one, "--v2", other, "--max-rounds", "1", "--log", str(path))
            assert done.returncode == 3 and rows(path)[0].bucket == f"{bucket}-unreachable", done.stderr
            assert "connect" in done.stderr


def test_both_are_asked_at_the_same_moment(tmp_path: Path) -> None:
    """Each server answers once the other was asked too."""
    gate = threading.Barrier(2, timeout=5)
    _, [row], _ = burned(tmp_path / "log", Faulty(gate=gate), Faulty(gate=gate))
    assert row.bucket == "exact"


REPLIES = (
    b"a\\tb", b"a\\nb\\n", b"\\u0000", b"\xff\xfe", b"\xf0\x9f\x99\x82", b"\\ud83d\\ude42", b"\\ud83d", b"\xed\xa0",
    b"\xc3", b"\\u2028", b'\\"', b"\\\\", b" ", b"0",
)  # fmt: skip
"""As they stand in JSON; the fifth and the sixth are one."""


def test_replies_are_compared_as_bytes_whatever_they_hold(tmp_path: Path) -> None:
    pairs = {f"{at} {also}": (at, also) for at in range(len(REPLIES)) for also in range(at, len(REPLIES))}
    one = Faulty(replies={name: b"same " + REPLIES[at] for name, (at, _) in pairs.items()})
    other = Faulty(replies={name: b"same " + REPLIES[also] for name, (_, also) in pairs.items()})
    _, found, _ = burned(tmp_path / "log", one, other, [single(name) for name in pairs], rounds=len(pairs))
    assert len(found) == len(pairs) == 105
    for row, (at, also) in zip(found, pairs.values(), strict=True):
        same = at == also or (at, also) == (4, 5)
        assert (row.bucket == "exact") is same is (row.v1.reply == row.v2.reply), (REPLIES[at], REPLIES[also])
        assert row.v1.reply.startswith(b"same ") and row.prefix >= 5 and len(row.v1.reply) == row.v1.bytes


def test_bytes_of_a_text_of_json() -> None:
    assert encoded(json.loads('"\\ud83d"') + json.loads('"\\ude42"')) == "🙂".encode()  # halves in two pieces
    assert encoded(b"\xf0\x9f".decode("utf-8", "surrogateescape") + b"\x99\x82".decode("utf-8", "surrogateescape")) == (
        "🙂".encode()
    )
    assert encoded("\ud83d") == b"\xed\xa0\xbd" and encoded("é\x00") == "é\x00".encode()


def test_an_empty_reply_of_both_is_a_row_and_no_evidence(tmp_path: Path) -> None:
    path = tmp_path / "log"
    _, [row], _ = burned(path, Faulty("empty"), Faulty("empty"))
    assert row.bucket == "exact" and row.v1.fault == row.v2.fault == "empty"
    done = run("burnin", "stats", "--log", str(path))
    assert "bytes_exact: 0 / 0;" in done.stdout and "both empty 1" in done.stdout and done.returncode == 3


def test_a_whole_answer_and_a_completion_are_read_too(tmp_path: Path) -> None:
    _, [row], _ = burned(tmp_path / "whole", Faulty(stream=False), Faulty())
    assert row.bucket == "exact" and row.v1.first_ms is None
    one = Faulty()
    _, [row], _ = burned(tmp_path / "text", one, Faulty(), chat=False)
    assert row.bucket == "exact" and one.seen[0]["prompt"] == "prompt 0" and "messages" not in one.seen[0]


def test_each_server_gets_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPARITY_API_KEY_V1", "first")
    monkeypatch.setenv("KPARITY_API_KEY_V2", "second")
    one, other = Faulty(), Faulty()
    burned(tmp_path / "log", one, other)
    assert (one.keys, other.keys) == (["Bearer first"], ["Bearer second"])
    monkeypatch.setenv("KPARITY_API_KEY_V1", "zwei\nZeilen")
    with pytest.raises(WrongInput, match="KPARITY_API_KEY_V1"):
        Server("v1", "http://127.0.0.1:9", 1.0)


def test_temperature_is_0_and_a_seed_is_shared_and_counted_apart(tmp_path: Path) -> None:
    one, other = Faulty(), Faulty()
    _, [row], _ = burned(tmp_path / "log", one, other)
    assert one.seen == other.seen and one.seen[0]["temperature"] == 0 and row.mode == "greedy"
    assert "seed" not in one.seen[0]
    _, [row], _ = burned(tmp_path / "seeded", one, other, seed=7, temperature=0.8)
    assert one.seen[1] == other.seen[1] and (one.seen[1]["seed"], one.seen[1]["temperature"]) == (7, 0.8)
    assert row.mode == "seeded"


def told(*tokens: tuple[str, float, str, float]) -> list[Step]:
    return [Step(a.encode(), {a.encode(): x, b.encode(): y}) for a, x, b, y in tokens]


def test_the_margin_is_that_of_the_place_where_they_part() -> None:
    one = told(("a", -0.1, "b", -3.0), ("c", -0.7, "d", -0.71))
    other = told(("a", -0.1, "b", -3.5), ("d", -0.69, "c", -0.72))
    margin, noise = margins(one, other)
    assert margin == pytest.approx(0.03) and noise == pytest.approx(0.5)
    assert margins(one, one) == (None, 0.0) and margins(one, []) == (None, None)
    far = told(("a", -0.1, "b", -3.0), ("x", -0.5, "y", -2.0))
    assert margins(one, far)[0] == pytest.approx(1.5)  # at least: c is not told of


def test_a_tie_is_known_by_its_margin(tmp_path: Path) -> None:
    _, [row], _ = burned(tmp_path / "log", Faulty(), Faulty("tie"), [single(TIE)])
    assert row.bucket == "no-match" and row.margin == pytest.approx(0.001) and row.noise == 0
    assert row.tie == "unexplained"  # nothing is known of the floor


def test_a_row_has_its_tie_by_the_floor_that_is_known(tmp_path: Path) -> None:
    """v1 against itself moves a margin by 0.3; the log says so when it is opened again."""
    one = told(("a", -0.1, "b", -3.0), ("c", -0.7, "d", -0.9))

    async def ask(body: dict[str, Any], second: list[Step]) -> tuple[Answer, Answer]:
        texts = [b"".join(step.token for step in steps).decode() for steps in (one, second)]
        first, other = (Side(1.0, text=text, bytes=2) for text in texts)
        return Answer(first, one), Answer(other, second)

    alone = told(("a", -0.1, "b", -3.3), ("c", -0.7, "d", -0.9))
    near, far, equal = (told(("a", -0.1, "b", -3.0), ("d", -0.7, "c", -0.7 - by)) for by in (0.25, 0.35, 0.0))
    even = told(("a", -0.1, "b", -3.0), ("c", -0.7, "d", -0.7))
    path = tmp_path / "log"
    rounded(path, 1, partial(ask, second=near))
    rounded(path, 1, partial(ask, second=alone), against_itself=True)
    for second in (near, far, one):
        rounded(path, 1, partial(ask, second=second))
    one = even
    rounded(path, 1, partial(ask, second=equal))
    assert [row.tie for row in rows(path)] == [
        "unexplained", "none", "near-tie", "unexplained", "none", "exact-tie",
    ]  # fmt: skip


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    path, one, other = tmp_path / "a folder" / "log of it", Faulty(), Faulty()
    path.parent.mkdir()
    with serving(one) as a, serving(other) as b:
        for count in (3, 4, 1):
            done = run("burnin", "run", "--v1", a, "--v2", b, "--max-rounds", str(count), "--log", str(path))
            assert done.returncode == 0, done.stderr
        state_of(path).unlink()  # the log alone is enough
        run("burnin", "run", "--v1", a, "--v2", b, "--max-rounds", "1", "--log", str(path))
    found = rows(path)
    assert [row.round for row in found] == [*range(1, 10)] and [row.prompt for row in found] == [*range(9)]
    assert [row.elapsed for row in found] == sorted(row.elapsed for row in found)
    assert [body["messages"] for body in one.seen] == [list(each.messages) for each in prompts.built_in()[:9]]


def test_other_servers_are_another_burn_in_and_other_prompts_begin_anew(tmp_path: Path) -> None:
    path, said = tmp_path / "log", list[str]()
    rounded(path, 7)
    log = opened(path)
    with pytest.raises(WrongInput, match="of http://a and http://b"):
        burn(Settings("http://a", "http://c", rounds=1), Listed(ASKED), log, answering, said.append)
    burn(Settings("http://a", "http://b", rounds=1), Listed(ASKED[1:]), log, answering, said.append)
    log.close()
    assert [row.prompt for row in rows(path)] == [0, 1, 2, 3, 4, 0, 1, 0] and "begin anew" in said[0]


async def answering(body: dict[str, Any]) -> tuple[Answer, Answer]:
    """Both sides say the same, without a server."""
    await asyncio.sleep(0)
    return Answer(Side(1.0, text="same", bytes=4), []), Answer(Side(1.0, text="same", bytes=4), [])


async def differing(body: dict[str, Any]) -> tuple[Answer, Answer]:
    return (await answering(body))[0], Answer(Side(1.0, text="other", bytes=5), [])


def rounded(
    path: Path, count: int, ask: rounds.Ask = answering, said: list[str] | None = None, **settings: Any
) -> Ended:
    """Rounds without servers."""
    heard = [] if said is None else said
    log = opened(path, heard)
    try:
        return burn(Settings("http://a", "http://b", rounds=count, **settings), Listed(ASKED), log, ask, heard.append)
    finally:
        log.close()


def test_a_torn_last_line_is_cut_off_and_said(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rounded(path, 4)
    state_of(path).unlink()
    *first, last = path.read_bytes().splitlines(keepends=True)
    whole = b"".join(first)
    for cut in (1, 8, 9, 40, len(last) - 1):
        said: list[str] = []
        path.write_bytes(whole + last[:cut])
        opened(path, said).close()
        assert path.read_bytes() == whole and f"line 4: {cut} bytes of a round that was not finished" in said[0]


@pytest.mark.parametrize(
    "content",
    [b"my only notes, without an end of line", b'{"round": 1}', b'{"round":2,"time":"', b"{}\n", b"{}\n{", b"\x00" * 9],
)
def test_a_file_of_somebody_else_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(WrongInput, match="line 1: this is not round 1"):
        opened(path)
    assert path.read_bytes() == content


def test_a_damaged_log_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rounded(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (lines[:2] + lines[3:], [*lines[:2], b"{]\n", *lines[3:]], [*lines[:3], lines[2], *lines[3:]]):
        path.write_bytes(b"".join(broken))
        with pytest.raises(WrongInput, match=r"line [34]: this is not round [34]"):
            opened(path)
        assert run("burnin", "stats", "--log", str(path)).returncode == 2


def test_a_log_that_is_behind_its_state_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rounded(path, 5)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(WrongInput, match=r"knows 5 rounds and .* has 3"):
        opened(path)
    state_of(path).write_text("{")
    with pytest.raises(WrongInput, match="no state of a burn-in"):
        opened(path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first = opened(path)
    with pytest.raises(WrongInput, match="being written by another"):
        opened(path)
    first.close()
    opened(path).close()


def test_where_the_disk_is_full_nothing_of_a_row_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    rounded(path, 2)
    whole, write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(WrongInput, match="2 rounds are kept"):
        rounded(path, 1)
    monkeypatch.undo()
    assert path.read_bytes() == whole
    rounded(path, 1)
    assert [row.round for row in rows(path)] == [1, 2, 3]


async def counting(descriptor: int, body: dict[str, Any]) -> tuple[Answer, Answer]:
    """Tells of each round that is begun; the one before it is on the disk."""
    os.write(descriptor, b"r")
    return await answering(body)


def test_killed_at_any_moment_it_loses_at_most_the_round_in_flight(tmp_path: Path) -> None:
    """200 processes, each killed within milliseconds: after each, the log goes on without a gap."""
    path, dice, kept, deaths = tmp_path / "log", random.Random(0), 0, 0
    for _ in range(200):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reading)
                burn(Settings("http://a", "http://b"), Listed(ASKED), opened(path), partial(counting, writing), print)
            finally:
                os._exit(1)
        os.close(writing)
        os.read(reading, 1)
        time.sleep(dice.random() * 0.004)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        deaths += os.WTERMSIG(status) == signal.SIGKILL
        begun = 1
        while more := os.read(reading, 1 << 16):
            begun += len(more)
        os.close(reading)
        raw = path.read_bytes()
        now = raw.count(b"\n")
        assert kept + begun - 1 <= now <= kept + begun, (kept, begun, now)
        kept = now
    rounded(path, 1)
    found = rows(path)
    assert deaths == 200 and kept >= 20 and len(found) == kept + 1
    assert [row.round for row in found] == [*range(1, kept + 2)]
    assert [row.prompt for row in found] == [at % len(ASKED) for at in range(kept + 1)]


def test_a_clock_that_is_set_back_is_told_and_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wall, asked = tmp_path / "log", time.time, 0
    monkeypatch.setattr(rounds.time, "time", lambda: wall() - 3600 * (asked >= 3))

    async def ask(body: dict[str, Any]) -> tuple[Answer, Answer]:
        nonlocal asked
        asked += 1
        return await answering(body)

    rounded(path, 5, ask)
    found = rows(path)
    assert [row.clock for row in found] == [0, 0, pytest.approx(-3600, abs=1), 0, 0]
    assert [row.elapsed for row in found] == sorted(row.elapsed for row in found)
    assert "clock set 1 times" in run("burnin", "stats", "--log", str(path)).stdout


def test_a_spike_halts_and_stays_halted(tmp_path: Path) -> None:
    path, said = tmp_path / "log", list[str]()
    done = rounded(path, 100, differing, said, halt_on_spike=True)
    assert done.exit_code == 1 and len(rows(path)) == 30  # fewer rounds of an hour say nothing
    assert "30 of 30 rounds of the last hour are no-match, more than 20%" in done.halted
    with serving() as a, serving() as b:
        line = ("burnin", "run", "--v1", a, "--v2", b, "--max-rounds", "1", "--log", str(path))
        again = run(*line)
        assert again.returncode == 1 and "halted at round 30" in again.stderr and len(rows(path)) == 30
    opened_again = opened(path)
    assert len(opened_again.recent) == 30 and opened_again.state.halted
    opened_again.close()


def test_an_alarm_without_halting_is_said_once_while_it_lasts(tmp_path: Path) -> None:
    said: list[str] = []
    assert rounded(tmp_path / "log", 50, differing, said).exit_code == 0
    assert len([line for line in said if "no-match" in line]) == 1
    assert not [line for line in said if "no-match" in line and "round 30" not in line]
    with serving() as a, serving() as b:  # another instance of v1 is v1
        line = ("burnin", "run", "--v1", a, "--v2", b, "--against-itself", "--max-rounds", "1", "--log")
        assert run(*line, str(tmp_path / "two")).returncode == 0 and rows(tmp_path / "two")[0].mode == "aa"
    assert rounded(tmp_path / "aa", 50, differing, [], against_itself=True, halt_on_spike=True).exit_code == 0


def test_the_built_in_prompts_are_thirty_kinds_and_all_distinct() -> None:
    known = prompts.built_in()
    kinds = [prompt.kind for prompt in known[:30]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "factual": 10, "code": 5, "reasoning": 5, "creative": 5, "long-context": 5,
    }  # fmt: skip
    assert len({prompt.digest for prompt in known}) == len(known) == 240
    assert all(len(prompt.text) > 6000 for prompt in known if prompt.kind == "long-context")
    assert known[0].text == TIE and len(prompts.built_in(100)[25].text) < 200


def posted(address: str, body: bytes) -> int:
    """The status of a request."""
    request = urllib.request.Request(
        f"http://{address}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_mirrored_traffic_is_asked_of_both_at_temperature_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "WAITING", 3)
    asked = [{"role": "user", "content": "what was asked"}]
    one, other, listening = Faulty(), Faulty(), Mirror("127.0.0.1:0")
    body = json.dumps({"model": "x", "temperature": 0.9, "messages": asked, "stream": False}).encode()
    assert [posted(listening.address, body) for _ in range(4)] == [202, 202, 202, 503]
    assert posted(listening.address, b"{") == 400 and (listening.dropped, listening.refused) == (1, 1)
    _, found, _ = burned(tmp_path / "log", one, other, listening, rounds=3)
    assert [row.kind for row in found] == ["own"] * 3 and {row.bucket for row in found} == {"exact"}
    assert one.seen == other.seen and one.seen[0]["messages"] == asked and one.seen[0]["temperature"] == 0
    listening.close()
    assert Mirror("127.0.0.1:0", chat=False).take(json.dumps({"messages": asked * 2}).encode()) == 400
    with pytest.raises(WrongInput, match="--listen nowhere"):
        Mirror("nowhere")


def test_prompts_of_files(tmp_path: Path) -> None:
    plain, chats = tmp_path / "plain.txt", tmp_path / "chats.jsonl"
    plain.write_text("one\n\ntwo\n")
    assert [prompt.text for prompt in prompts.chosen(str(plain))] == ["one", "two"]
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi\tthere"}]
    lines: list[Any] = [
        {"prompt": "a\nb", "kind": "code"}, {"messages": [*asked, {"role": "assistant", "content": "hello"}]},
        {"custom_id": "1", "body": {"model": "x", "messages": asked, "temperature": 1}},
    ]  # fmt: skip
    chats.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = prompts.chosen(str(chats))
    assert [(prompt.kind, prompt.messages[-1]["content"]) for prompt in found] == [
        ("code", "a\nb"),
        ("own", "hi\tthere"),
    ]
    assert found[1].messages == tuple(asked)  # the last answer is left out, and a chat that stands twice is one prompt


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("\n", "holds no prompt"), ("a\na\n", "'a' twice"), ('{"prompt": 1}', "line 1"), ('{"messages": []}', "line 1"),
        ('{"prompt": "a"}\n{"messages": [{"content": "a"}]}', "line 2"), ('{"prompt": "a"}\n{', "line 2"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "no messages that ask"),
    ],
)  # fmt: skip
def test_a_file_without_prompts_is_refused_with_its_line(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_text(content)
    with pytest.raises(WrongInput, match=sentence):
        prompts.chosen(str(path))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--v1", "http://127.0.0.1:9"), "give --v2, or --against-itself"),
        (("--v1", "http://127.0.0.1:9", "--v2", "http://127.0.0.1:9/"), "one server"),
        (("--v1", "127.0.0.1:9", "--v2", "http://127.0.0.1:9"), "--v1 127.0.0.1:9 is no address"),
        (("--v1", "http://u:p@h", "--v2", "http://h"), "is no address"),
        (("--v1", "http://h", "--v2", "http://i", "--temperature", "1"), "needs --seed"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    done = run("burnin", "run", *arguments, "--max-rounds", "1", "--log", str(tmp_path / "log"))
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "log").exists()
