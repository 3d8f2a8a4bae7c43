"""Backends that go wrong while they serve, clients that leave, too many of them, and the end of a server."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli import TAG, run
from tests.served import Served, served

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
KEY = "a-key-that-nobody-guesses"
FAULTS = {"hang": "silent for 2 s", "wrong": "logits of a known step differ"}
"""What each backend does after some steps, and what is said of it."""
ORDER = ",".join([*(f"liar-later-{each}" for each in FAULTS), "liar-sluggish"])
QUICK = ("--depth", "bos", "--beyond-proof")
"""What they do wrong, they do after any probe."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """All of them one after the other, and a slow one behind them."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "key").write_text(f"{KEY}\n")
    options = ("--silent", "2", "--parallel", "2", "--queue", "1", "--api-key-file", str(folder / "key"), "--cached")
    with served("-b", ORDER, *QUICK, *options, key=KEY, env={"XDG_CACHE_HOME": str(folder)}) as found:
        yield found


def streamed(server: Served, **body: Any) -> list[str]:
    """The events of a stream."""
    body = {"prompt": "In the beginning", "temperature": 0, "max_tokens": 100, "stream": True, **body}
    with server.client.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200, reply.read()
        return [line.removeprefix("data: ") for line in reply.iter_lines() if line]


@pytest.fixture(scope="module")
def story(server: Served) -> tuple[list[str], str]:
    """What clients got while the first two backends failed: a stream from the one, and an answer that the other began.
    Both have too few steps left.
    """
    return streamed(server, max_tokens=300), server.text(max_tokens=100)


def test_the_next_backend_takes_over_and_says_so_everywhere(server: Served, story: tuple[list[str], str]) -> None:
    right = run("run", "-b", "cpu", "--prompt", "In the beginning", "--max-tokens", "100").stdout
    assert right == f"In the beginning{story[1]}\n"
    server.soon(lambda: server.health()["backend"] == "liar-sluggish", 60)
    health = server.health()
    assert health["status"] == "ok" and health["proved"] == 0 and health["context"] == 512
    told = {each["backend"]: each for each in health["rejected"]}
    for fault, says in FAULTS.items():
        code = "KP-CANARY" if fault == "wrong" else "KP-WORKER-DIED"
        begins = rf"^\[{TAG}\] liar-later-{fault} path rejected while serving, attempting fallback: "
        assert server.told(rf"{begins}\[{code}\] .*{re.escape(says)}")
        assert told[f"liar-later-{fault}"]["status"] == "tripped" and says in told[f"liar-later-{fault}"]["reason"]
        assert server.metric(f'kparity_backend_trips_total{{backend="liar-later-{fault}",code="{code}"}}') == 1


def test_a_stream_whose_backend_goes_wrong_ends_in_an_error_and_never_as_if_it_were_complete(
    story: tuple[list[str], str],
) -> None:
    *pieces, last = map(json.loads, story[0])
    assert "is in doubt" in last["error"]["message"] and last["error"]["type"] == "backend_failed"
    assert pieces and all(each["choices"][0]["finish_reason"] is None for each in pieces)


def test_too_many_are_told_when_to_come_back_and_who_leaves_makes_room(
    server: Served, story: tuple[list[str], str]
) -> None:
    server.soon(lambda: server.health()["backend"] == "liar-sluggish", 60)
    body = {"prompt": "In the beginning", "temperature": 0, "max_tokens": 400, "stream": True}
    with httpx.Client(base_url=server.url, headers=server.client.headers, timeout=60) as other:
        replies = [other.send(other.build_request("POST", "/v1/completions", json=body), stream=True) for _ in range(3)]
        server.soon(lambda: (server.health()["active"], server.health()["waiting"]) == (2, 1))
        refused = server.client.post("/v1/completions", json=body)
        assert refused.status_code == 429 and 1 <= int(refused.headers["Retry-After"]) <= 600
        assert re.search(r"1 requests wait already; try again in \d+ s", refused.json()["error"]["message"])
        begun = time.monotonic()
        for each in replies:
            each.close()
        server.soon(lambda: (server.health()["active"], server.health()["waiting"]) == (0, 0))
        assert time.monotonic() - begun < 3, "the three would have taken longer than that"
    assert server.metric("kparity_cancelled_total") >= 2
    gone = httpx.Client(base_url=server.url, headers=server.client.headers, timeout=0.3)
    with pytest.raises(httpx.ReadTimeout):
        gone.post("/v1/completions", json={**body, "stream": False})
    gone.close()
    server.soon(lambda: server.health()["active"] == 0, 3)


@pytest.mark.parametrize("shown", ["", "Bearer wrong", f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", "Bearer \u00ff"])
def test_without_the_key_nothing_but_health(server: Served, shown: str) -> None:
    headers = {"Authorization": shown.encode("latin-1")} if shown else {}
    with httpx.Client(base_url=server.url, headers=headers) as stranger:
        assert stranger.get("/health").json()["model"] == "embedded"
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/completions")):
            reply = stranger.request(method, path)
            assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer"


def test_what_is_under_way_at_sigterm_comes_to_its_end(server: Served, story: tuple[list[str], str]) -> None:
    found: list[list[str]] = []
    stream = threading.Thread(target=lambda: found.append(streamed(server)))
    stream.start()
    server.soon(lambda: server.health()["active"])
    assert server.ended(signal.SIGTERM) == 0
    stream.join(30)
    assert found[0][-1] == "[DONE]" and json.loads(found[0][-2])["choices"][0]["finish_reason"] == "length"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")
    assert not any("Traceback" in line for line in server.lines), server.lines


def test_where_no_backend_is_left_it_ends_with_the_reason() -> None:
    with served("--require", "liar-later-crash", *QUICK) as alone:
        reply = alone.client.post("/v1/completions", json={"prompt": "x", "temperature": 0, "max_tokens": 300})
        assert reply.status_code == 503 and "no backend is left" in reply.json()["error"]["message"]
        assert alone.process.wait(30) == 3
        assert alone.told(r"while serving, refusing, it was required: .*crashed \(SIGSEGV\)")
        assert alone.told(r"^kparity: no backend is left after liar-later-crash; nothing was downgraded$")


def test_what_cannot_be_served_is_said_before_anything_is_probed(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        for options, says in (
            (("--port", port), f"127.0.0.1:{port} cannot be had: Address already in use"),
            (("--host", "no.such.host.invalid"), "--host no.such.host.invalid: "),
            (("--api-key-file", str(tmp_path / "empty")), "holds no key"),
            (("--context", "513"), "--context 513 is more than the 512"),
        ):
            done = run("serve", "-b", "cpu", *options)
            assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_nothing_that_passes_is_exit_3_and_other_machines_are_warned_of() -> None:
    done = run("serve", "-b", "liar-nan", "--depth", "bos", "--host", "0.0.0.0", "--port", "0", liars=True)
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("warning: 0.0.0.0 can be reached from other machines, where anybody (--api-key-file ")
    assert done.returncode == 3
    assert last == "kparity: liar-nan may not serve and no other backend was named; nothing was downgraded"
