"""The dashboard of a burn-in and the page of a cutover: what they show of hostile replies, how they follow a log, who
may read them, and what Argo Rollouts makes of the answer.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from kparity.burnin import page, query
from kparity.burnin.compare import around
from kparity.burnin.course import course
from kparity.burnin.cutover import decide
from kparity.burnin.record import Row, Side, State
from kparity.burnin.told import spelt
from kparity.burnin.watch import Paced
from tests.burnin_server import Faulty, serving
from tests.cli import run
from tests.test_burnin_stats import log_of, row, story, whole

pytest.importorskip("jinja2", reason="Jinja2 is not installed")
MARKUP = "</mark><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
HOSTILE = MARKUP + "‮\x00\n\t\\{{ 7 * 7 }}é"


def parting(number: int) -> Row:
    """A round whose replies part behind markup, within a character, one of them with a byte that is no UTF-8."""
    one, other = f"{HOSTILE}é, gold".encode(), f"{HOSTILE}è".encode() + b"\xff"
    prefix = len(HOSTILE.encode()) + 1
    told = Side(120.0, bytes=len(other), text=other.decode(errors="replace"), raw=base64.b64encode(other).decode())
    return row(
        number, bucket="no-match", prefix=prefix, asked=f"prompt {MARKUP}", margin=0.0123,
        v1=Side(100.0, bytes=len(one), text=one.decode()), v2=told,
    )  # fmt: skip


def watched(folder: Path) -> str:
    """The dashboard of a log of which the last rounds are hostile."""
    made = [*map(story, range(1, 2000)), *map(parting, range(2000, 2020))]
    return page.dashboard(log_of(folder / "log", made), folder / "state", "greedy", 2)


def decided(folder: Path) -> str:
    """The page of a cutover of which nothing but the log is there."""
    return page.cutover(decide(log_of(folder / "log", whole(300)), folder / "state", None, ()))


def test_a_hostile_reply_is_text(browser: Any, tmp_path: Path) -> None:
    view, errors = browser.new_page(), list[str]()
    view.on("pageerror", lambda error: errors.append(str(error)))
    view.on("console", lambda message: errors.append(message.text))
    view.set_content(watched(tmp_path))
    said = view.locator(".round").first.inner_text()
    assert "</script><img src=x" in said and "\\u202e\\x00\\n\\t\\\\{{ 7 * 7 }}éé, gold" in said.replace("\n", "")
    assert "éè⟨ff⟩" in said and "margin 0.0123 nats" in said and "no-match after" in said
    assert view.locator("main script, img").count() == 1, "nothing of a reply is an element"  # the page's own script
    assert view.locator("mark").all_inner_texts()[:2] == ["é, gold", "è⟨ff⟩"]
    assert view.title() == "INCONCLUSIVE: burn-in" and not errors
    view.close()


def test_replies_are_cut_between_characters() -> None:
    assert around("aé".encode(), 2, 9) == ("a", "é") and around(b"abcdef", 3, 2) == ("bc", "de")
    assert around(b"\x80\x80\x80", 2, 9) == ("", "\udc80\udc80\udc80") and around(b"ab", 2, 9) == ("ab", "")
    assert spelt("\udcff é\u202e\n'\"") == "⟨ff⟩ é\\u202e\\n'\""


def test_the_course_counts_every_round_once(tmp_path: Path) -> None:
    made = [*map(story, range(1, 600)), row(600, bucket="v2-unreachable", v2=Side(5.0, fault="connect"))]
    made += [row(number, elapsed=3000.0 + number) for number in range(601, 700)]
    with query.opened(log_of(tmp_path / "log", made)) as table:
        pieces = course(table, "greedy", 10)
    assert sum(each.rounds for each in pieces) == 699 and sum(each.compared for each in pieces) == 698
    assert len(pieces) == 3, "nothing ran between the 600th second and the 3601st"
    misses = sum(each.bucket == "no-match" for each in made)
    assert round(sum((each.no_match or 0) * each.compared for each in pieces)) == misses > 0
    assert pieces[-1].exact == 1 and pieces[-1].v1_p50 == pytest.approx(103, abs=1)
    with query.opened(log_of(tmp_path / "one", [row(1)])) as table:
        assert [each.rounds for each in course(table, "greedy")] == [1]
        assert course(table, "aa") == []


@pytest.mark.parametrize(
    ("made", "said"),
    [([], "is empty"), ([row(1, mode="aa")], "at temperature 0"),
     ([row(1, bucket="both-unreachable", v1=Side(1.0, fault="connect"), v2=Side(1.0, fault="http"))], "v1 connect 1"),
     ([row(1, bucket="prefix-only", prefix=3, v2=Side(1.0, bytes=3, text="xxx"))], "ends here")],
)  # fmt: skip
def test_little_is_shown_as_it_is(made: list[Row], said: str, tmp_path: Path) -> None:
    assert said in page.dashboard(log_of(tmp_path / "log", made), tmp_path / "state", "greedy", 0)


def test_a_halt_is_red(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(msgspec.json.encode(State(halted="round 7: <b>much</b>")))
    text = page.dashboard(log_of(tmp_path / "log", [row(1)]), tmp_path / "state", "greedy", 0)
    assert "<title>HALTED: burn-in</title>" in text and "&lt;b&gt;much" in text


@contextmanager
def speaking(word: str, *line: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that says at which address it answers, and that address; ended by SIGTERM."""
    child = subprocess.Popen([sys.executable, "-m", "kparity", *line], stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr
        said = next((each for each in child.stderr if word in each), "")
        yield child, said.split()[-1].removeprefix("http://")
    finally:
        child.send_signal(signal.SIGTERM)
        assert child.stderr and "Traceback" not in child.stderr.read()
        assert child.wait(20) == 128 + signal.SIGTERM


def got(address: str, path: str = "/", host: str = "", method: str = "GET") -> tuple[int, bytes]:
    """Status and body."""
    asked = urllib.request.Request(f"http://{address}{path}", method=method, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def until(holds: Callable[[], bool]) -> None:
    """Wait for it: the page's own policy lets nothing in it be evaluated."""
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.2)


def test_the_dashboard_of_a_run_follows_it_in_a_browser(browser: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving() as one, serving(Faulty("tie")) as other:
        line = ("burnin", "run", "--v1", one, "--v2", other, "--log", str(log), "--sleep", "0.05", "--dashboard", "0")
        with speaking("dashboard at", *line) as (_, address):
            assert address.startswith("127.0.0.1:")
            view, errors = browser.new_page(), list[str]()
            view.on("pageerror", lambda error: errors.append(str(error)))
            view.on("console", lambda message: errors.append(message.text))
            view.goto(f"http://{address}/")
            view.wait_for_selector("#numbers", timeout=20_000)
            view.click("#numbers summary")
            view.focus("#gates")
            seen = view.locator(".lines li").last.inner_text()
            until(lambda: view.locator(".lines li").last.inner_text() != seen)
            assert view.evaluate("document.activeElement.id") == "gates" and view.evaluate("numbers.open")
            assert not errors and view.inner_text("#told") == ""
            view.click("#pause")
            assert view.inner_text("#pause") == "go on"
            view.click("#pause")
        until(lambda: view.inner_text("#told").startswith("No answer since"))
        view.close()


def test_only_this_machine_reads_replies(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", map(story, range(1, 300)))
    with speaking("dashboard at", "burnin", "stats", "--log", str(log), "--dashboard", "0") as (child, address):
        port = address.rpartition(":")[2]
        assert got(address)[0] == got(address, host=f"localhost:{port}")[0] == got(address, host="[::1]")[0] == 200
        for name in ("rebound.example", f"rebound.example:{port}", "127.0.0.1.example:80", "[::1"):
            assert got(address, host=name)[0] == 421
        assert got(address, "/other")[0] == 404 and got(address, method="POST")[0] in (405, 411)
        with socket.create_connection(("127.0.0.1", int(port))) as left:
            left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it is reset
            left.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        assert got(address, "/?again")[0] == 200 and child.poll() is None
    taken = run("burnin", "stats", "--log", str(log), "--dashboard", "0", "--json", str(tmp_path / "x"))
    assert taken.returncode == 2 and "leave out --json" in taken.stderr
    assert run("burnin", "stats", "--log", str(tmp_path / "no"), "--dashboard", "0").returncode == 2


DOCS = Path(__file__).parent.parent / "docs/burnin.md"


def template() -> dict[str, Any]:
    """The AnalysisTemplate of the documentation."""
    found = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.S)]
    return next(each for each in found if each["kind"] == "AnalysisTemplate")


def measured(metric: dict[str, Any], answer: Any) -> str:
    """What Argo Rollouts calls a measurement: ``result`` is what the path picks."""
    path = metric["provider"]["web"]["jsonPath"]
    assert re.fullmatch(r"\{\$(\.\w+)+\}", path)
    for key in path.strip("{}").split(".")[1:]:
        answer = answer[key]
    fails, holds = (
        re.fullmatch(r'result == "(\w+)"', metric[f"{each}Condition"])[1] == answer  # type: ignore[index]
        for each in ("failure", "success")
    )
    return "Failed" if fails else "Successful" if holds else "Inconclusive"


def test_argo_reads_the_decision(tmp_path: Path) -> None:
    found = template()
    assert found["apiVersion"] == "argoproj.io/v1alpha1" and found["metadata"]["name"]
    [metric] = found["spec"]["metrics"]
    web = metric["provider"]["web"]
    assert {*web} <= {"url", "jsonPath", "timeoutSeconds"} and {*metric} <= {
        "name", "interval", "count", "failureLimit", "inconclusiveLimit", "consecutiveErrorLimit", "successCondition",
        "failureCondition", "provider",
    }  # fmt: skip
    log, state = log_of(tmp_path / "log", whole(400)), tmp_path / "log.state"
    path = "/" + web["url"].partition("://")[2].partition("/")[2]
    state.write_bytes(msgspec.json.encode(State(rounds=400)))
    with speaking("listening at", "cutover", "status", "--log", str(log), "--listen", "127.0.0.1:0") as (_, address):
        status, body = got(address, path, host="kparity.default.svc:8090")
        assert status == 200 and measured(metric, json.loads(body)) == "Inconclusive"
        assert {*json.loads(body)} == {*json.loads(run("cutover", "status", "--log", str(log), "--json").stdout)}
        assert b"WAITING" in got(address)[1] and got(address, "/favicon.ico")[0] == 404
        state.write_bytes(msgspec.json.encode(State(rounds=400, halted="round 400")))
        assert changed(address, path, body) == (200, "Failed", metric)
        log.unlink()
        for _ in range(60):
            status, body = got(address, path)
            if status != 200:
                break
            time.sleep(0.5)
        assert status == 503 and "cannot be read" in json.loads(body)["error"]
    assert measured(metric, {"decision": "ALLOWED"}) == "Successful"


def changed(address: str, path: str, before: bytes) -> tuple[int, str, dict[str, Any]]:
    """What the first other answer is."""
    [metric] = template()["spec"]["metrics"]
    for _ in range(60):
        status, body = got(address, path)
        if body != before and json.loads(body)["verdict"] != json.loads(before)["verdict"]:
            return status, measured(metric, json.loads(body)), metric
        time.sleep(0.5)
    raise AssertionError("it never changed")


def test_counting_takes_a_twentieth_of_the_time() -> None:
    made = list[float]()

    def slow() -> int:
        made.append(time.monotonic())
        time.sleep(0.1)
        return len(made)

    paced, began = Paced(slow), time.monotonic()
    assert paced() == paced() == 1
    while time.monotonic() < began + 1.9:
        assert paced() == 1
    time.sleep(0.4)
    assert paced() == 2
