"""The cutover: green only where every gate is, a route that changes under traffic, and a way back by itself."""

from __future__ import annotations

import base64
import hashlib
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
from kparity.burnin.cutover import Decision, as_receipt, decide
from kparity.burnin.record import State
from kparity.errors import WrongInput
from kparity.receipts.cutover import GATES, CutoverStatement
from kparity.receipts.results import ResultStatement, of_cutover
from kparity.receipts.statement import redigested, write
from kparity.receipts.store import load_folder
from kparity.receipts.verify import verify
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
    assert (found.decision, found.exit_code, states(found)) == ("ALLOWED", 0, {})
    assert tuple(gate.name for gate in found.gates) == GATES
    assert result_of(found) == "PASSED" and verify(as_receipt(found), require_parity=True) == []


def result_of(found: Decision) -> str:
    """What its receipt is as an in-toto test result."""
    made = of_cutover(msgspec.convert(as_receipt(found), CutoverStatement), [])
    return msgspec.convert(made, ResultStatement).predicate.result


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
    assert result_of(found) == {"FAIL": "FAILED", "INCONCLUSIVE": "WARNED"}[state]
    assert [each.code for each in verify(as_receipt(found), require_parity=True)] == ["RCPT-PARITY-REQUIRED"]


def test_what_is_not_there_is_not_green(evidence: Evidence) -> None:
    found = decide(evidence.log, evidence.state, None, ())
    assert states(found) == {"ppl_delta": "INCONCLUSIVE", "parity_receipts": "INCONCLUSIVE"}
    done = run("cutover", "status", "--log", str(evidence.log))
    assert done.returncode == 3 and "⌛ INCONCLUSIVE" in done.stdout and "WAITING" in done.stdout
    evidence.ppl.write_text("{}")
    with pytest.raises(WrongInput, match="is not the JSON of kparity ppl"):
        evidence.decided()


def test_a_receipt_is_signed_and_verified(evidence: Evidence, tmp_path: Path) -> None:
    made, key = str(tmp_path / "cutover.json"), str(tmp_path / "team.pem")
    public, result = str(tmp_path / "team.pub"), str(tmp_path / "result.json")
    done = run("cutover", "status", *evidence.options(), "--receipt-out", made, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["decision"] == "ALLOWED", done.stderr
    unsigned = run("receipt", "verify", made, "--key", str(made))
    assert unsigned.returncode == 2
    assert run("receipt", "keygen", key).returncode == 0
    assert run("receipt", "verify", made, "--key", public).returncode == 1
    assert run("receipt", "sign", made, "--key", key).returncode == 0
    checked = run("receipt", "verify", made, "--key", public, "--require-parity", "--max-age", "1")
    assert checked.returncode == 0 and "PASS" in checked.stdout, checked.stdout
    shown = run("receipt", "show", made, env={"COLUMNS": "200"})
    assert "ALLOWED" in shown.stdout and "✓ PASS" in shown.stdout and shown.stdout.strip().endswith("PASS")
    assert run("receipt", "test-result", made, result).returncode == 0
    told = json.loads(Path(result).read_text())
    assert told["predicate"]["result"] == "PASSED" and "cutover/halts" in told["predicate"]["passedTests"]
    assert len(told["subject"]) == 4 and "which measures nothing" in run("receipt", "diff", made, made).stderr
    envelope = json.loads(Path(made).read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"rounds"', b'"Rounds"')
    Path(made).write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))
    assert "RCPT-SIGNATURE" in run("receipt", "verify", made, "--key", public).stdout


