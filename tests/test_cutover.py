"""The cutover: green only where every gate is, a route that changes under traffic, and a way back by itself."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kparity.burnin import route
from kparity.burnin.cutover import Decision, as_result, decide
from kparity.burnin.record import State
from kparity.errors import WrongInput
from kparity.receipts.results import ResultStatement
from kparity.receipts.statement import write
from tests.burnin_server import Faulty, serving
from tests.cli import run
from tests.made_receipts import receipt
from tests.test_burnin_stats import log_of, whole
from tests.test_ppl import Made, judged, right


@dataclass
class Evidence:
    """Files by which everything is green."""

    folder: Path

    def __post_init__(self) -> None:
        self.log = log_of(self.folder / "burnin.jsonl", whole())
        self.state = self.folder / "burnin.jsonl.state"
        self.ppl = self.folder / "ppl.json"
        self.receipts = [self.folder / "v1.json", self.folder / "v2.json"]
        self.restore()

    def restore(self) -> None:
        self.state.write_bytes(msgspec.json.encode(State(rounds=60_000)))
        self.ppl.write_bytes(msgspec.json.encode(judged(Made())))
        for path, salt in zip(self.receipts, "ab", strict=True):
            write(path, receipt("cuda", "cpu", salt=salt))

    def decided(self) -> Decision:
        return decide(self.log, self.state, str(self.ppl), self.receipts)

    def options(self) -> list[str]:
        given = [word for path in self.receipts for word in ("--receipt", str(path))]
        return ["--log", str(self.log), "--ppl", str(self.ppl), *given]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return Evidence(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def evidence(made: Evidence) -> Evidence:
    made.restore()
    return made


def states(found: Decision) -> dict[str, str]:
    return {gate.name: gate.state for gate in found.gates if gate.state != "PASS"}


def test_all_green_is_allowed(evidence: Evidence) -> None:
    found = evidence.decided()
    assert (found.decision, found.exit_code, states(found)) == ("ALLOWED", 0, {}) and len(found.gates) == 11
    msgspec.convert(as_result(found), ResultStatement)
    assert as_result(found)["predicate"]["result"] == "PASSED"


def change_ppl(evidence: Evidence, **changes: Any) -> None:
    document = json.loads(evidence.ppl.read_text())
    evidence.ppl.write_text(json.dumps({**document, **changes}))


def flat(evidence: Evidence) -> None:
    """The document says PASS, and what every token cost says otherwise."""
    other = judged(Made(lambda fed: right(fed) * right(fed).dtype.type(0.9)))
    change_ppl(evidence, candidate=msgspec.to_builtins(other.candidate))


def impossible(evidence: Evidence) -> None:
    """A token that the candidate holds for impossible."""
    candidate = json.loads(evidence.ppl.read_text())["candidate"]
    change_ppl(evidence, candidate={**candidate, "ppl": None, "nll": [None, *candidate["nll"][1:]]})


@pytest.mark.parametrize(
    ("gate", "state", "change"),
    [
        ("ppl_delta", "FAIL", impossible),
        ("ppl_delta", "FAIL", flat),
        ("halts", "FAIL", lambda each: each.state.write_bytes(msgspec.json.encode(State(halted="round 7")))),
        ("halts", "INCONCLUSIVE", lambda each: each.state.unlink()),
        ("parity_receipts", "INCONCLUSIVE", lambda each: each.receipts[1].write_bytes(each.receipts[0].read_bytes())),
        ("parity_receipts", "FAIL",
         lambda each: each.receipts[1].write_text(each.receipts[1].read_text().replace('"PASS"', '"FAIL"', 1))),
    ],
)  # fmt: skip
def test_each_gate_blocks_alone(gate: str, state: str, change: Callable[[Evidence], Any], evidence: Evidence) -> None:
    change(evidence)
    found = evidence.decided()
    assert states(found) == {gate: state} and found.decision == {"FAIL": "BLOCKED"}.get(state, "WAITING")
    assert found.exit_code == {"FAIL": 1, "INCONCLUSIVE": 3}[state]
    assert as_result(found)["predicate"]["result"] == {"FAIL": "FAILED", "INCONCLUSIVE": "WARNED"}[state]


def test_what_is_not_there_is_not_green(evidence: Evidence) -> None:
    found = decide(evidence.log, evidence.state, None, ())
    assert states(found) == {"ppl_delta": "INCONCLUSIVE", "parity_receipts": "INCONCLUSIVE"}
    done = run("cutover", "status", "--log", str(evidence.log))
    assert done.returncode == 3 and "⌛ INCONCLUSIVE" in done.stdout and "WAITING" in done.stdout
    evidence.ppl.write_text("{}")
    with pytest.raises(WrongInput, match="is not the JSON of kparity ppl"):
        evidence.decided()


def test_a_test_result_is_signed_and_verified(evidence: Evidence, tmp_path: Path) -> None:
    result, key = str(tmp_path / "result.json"), str(tmp_path / "team.pem")
    done = run("cutover", "status", *evidence.options(), "--test-result", result, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["decision"] == "ALLOWED", done.stderr
    assert run("receipt", "keygen", key).returncode == 0
    assert run("receipt", "sign", result, "--key", key).returncode == 0
    assert "payloadType" in json.loads(Path(result).read_text())


def free() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


@contextmanager
def proxied(caddy: str, folder: Path, upstream: str, **extra: Any) -> Iterator[tuple[str, str]]:
    """Addresses of a Caddy's admin interface and of what it serves."""
    admin, public = free(), free()
    dial = [{"dial": upstream.removeprefix("http://")}]
    handler = {"@id": "engine", "handler": "reverse_proxy", "upstreams": dial, **extra}
    server = {
        "listen": [f"127.0.0.1:{public}"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": [handler]}],
    }
    config = {"admin": {"listen": f"127.0.0.1:{admin}"}, "apps": {"http": {"servers": {"main": server}}}}
    (folder / "caddy.json").write_text(json.dumps(config))
    child = subprocess.Popen(
        [caddy, "run", "--config", str(folder / "caddy.json")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{admin}/config/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{public}"
    finally:
        child.kill()
        child.wait()


class Traffic:
    """Clients who ask all the time; ``errors`` are answers that were none."""

    def __init__(self, public: str) -> None:
        self.public, self.over, self.done, self.errors = public, threading.Event(), 0, list[str]()
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(2)]

    def ask(self) -> None:
        while not self.over.wait(0.02):
            error = self.asked()
            self.done += not error
            self.errors += [error] if error else []

    def asked(self) -> str:
        """What was wrong with one answer."""
        body = json.dumps({"messages": [{"role": "user", "content": "traffic"}], "stream": True}).encode()
        try:
            with urllib.request.urlopen(f"{self.public}/v1/chat/completions", body, timeout=20) as answer:
                text = answer.read()
        except OSError as error:
            return str(error)
        return "" if b"[DONE]" in text else repr(text[-80:])

    def __enter__(self) -> Traffic:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(20)


def test_real_caddy_is_led_over_and_back_under_traffic(caddy: str, evidence: Evidence, tmp_path: Path) -> None:
    kept, one, other = str(tmp_path / "route.json"), Faulty(), Faulty()
    with serving(one) as v1, serving(other) as v2, proxied(caddy, tmp_path, v1) as (admin, public):
        dial = v2.removeprefix("http://")
        line = ["cutover", "flip", *evidence.options(), "--caddy-admin", admin, "--id", "engine", "--to", dial, "--old",
                v1, "--public", public, "--rounds", "30", "--kept", kept]  # fmt: skip
        at = route.Caddy(admin, "engine")
        with Traffic(public) as traffic:
            evidence.state.unlink()  # a gate waits: nothing changes
            waiting = run(*line)
            assert waiting.returncode == 3 and at.read()["upstreams"][0]["dial"] != dial and not Path(kept).exists()
            evidence.restore()
            asked = len(other.seen)
            done = run(*line)
            assert done.returncode == 0 and at.read()["upstreams"] == [{"dial": dial}], done.stderr
            assert asked == 0 < len(other.seen) and "30 rounds at" in done.stderr
            assert run("cutover", "rollback", "--kept", kept).returncode == 0
            assert at.read()["upstreams"] == [{"dial": v1.removeprefix("http://")}]
        refused = [each for each in traffic.errors if "HTTP Error" in each]
        # a Caddy that takes a new route may reset a connection, and very rarely ends a stream early
        assert traffic.done > 10 and not refused and len(traffic.errors) <= 2, traffic.errors
        for fault, why in (("model", "no-match"), ("truncated", "v2_unreachable")):
            other.fault = fault
            broken = run(*line)
            assert broken.returncode == 1 and "led back to the old server" in broken.stderr, broken.stderr
            assert why in broken.stderr and at.read()["upstreams"] == [{"dial": v1.removeprefix("http://")}]


@pytest.mark.parametrize("flush", [{}, {"flush_interval": -1}], ids=["auto", "negative"])
def test_a_stream_outlives_a_change_of_its_route(flush: dict[str, int], caddy: str, tmp_path: Path) -> None:
    """It lasts for three seconds, and the route changes in the first: only where Caddy is told to flush, it may end."""
    slow, found = Faulty("hang"), list[str]()
    with serving(slow) as v1, serving() as v2, proxied(caddy, tmp_path, v1, **flush) as (admin, public):
        client = threading.Thread(target=lambda: found.append(Traffic(public).asked()))
        client.start()
        while not slow.seen:
            time.sleep(0.01)
        time.sleep(0.3)
        at = route.Caddy(admin, "engine")
        before = at.read()
        route.flip(route.Kept(admin, "engine", before), v2.removeprefix("http://"))
        client.join(20)
    assert len(found) == 1 and route.ends_streams(before) is bool(flush)
    assert found == [""] or flush, found


def test_a_command_leads_over_and_back(evidence: Evidence, tmp_path: Path) -> None:
    kept, log = str(tmp_path / "route.json"), tmp_path / "routes"
    command = f"echo $KPARITY_ROUTE >> {log}"
    with serving() as v1, serving(Faulty("model")) as v2:
        line = [
            "cutover",
            "flip",
            *evidence.options(),
            "--exec",
            command,
            "--old",
            v1,
            "--kept",
            kept,
            "--rounds",
            "30",
        ]
        assert run(*line, "--public", v2).returncode == 1 and log.read_text() == "v1\n".join(["v2\n", ""])
        with serving() as right_one:
            assert run(*line, "--public", right_one).returncode == 0 and log.read_text().endswith("v1\nv2\n")
        assert run("cutover", "rollback", "--kept", kept).returncode == 0 and log.read_text().endswith("v2\nv1\n")
    failing = run(*line, "--public", "http://127.0.0.1:9", "--exec", "exit 7")
    assert failing.returncode == 2 and "ended with 7" in failing.stderr


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ((), "give --caddy-admin with --id and --to, or --exec"),
        (("--caddy-admin", "http://127.0.0.1:9", "--exec", "true"), "one of them"),
        (("--caddy-admin", "http://127.0.0.1:9", "--id", "x", "--to", "h:1"), "--caddy-admin http://127.0.0.1:9"),
    ],
)
def test_a_wrong_flip_is_one_sentence(
    extra: tuple[str, ...], sentence: str, evidence: Evidence, tmp_path: Path
) -> None:
    both = ("--old", "http://127.0.0.1:9", "--public", "http://127.0.0.1:10", "--kept", str(tmp_path / "kept"))
    done = run("cutover", "flip", *evidence.options(), *both, *extra)
    assert done.returncode == 2 and sentence in done.stderr and not (tmp_path / "kept").exists()
    (tmp_path / "kept").write_text("[]")
    assert "is no kept route" in run("cutover", "rollback", "--kept", str(tmp_path / "kept")).stderr
