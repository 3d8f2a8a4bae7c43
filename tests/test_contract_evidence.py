"""What the evidence of a contract is worth: of which code it is, where tests may lie, and whose code runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from kparity.contracts import coverage, evidence, files, nodes
from kparity.contracts.validate import validate
from kparity.device import fingerprint
from tests.contract_project import DOCUMENT, checked, checked_by, document, make, problems, write


def test_a_version_with_the_gpu_has_seen_one(tmp_path: Path) -> None:
    contract = document(metadata={**DOCUMENT["metadata"], "version": "2.0.0", "devices": ["cpu", "gpu"]})
    contract["metadata"]["changelog"] = [{"version": "2.0.0", "change": "The GPU joins."}]
    path = make(tmp_path, contract)
    checked(path)
    shown = evidence.read(path.parent / "evidence" / "mine-v1.json")
    assert shown is not None and "the evidence is of none" in "".join(problems(path))
    evidence.write(path.parent / "evidence" / "mine-v1.json", replace(shown, kinds=["cpu", "gpu"]))
    assert problems(path) == []


@pytest.mark.parametrize(
    ("test", "outcome"), [("test_good", "passed"), ("test_bad", "failed"), ("test_skipped", "skipped")]
)
def test_discharged_is_what_the_evidence_shows(test: str, outcome: str, tmp_path: Path) -> None:
    contract = document()
    contract["falsification_tests"][0].update(status="discharged", test=f"test_mine.py::{test}")
    path = make(tmp_path, contract)
    checked(path)
    lines = problems(path)
    assert lines == [] if outcome == "passed" else f"discharged, but its test {outcome}" in lines[0]
    shown = path.parent / "evidence" / "mine-v1.json"
    shown.write_text(shown.read_text()[:-20])
    assert any("nothing shows that its test ran" in line for line in problems(path))


def test_evidence_of_another_version_is_remarked(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    checked(path)
    new = document()
    new["metadata"].update(version="1.0.1", changelog=[{"version": "1.0.1", "change": "c"}])
    write(path, new)
    assert any("the evidence is of version 1.0.0" in note for note in checked_by([path]).notes)


def test_what_a_link_leads_out_to_is_never_run(tmp_path: Path) -> None:
    """Nor by ``check``; nor is a pipe waited for that stands where a source or the evidence should."""
    outside = tmp_path / "outside" / "test_out.py"
    outside.parent.mkdir()
    outside.write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef test_x(): pass\n")
    root, contract = tmp_path / "root", document(enforced_by=["source.py", "pipe.py", "linked.py"])
    contract["falsification_tests"][0]["test"] = "test_link.py::test_x"
    contract["proof_obligations"][0]["test"] = "folder/test_out.py::test_x"
    path = make(root, contract)
    for name, target in (("test_link.py", outside), ("folder", outside.parent), ("linked.py", outside)):
        (root / name).symlink_to(target)
    for pipe in (root / "pipe.py", path.parent / "evidence" / "mine-v1.json"):
        pipe.parent.mkdir(exist_ok=True)
        os.mkfifo(pipe)
    lines = problems(path)
    for name in ("test_link.py", "folder/test_out.py", "pipe.py", "linked.py"):
        assert any(f": {name} is no file in {root}" in line for line in lines), lines
    (path.parent / "evidence" / "mine-v1.json").unlink()
    checked(path)
    shown = evidence.read(path.parent / "evidence" / "mine-v1.json")
    assert shown and [each.outcome for each in shown.results] == ["missing", "missing", "passed"]
    assert not outside.with_name("ran").exists()


def test_code_of_others_runs_only_where_it_is_allowed(tmp_path: Path) -> None:
    path, said = make(tmp_path, document()), list[str]()
    (tmp_path / "test_mine.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    for run, code in ((None, 3), (False, 0), (True, 1)):
        assert not (tmp_path / "ran").exists() and not said
        found = validate([path], run=run, say=said.append)
        assert found.exit_code == code
        assert run or any("tests of mine-v1: " in line for line in (*found.unchecked, *found.notes))
    assert (tmp_path / "ran").exists() and said[0].startswith(f"runs code of {tmp_path}: ")


@pytest.mark.parametrize("name", ["test_mine.py", "helper.py", "source.py", "src/mine.py"])
def test_evidence_of_other_code_is_stale(name: str, tmp_path: Path) -> None:
    contract = document(enforced_by=["source.py", "src/gate.py"])
    path = make(tmp_path, contract)
    for each in ("helper.py", "src/gate.py", "src/mine.py"):
        (tmp_path / each).parent.mkdir(exist_ok=True)
        (tmp_path / each).write_text("")
    contract["falsification_tests"][0]["status"] = "discharged"
    write(path, contract)
    checked(path)
    (mine,) = files.read_all([path])
    assert (coverage.score(mine).passed, coverage.score(mine).cells[-1]) == (3, "3 / 3")
    before = (tmp_path / name).read_text()
    (tmp_path / name).write_text(f"{before}\n# another\n")
    assert (coverage.score(mine).passed, coverage.score(mine).cells[-1]) == (0, "0 / 3, 3 stale")
    found, part = checked_by([path]), "src/" if "/" in name else "*.py"
    assert found.problems == [] and any(f"the evidence is of other code: {part};" in note for note in found.notes)
    (tmp_path / name).write_text(before)
    (tmp_path / "README.md").write_text("words")
    assert coverage.score(mine).passed == 3


def test_evidence_of_another_kparity_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, gate = make(tmp_path / "project", document()), tmp_path / "gate.py"
    monkeypatch.setattr(fingerprint, "sources", lambda: [gate])
    for text, note in (("right", ""), ("broken on purpose", "of other code: kparity"), ("right", "")):
        gate.write_text(text)
        fingerprint._sources.cache_clear()
        if not (path.parent / "evidence").exists():
            checked(path)
        assert coverage.score(files.read_all([path])[0]).note == note
    fingerprint._sources.cache_clear()


def test_an_installed_package_knows_nothing_of_its_tests(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    checked(path)
    installed = tmp_path / "site-packages" / "contracts"
    shutil.copytree(path.parent, installed)
    score = coverage.score(files.read_all([installed / path.name])[0])
    assert (score.passed, score.enforced, score.cells[-1]) == (None, None, "unknown")
    assert coverage.total([score, score]).cells[-1] == "unknown"


def test_evidence_of_another_contract_or_test_proves_nothing(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    checked(path)
    shown = evidence.read(path.parent / "evidence" / "mine-v1.json")
    assert shown is not None
    contract, test = (
        files.read_all([path])[0],
        nodes.Reference("falsification_tests", "FALSIFY-MINE-001", "test_mine.py::test_good"),
    )
    assert evidence.Shown(contract, shown).outcome(test) == "passed"
    for other in ({"kind": "other"}, {"id": "other"}, {"node": "other"}):
        assert evidence.Shown(contract, shown).outcome(replace(test, **other)) == "none"
    assert evidence.Shown(contract, replace(shown, contract=evidence.Of("other", "1.0.0"))).outcome(test) == "none"
    assert evidence.Shown(contract, None).outcome(test) == "none"
    evidence.write(tmp_path / "e.json", replace(shown, form="x"))
    assert evidence.read(tmp_path / "e.json") is None