def test_the_digests_are_those_of_what_was_counted(evidence: Evidence, tmp_path: Path) -> None:
    """By hashlib alone; the log has grown since, as it does, and a row of it is torn."""
    log = tmp_path / "growing.jsonl"
    lines = evidence.log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:500]))
    found = decide(log, evidence.state, str(evidence.ppl), evidence.receipts)
    log.write_bytes(b"".join(lines[:700]) + lines[700][:40])
    told = {each.name: (each.kind, each.sha256, each.lines) for each in found.evidence}
    others = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (evidence.ppl, *evidence.receipts)}
    assert told == {
        "growing.jsonl": ("log", hashlib.sha256(b"".join(lines[:500])).hexdigest(), 500),
        **{name: ("ppl" if name == "ppl.json" else "receipt", digest, 0) for name, digest in others.items()},
    }
    again = as_receipt(decide(log, evidence.state, None, ()))["predicate"]["evidence"][0]
    assert (again["sha256"], again["lines"]) == (hashlib.sha256(b"".join(lines[:700])).hexdigest(), 700)


LIES = {
    "a gate left out": (lambda p: p["gates"].pop(), "RCPT-GATES-MISSING"),
    "a gate twice": (lambda p: p["gates"].append(p["gates"][0]), "RCPT-GATE"),
    "a gate of nobody": (lambda p: p["gates"].append({**p["gates"][0], "name": "charm"}), "RCPT-GATE"),
    "a lower target": (lambda p: p["gates"][0].update(target="≥ 0.5"), "RCPT-GATE"),
    "a rate below the target": (lambda p: p["gates"][0].update(low=0.89), "RCPT-GATE"),
    "a kind below the target": (lambda p: p["gates"][1].update(low=0.49), "RCPT-GATE"),
    "too few rounds": (lambda p: p["gates"][2].update(current=49_999), "RCPT-GATE"),
    "an outage in a thousand": (lambda p: p["gates"][4].update(high=0.001), "RCPT-GATE"),
    "a perplexity that fell": (lambda p: p["gates"][9].update(low=-0.06), "RCPT-GATE"),
    "nothing counted": (lambda p: p["gates"][11].update(current=None), "RCPT-GATE"),
    "another word": (lambda p: p.update(decision="WAITING"), "RCPT-PARITY"),
    "another contract": (lambda p: p["contract"].update(id="ladder-v1"), "RCPT-CONTRACT"),
    "another file": (lambda p: p["evidence"][0].update(sha256="0" * 64), "RCPT-SUBJECT"),
    "no log": (lambda p: p["evidence"].pop(0), "RCPT-SCHEMA"),
    "a field more": (lambda p: p.update(trust=True), "RCPT-SCHEMA"),
    "tomorrow": (lambda p: p.update(ended="2999-01-01T00:00:00.000Z"), "RCPT-TIME"),
    "a name that turns": (lambda p: p["evidence"][0].update(name="log\u202e"), "RCPT-NAME"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_receipt_that_does_not_follow_is_refused(lie: str, evidence: Evidence) -> None:
    change, code = LIES[lie]
    made = as_receipt(evidence.decided())
    change(made["predicate"])
    assert "RCPT-DIGEST" in [each.code for each in verify(made)] or code == "RCPT-SCHEMA"
    codes = {each.code for each in verify(redigested(made))}
    assert code in codes and codes <= {code, "RCPT-SUBJECT", "RCPT-PARITY"}


def test_in_a_folder_of_receipts_it_is_called_by_its_name(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(json.dumps(as_receipt(evidence.decided())))
    stored, others = load_folder(tmp_path)
    assert not stored and others == ["cut.json: of a cutover, which measures nothing; kparity receipt show tells it"]


def test_what_a_cutover_cannot_show_is_refused(evidence: Evidence) -> None:
    made = as_receipt(evidence.decided())
    demands = {"require_gpu_kernels": True, "model": evidence.ppl, "nonce": "x", "commit": "f" * 7}
    codes = [each.code for each in verify(made, **demands)]  # type: ignore[arg-type]
    assert codes == ["RCPT-NO-GPU-KERNELS", "RCPT-MODEL", "RCPT-NONCE", "RCPT-COMMIT"]
    waiting = as_receipt(decide(evidence.log, evidence.state, None, ()))
    assert verify(waiting) == [] and [each.code for each in verify(waiting, require_parity=True)] == [
        "RCPT-PARITY-REQUIRED"
    ]


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
