"""A device that a contract knows as bad is refused with its reason, until the closing test has passed on this host."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import kparity
from kparity.contracts import evidence, files, known
from kparity.contracts.validate import validate
from kparity.device import fingerprint
from kparity.errors import Refused, UnknownName, WrongInput
from tests import made_receipts
from tests.cli import TAG, run
from tests.contract_project import ISSUE, checked, checked_by, document, make, write

BACKENDS = ("cpu", "liar-honest", "wgpu", "cuda")
LINE = (
    rf"\[{TAG}\] liar-honest path rejected, attempting fallback: \[KP-KNOWN-BAD\] ISSUE-MINE-1 of mine-v1 1\.0\.0: "
    r"gibberish after 64 tokens \(open; (.*)\)"
)


def probe(path: Path, *more: str, env: dict[str, str] | None = None) -> Any:
    """The shallow probe of the honest backend of another package, and of cpu, under the contracts of a project."""
    return run(
        "probe", "--backends", "liar-honest,cpu", "--depth", "bos", "--contracts", str(path), *more, liars=True, env=env
    )


def refusal(done: Any) -> str:
    """Why the honest backend is refused, while cpu serves in its place."""
    line = re.fullmatch(LINE, done.stderr.splitlines()[0])
    assert line and done.returncode == 1 and done.stderr.splitlines()[-1].startswith("Backend: cpu ("), done.stderr
    return line[1]


def project(tmp_path: Path, **changes: Any) -> Path:
    return make(tmp_path, document(known_issues=[{**ISSUE, **changes}]))


def test_refused_until_the_closing_test_passes(tmp_path: Path) -> None:
    path = project(tmp_path, closing_test="test_closing.py::test_closed")
    closing = tmp_path / "test_closing.py"
    closing.write_text("def test_closed(): assert False, 'still gibberish'\n")
    assert refusal(probe(path)) == "its closing test has not run: kparity contract check"
    check = run("contract", "check", str(path))
    assert check.returncode == 1 and "known_issues.ISSUE-MINE-1.closing_test: failed" in check.stdout, check.stderr
    assert "still gibberish" in check.stdout
    assert refusal(probe(path)) == "its closing test failed"
    closing.write_text("def test_closed(): assert len('right') == 5\n")
    check = run("contract", "check", str(path))
    assert check.returncode == 0 and "4 of 4 passed" in check.stdout, check.stderr
    accepted = probe(path)
    assert accepted.returncode == 3 and accepted.stderr.startswith("Backend: liar-honest ("), accepted.stderr


def test_a_required_backend_that_is_known_as_bad_refuses(tmp_path: Path) -> None:
    path = project(tmp_path)
    done = run("run", "--require", "liar-honest", "--prompt", "x", "--contracts", str(path.parent), liars=True)
    assert done.returncode == 3 and done.stdout == ""
    assert "liar-honest path rejected, refusing, it was required: [KP-KNOWN-BAD] ISSUE-MINE-1" in done.stderr
    assert "Backend:" not in done.stderr


CPU = {"backend": "cpu", "device": "Some CPU", "driver": "", "api": "native"}
WGPU = {"backend": "wgpu", "device": "llvmpipe (LLVM 15.0.6, 256 bits)", "driver": "llvmpipe Mesa 22.3.6 (LLVM 15.0.6)",
        "api": "Vulkan"}  # fmt: skip
CUDA = {"backend": "cuda", "device": "NVIDIA H200", "driver": "CUDA 13.0, release 550.90.07", "api": "CUDA"}
HITS = [
    (CPU, {}, True),
    (CPU, {"device": "other"}, False),
    (CPU, {"device": "some cpu"}, True),
    (CPU, {"driver": "<= 9"}, True),  # a driver without a version is not known to be good
    (CPU, {"driver": "mesa"}, False),
    (WGPU, {"device": "^llvmpipe", "driver": "< 23", "api": "Vulkan"}, True),
    (WGPU, {"device": "^llvmpipe", "driver": "< 23", "api": "Metal"}, False),
    (WGPU, {"driver": ">= 22.3.7"}, False),
    (WGPU, {"driver": ">= 22.3.6, < 22.4"}, True),
    (WGPU, {"driver": "== 22.3.6"}, True),
    (WGPU, {"driver": "!= 22.3.6"}, False),
    (WGPU, {"driver": "Mesa 22\\.3"}, True),
    (CUDA, {"driver": "<= 550.90.7"}, True),
    (CUDA, {"driver": "<= 550.90"}, False),
    (CUDA, {"driver": "> 550.90"}, True),
    (CUDA, {"driver": "<= 13.0"}, False),  # CUDA's own version is not the driver's
    (CUDA, {"device": "H200|H100"}, True),
    (CUDA, {"device": "A100"}, False),
]


@pytest.mark.parametrize(("info", "match", "hit"), HITS)
def test_an_issue_matches_the_devices_that_it_is_about(
    info: dict[str, str], match: dict[str, str], hit: bool, tmp_path: Path
) -> None:
    contract = files.read_all([project(tmp_path, backend=info["backend"], match=match)])[0]
    (issue,) = known.issues_of(contract, BACKENDS)
    assert issue.matches(info) is hit
    assert not issue.matches({**info, "backend": "another"})


@pytest.mark.parametrize(
    "change", [{"backend": "liar-nan"}, {"match": {"device": "another device"}}, {"match": {"api": "^Vulkan$"}}]
)
def test_an_issue_about_another_device_refuses_nothing(change: dict[str, Any], tmp_path: Path) -> None:
    done = probe(project(tmp_path, **change))
    assert done.returncode == 3 and done.stderr.startswith("Backend: liar-honest ("), done.stderr


def states(path: Path) -> list[str]:
    return [issue.state for issue in known.issues_of(files.read_all([path])[0], BACKENDS)]


def test_only_evidence_of_this_version_issue_and_host_opens_the_way(tmp_path: Path) -> None:
    path = project(tmp_path)
    shown = path.parent / "evidence" / "mine-v1.json"
    assert states(path) == ["open; its closing test has not run: kparity contract check"]
    checked(path)
    assert states(path) == []
    good = evidence.read(shown)
    assert good is not None and good.devices_sha256 == fingerprint.host()

    for code in ({}, {**good.code, "kparity": "0" * 64}):
        evidence.write(shown, replace(good, code=code))
        (state,) = states(path)
        assert state.startswith("open; its closing test passed, of other code: ") and "kparity" in state
    evidence.write(shown, replace(good, devices_sha256="0" * 64))
    assert states(path) == ["open; its closing test passed with other devices or drivers: kparity contract check"]
    evidence.write(shown, replace(good, contract=evidence.Of("mine-v1", "0.9.0")))
    assert states(path) == ["open; its closing test passed, of version 0.9.0: kparity contract check"]
    for outcome in ("failed", "skipped", "incomplete", "missing"):
        evidence.write(shown, replace(good, results=[replace(each, outcome=outcome) for each in good.results]))
        assert states(path) == [f"open; its closing test {outcome}"]
    for damage in ("", "{", "[]", '{"schema": "kparity-contract-evidence-v1"}'):
        shown.write_text(damage)
        assert len(states(path)) == 1
    evidence.write(shown, good)
    write(path, document(known_issues=[{**ISSUE, "closing_test": "test_mine.py::test_many"}]))
    assert len(states(path)) == 1, "the evidence is of another closing test"


CLOSED = [
    ("a", {}, "closed by a, but nothing shows that its closing test ran"),
    ("a", {"closing_test": "test_mine.py::test_bad"}, "closed by a, but its closing test failed"),
    ("a", {"closing_test": "test_mine.py::test_empty"}, "closed by a, but its closing test empty"),
    ("a", {"closing_test": "test_mine.py::test_good"}, ""),
    ("a", {"closing_test": "test_mine.py::test_good", "symptom": "stale"}, "closed by a, but its closing test stale"),
    ("b", {}, "closed by b, but the backend liar-honest is still there"),
    ("b", {"backend": "liar-gone"}, ""),
    ("c", {}, "right with a newer driver"),
]


@pytest.mark.parametrize(("how", "changes", "state"), CLOSED)
def test_an_issue_closes_with_proof_only(how: str, changes: dict[str, str], state: str, tmp_path: Path) -> None:
    path = project(tmp_path, status="closed", closed_by=how, closure={how: "what was done"}, **changes)
    if "closing_test" in changes:
        checked(path)
    if changes.get("symptom") == "stale":
        (tmp_path / "test_mine.py").write_text((tmp_path / "test_mine.py").read_text() + "# other code\n")
    assert states(path) == ([state] if state else [])
    proven = not state.startswith("closed by")
    lines = [str(each) for each in validate([path], BACKENDS).problems]
    assert any(state in line for line in lines) is not proven and (lines == []) is proven, lines


@pytest.mark.parametrize(("test", "code"), [("test_good", 0), ("test_bad", 1), ("test_skipped", 0)])
def test_evidence_by_hand_closes_nothing_that_fails_here(test: str, code: int, tmp_path: Path) -> None:
    closed = {"status": "closed", "closed_by": "a", "closing_test": f"test_mine.py::{test}"}
    path = project(tmp_path, **closed)
    checked(path)
    shown = path.parent / "evidence" / "mine-v1.json"
    made = evidence.read(shown)
    assert made is not None
    evidence.write(shown, replace(made, results=[replace(each, outcome="passed") for each in made.results]))
    found = checked_by([path])
    assert found.exit_code == code and ("closing test fails here" in "".join(map(str, found.problems))) is bool(code)
    assert any("closing test was skipped here" in note for note in found.notes) is (test == "test_skipped")


PROBED = {**WGPU, "driver": "Mesa 23.1.0"}


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ([PROBED], ""),
        ([WGPU], "in proof.json no such device passed with a driver that the issue does not match"),
        ([{**PROBED, "device": "another"}], "in proof.json no such device passed"),
        ([], "in proof.json no such device passed"),
        (None, "is not there"),
    ],
)
def test_a_newer_driver_must_have_been_probed(devices: list[dict[str, str]] | None, said: str, tmp_path: Path) -> None:
    closed = {"status": "closed", "closed_by": "c", "closure": {"c": "Mesa 23"}, "proof": "proof.json"}
    path = project(tmp_path, backend="wgpu", match={"device": "^llvmpipe", "driver": "< 23"}, **closed)
    if devices is not None:
        (tmp_path / "proof.json").write_text("{}")
    lines = [str(each) for each in validate([path], BACKENDS, probed=lambda path: devices or []).problems]
    assert [f"closed by c, but {said}" in line or said in line for line in lines] == [True] * bool(said), lines


def test_a_proof_is_a_receipt_that_may_be_believed(tmp_path: Path) -> None:
    device = made_receipts.DEVICES["wgpu"]
    closed = {"status": "closed", "closed_by": "c", "closure": {"c": "newer"}, "proof": "proof.json"}
    path = project(tmp_path, backend="wgpu", match={"api": device["api"], "driver": "< 1"}, **closed)
    altered = made_receipts.receipt("wgpu")
    altered["predicate"]["serving"] = None
    shallow = made_receipts.probe_receipt("wgpu", depth="bos")
    for receipt, good in ((made_receipts.probe_receipt("wgpu"), True), (altered, False), (shallow, False)):
        (tmp_path / "proof.json").write_text(json.dumps(receipt))
        done = run("contract", "validate", "--no-run", str(path))
        assert (done.returncode == 0) is good, done.stdout
        assert good or "closed by c, but its proof is refused: " in " ".join(done.stdout.split())


@pytest.mark.parametrize("test", ["test_skipped", "test_some", "test_excused", "test_empty"])
def test_a_closing_test_that_did_not_wholly_pass_closes_nothing(test: str, tmp_path: Path) -> None:
    path = project(tmp_path, closing_test=f"test_mine.py::{test}")
    checked(path)
    (state,) = states(path)
    outcomes = {"test_skipped": "skipped", "test_some": "incomplete", "test_empty": "empty"}
    assert state == f"open; its closing test {outcomes.get(test, 'failed')}"


def test_a_remembered_verdict_depends_on_the_issues_and_their_evidence(tmp_path: Path) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    path = project(tmp_path)

    def row(*more: str) -> dict[str, Any]:
        done = run(
            "probe", "--backends", "liar-honest", "--depth", "bos", "--cached", "--json", *more, liars=True, env=env
        )
        found: dict[str, Any] = json.loads(done.stdout)["rows"][0]
        return found

    assert row()["status"] == "accepted" and row()["cached"]
    for _ in range(2):  # what did not pass the gate open is not remembered
        refused = row("--contracts", str(path))
        assert refused["code"] == "KP-KNOWN-BAD" and not refused["cached"]
    checked(path)
    assert row("--contracts", str(path))["status"] == "accepted"
    (path.parent / "evidence" / "mine-v1.json").unlink()
    assert row("--contracts", str(path))["code"] == "KP-KNOWN-BAD"


def test_select_heeds_the_same_contracts(tmp_path: Path) -> None:
    path = project(tmp_path, backend="numpy")
    lines: list[str] = []
    chosen = kparity.select(["numpy", "cpu"], depth="bos", contracts=[path.parent], log=lines.append)
    chosen.close()
    assert chosen.name == "cpu" and "[KP-KNOWN-BAD] ISSUE-MINE-1" in lines[0]
    with pytest.raises(Refused, match="numpy was required and may not serve"):
        kparity.select(require="numpy", depth="bos", contracts=[path], log=lines.append)
    with pytest.raises(UnknownName, match="unknown backend of known issue ISSUE-MINE-1"):
        kparity.select(["cpu"], contracts=[project(tmp_path / "b", backend="nmpy")], log=lines.append)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metadata: {", "not a contract that can be read"),
        ("a: 1", "'metadata' is a required property"),
        (None, "no such file or folder"),
    ],
)
def test_a_contract_in_bad_form_is_one_sentence_and_exit_code_2(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine-v1.yaml"
    if text is not None:
        path.write_text(text)
    for command in (("probe", "--backends", "cpu"), ("run", "--backend", "cpu", "--prompt", "x")):
        done = run(*command, "--contracts", str(path))
        assert done.returncode == 2 and done.stdout == "", done.stderr
        assert done.stderr.startswith("kparity: ") and done.stderr.count("\n") == 1 and said in done.stderr


def test_a_pattern_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    contract = files.read_all([project(tmp_path, match={"driver": "<= 5.x"})])[0]
    with pytest.raises(WrongInput, match="no comparison"):
        known.issues_of(contract, BACKENDS)
