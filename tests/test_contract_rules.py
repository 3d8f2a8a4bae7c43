"""Every rule of ``kparity contract validate`` accepts the good contract and rejects the bad one that it exists for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kparity.contracts import coverage, files, history, nodes
from kparity.contracts.plain_yaml import parse
from kparity.contracts.validate import Findings, asked_for
from kparity.errors import WrongInput
from tests.contract_project import DOCUMENT, ISSUE, checked_by, commit, document, make, problems, write
from tests.edits import Edit, both, drop, put

Document = dict[str, Any]


COLLECTED: dict[tuple[str, ...], tuple[list[str], dict[str, str]]] = {}
"""What pytest said of a project, by the texts of its test files: collecting takes a second."""


@pytest.fixture(autouse=True)
def collect_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal projects are collected once."""
    really = nodes.collect

    def collect(root: Path, wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        named = sorted({nodes.file_of(node) for node in wanted})
        key = tuple(f"{name}:{(root / name).read_text() if (root / name).exists() else None}" for name in named)
        if key not in COLLECTED:
            COLLECTED[key] = really(root, wanted)
        return COLLECTED[key]

    monkeypatch.setattr(nodes, "collect", collect)


def findings(tmp_path: Path, contract: Document) -> Findings:
    return checked_by([make(tmp_path, contract)])


def issue(**changes: Any) -> Edit:
    """An edit that adds the known issue of the project, changed."""
    return put("known_issues", [{**ISSUE, **changes}])


def test_the_good_contract_is_clean(tmp_path: Path) -> None:
    found = findings(tmp_path, document(known_issues=[ISSUE]))
    assert found.problems == [] and found.unchecked == [] and found.exit_code == 0


FALSIFIER, OBLIGATION = "falsification_tests.0", "proof_obligations.0"
BAD: dict[str, tuple[Edit, str]] = {
    "no references": (put("metadata.references", []), "metadata.references: "),
    "an empty reference": (put("metadata.references", [" "]), "metadata.references.0: "),
    "a version of two parts": (put("metadata.version", "1.0"), "metadata.version: '1.0' does not match"),
    "a version that YAML reads as a number": (put("metadata.version", 1.0), "quote it"),
    "an unknown status": (put("metadata.status", "fine"), "metadata.status: 'fine' is not one of"),
    "an id that is not the file's": (put("metadata.id", "other-v1"), "name the file after the id"),
    "no falsifier": (put("falsification_tests", []), "falsification_tests: "),
    "a falsifier without a prediction": (drop(f"{FALSIFIER}.prediction"), "'prediction' is a required property"),
    "a threshold without a basis": (drop("thresholds.error.basis"), "'basis' is a required property"),
    "a threshold with a thin basis": (put("thresholds.error.basis", "x"), "thresholds.error.basis: "),
    "a threshold that is no number": (put("thresholds.error.value", "0.5"), "thresholds.error.value: "),
    "a threshold beyond all measures": (put("thresholds.error.value", 1e16), "thresholds.error.value: "),
    "a count that is none": (put("harnesses.0.bound", 2.0), "Expected `int`, got `float`"),
    "a version of 5,000 digits": (put("metadata.version", f"{'1' * 5000}.0.0"), "metadata.version: "),
    "an id with a line break": (put(f"{OBLIGATION}.id", "PO-MINE-1\n"), "proof_obligations.0.id: "),
    "an unknown rule": (put("thresholds.error.rule", "about"), "thresholds.error.rule: "),
    "an unknown key": (put("treshold", {}), "'treshold' was unexpected"),
    "thresholds that nothing enforces": (drop("enforced_by"), "'enforced_by' is a required property"),
    "a strategy nobody has": (put("harnesses.0.strategy", "hope"), "harnesses.0.strategy: "),
    "four whys": (put("five_whys", [{"why": "w", "because": "b"}] * 4), "five_whys: "),
    "an id twice": (put(f"{OBLIGATION}.id", "FALSIFY-MINE-001"), "is the id of mine-v1.yaml falsification_tests"),
    "a changelog behind its version": (put("metadata.version", "1.1.0"), "ends with 1.0.0"),
    "a changelog out of order": (
        put("metadata.changelog", [{"version": "2.0.0", "change": "c"}, {"version": "1.0.0", "change": "c"}]),
        "versions do not rise",
    ),
    "a harness of no obligation": (put("harnesses.0.obligation", "PO-NOBODY"), "there is no PO-NOBODY here"),
    "a precondition of nothing": (put("preconditions.0.of", ["eror"]), "there is no eror here"),
    "a test in no file": (put(f"{FALSIFIER}.test", "test_none.py::test_x"), "test_none.py is no file in"),
    "a test at an absolute path": (put(f"{FALSIFIER}.test", "/tmp/test_x.py::test_x"), "falsification_tests.0.test: "),
    "a test above the root": (put(f"{FALSIFIER}.test", "a/../../test_x.py::test_x"), "falsification_tests.0.test: "),
    "a test that is an option": (put(f"{FALSIFIER}.test", "-ptest_mine.py::test_good"), "falsification_tests.0.test: "),
    "a test that is a list of arguments": (put(f"{FALSIFIER}.test", "@a.py::b"), "falsification_tests.0.test: "),
    "a test in a file that no disk can have": (put(f"{FALSIFIER}.test", f"{'x' * 5000}.py::test_x"), "is no file in"),
    "a source above the root": (put("enforced_by", ["../source.py"]), "enforced_by.0: "),
    "a cited page that is not there": (put("metadata.references", ["A book", "docs/none.md"]), "docs/none.md is not"),
    "a cited anchor that is not there": (put("metadata.references", ["see docs/driver.md#a"]), "driver.md#a is not"),
    "a cited test that is not there": (put("metadata.references", ["test_mine.py::test_x"]), "py::test_x is not"),
    "an issue of a page that does not warn": (issue(id="ISSUE-MINE-2"), "no page that the reference names has"),
    "an issue without a page": (issue(reference="ticket 4711"), "no page that the reference names has"),
    "an issue of a page that is not there": (issue(reference="docs/gone.md"), "docs/gone.md is not there"),
    "a closed issue whose backend is there": (
        issue(status="closed", closed_by="b", closure={"b": "x"}), "closed by b, but the backend liar-honest is still"),
    "a comparison of 5,000 digits": (issue(match={"driver": f"<{'1' * 190}"}), "is no comparison such as"),
    "a pattern of 5,000 characters": (issue(match={"device": "(" * 5000}), "known_issues.0.match.device: "),
    "a GPU in version 1": (put("metadata.devices", ["cpu", "gpu"]), "gpu in 1.0.0: 1.x is the CPU's"),
    "a GPU without evidence": (put("metadata.devices", ["gpu"]), "the evidence is of none"),
    "a GPU beside an open issue": (
        both(put("metadata.devices", ["cpu", "gpu"]), issue()), "gpu, but ISSUE-MINE-1 is open"),
    "a test that is misspelt": (put(f"{FALSIFIER}.test", "test_mine.py::test_god"), "did you mean 'test_good'"),
    "a parameter that is not there": (put(f"{OBLIGATION}.test", "test_mine.py::test_many[3]"), "test_many[3]"),
    "a closing test that is not there": (
        issue(closing_test="test_mine.py::test_no"), "known_issues.ISSUE-MINE-1.closing_test"),
    "a source that is not there": (put("enforced_by", ["nowhere.py"]), "nowhere.py is no file in"),
    "a threshold that no code uses": (
        put("thresholds.idle", DOCUMENT["thresholds"]["error"]), "thresholds.idle: no code of source.py uses it"),
    "a threshold that no contract has": (
        put("thresholds", {"eror": DOCUMENT["thresholds"]["error"]}),
        "source.py: line 3: 'error' is used here and not in mine-v1",
    ),
    "discharged without evidence": (put(f"{FALSIFIER}.status", "discharged"), "nothing shows that its test ran"),
    "an issue of no backend": (issue(backend="cup"), "did you mean 'cpu'"),
    "an issue with a broken pattern": (
        issue(match={"device": "("}), "is not a regular expression"),
    "an issue with a broken comparison": (
        issue(match={"driver": "<= new"}), "is no comparison such as"),
    "an issue without closure": (issue(closure={}), "known_issues.0.closure: "),
    "a closed issue that says not how": (issue(status="closed"), "'closed_by'"),
    "an open issue that closed": (issue(closed_by="a"), "known_issues.0"),
    "closed by what the closure does not name": (
        issue(status="closed", closed_by="b"), "closed by b, which the closure does not name"),
    "closed by a without evidence": (
        issue(status="closed", closed_by="a"), "nothing shows that its closing test ran"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_each_rule_rejects_the_contract_that_breaks_it(name: str, tmp_path: Path) -> None:
    edit, said = BAD[name]
    contract = document()
    edit(contract)
    found = findings(tmp_path, contract)
    lines = [str(problem) for problem in found.problems]
    assert any(said in line for line in lines), lines
    assert found.exit_code == 1 and all(line.count("\n") == 0 and "; " in line for line in lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metadata: [", "line 2"),
        ("a: 1\na: 2\n", "'a' twice"),
        ("a: *x\n", "an alias"),
        ("a: &x [1]\n", "an anchor"),
        ("&x a: 1\n", "an anchor"),
        ("!!python/object:os.system a: 1\n", "the tag"),
        ("a: 1e-400", "1e-400 is too small a number"),
        ("a: !!python/object/apply:os.system ['true']\n", "the tag"),
        ("a: !!int '1:2'\n", "the tag"),
        ("a: 1\n---\na: 1\n", "a second document"),
        ("? [a]\n: 1\n", "a key that is no text"),
        ("a: .nan", ".nan is not a finite number"),
        ("a: [-.Inf]", "-.Inf is not a finite number"),
        ("a: 1e999", "1e999 is not a finite number"),
        ('a: "\\e[2J"', "a character that is not shown"),
        ("[" * 3000, "nesting"),
        ("[" * 30 + "]" * 30, "more than 16 levels"),
        (f"a: [{'1,' * 400_000}]", "more than 1000 entries"),
        ("".join(f"k{at}: [{'x,' * 900}]\n" for at in range(500)), "more than 20000 values"),
        (f"a: {'9' * 5000}", "an integer of more than 64 bits"),
        (f"a: {1 << 64}", "an integer of more than 64 bits"),
        (f"a: {'1:' * 450_000}1", "a value of 900001 characters"),
        ("\x00", "control characters"),
    ],
    ids=lambda each: each[:30],
)
def test_what_is_no_contract_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad-v1.yaml"
    path.write_text(text)
    begun = time.perf_counter()
    with pytest.raises(WrongInput) as caught:
        files.read(path)
    assert time.perf_counter() - begun < 1
    assert said in str(caught.value) and "bad-v1.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_means_one_thing_only() -> None:
    """What YAML 1.1 takes for base 60, octal, a date or a truth is text; numbers are those of JSON."""
    words = ("1:30", "010", "0x1f", "1_000", "2026-01-01", "on", "Yes", "n", "<<", "0o7", "190:20:30.15", "=")
    for word in words:
        assert parse(f"{word}: {word}", "x") == {word: word}
    text = "{a: [-1, 2.5, 1e-6, .5, +3, true, False, null, ~], b: '1', c: 18446744073709551615}"
    assert parse(text, "x") == {"a": [-1, 2.5, 1e-6, 0.5, 3, True, False, None, None], "b": "1", "c": (1 << 64) - 1}


def test_a_document_that_is_no_table_is_a_problem_of_form(tmp_path: Path) -> None:
    for text in ("", "3", "[1, 2]", "1: 2", "metadata: 3"):
        path = tmp_path / "bad-v1.yaml"
        path.write_text(text)
        contract, problems = files.read(path)
        assert contract is None and problems


def test_an_id_of_another_contract_is_seen(tmp_path: Path) -> None:
    first = make(tmp_path, document())
    other = document()
    other["metadata"]["id"] = "other-v1"
    second = write(first.parent / "other-v1.yaml", other)
    lines = problems(first, second)
    assert len(lines) == 4 and all("is the id of mine-v1.yaml" in line for line in lines)


def test_a_bad_file_of_a_folder_is_a_line_of_it(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    (path.parent / "bad-v1.yaml").write_text("a: .nan")
    os.mkfifo(path.parent / "pipe-v1.yaml")
    bad, pipe = problems(*files.in_folder(path.parent))
    assert "bad-v1.yaml: document: " in bad and "not a finite number; correct the YAML" in bad
    assert "pipe-v1.yaml: document: " in pipe and "is a named pipe; name a contract" in pipe


def test_a_source_that_cannot_be_collected_is_named(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    (tmp_path / "test_mine.py").write_text("import nothing_of_that_name\n")
    assert ["cannot be collected" in line for line in problems(path)] == [True] * 3
    (tmp_path / "source.py").write_text("def (\n")
    assert any("cannot be read as Python" in line for line in problems(path))


BASIS = "Another reason that is as long as it must be."
CHANGES: dict[str, tuple[str, Edit]] = {
    "value": ("major", put("thresholds.error.value", 0.6)),
    "rule": ("major", put("thresholds.error.rule", "below")),
    "formula": ("major", put("equations.error.formula", "|a - b|")),
    "domain": ("major", put("equations.error.domain", "integers")),
    "falsifier removed": ("major", put(f"{FALSIFIER}.id", "FALSIFY-MINE-002")),
    "prediction": ("major", put(f"{FALSIFIER}.prediction", "q")),
    "precondition removed": ("major", drop("preconditions")),
    "harness removed": ("major", drop("harnesses")),
    "tolerance": ("major", put(f"{OBLIGATION}.tolerance", 1e-9)),
    "devices": ("major", put("metadata.devices", ["cpu", "gpu"])),
    "devices said": ("none", put("metadata.devices", ["cpu"])),
    "obligation formal": ("major", put(f"{OBLIGATION}.formal", "g")),
    "log": ("major", put("log", {"rejected": "r", "serving": "s"})),
    "threshold added": ("minor", put("thresholds.more", DOCUMENT["thresholds"]["error"])),
    "falsifier added": ("minor", lambda contract: contract["falsification_tests"].append(
        {**DOCUMENT["falsification_tests"][0], "id": "FALSIFY-MINE-002"})),
    "issue added": ("minor", put("known_issues", [ISSUE])),
    "harness bound": ("minor", put("harnesses.0.bound", 3)),
    "invariants": ("minor", put("equations.error.invariants", ["b - b = 0"])),
    "basis": ("patch", put("thresholds.error.basis", BASIS)),
    "references": ("patch", put("metadata.references", ["Another book"])),
    "test renamed": ("patch", put(f"{FALSIFIER}.test", "test_mine.py::test_many")),
    "status": ("none", put(f"{FALSIFIER}.status", "partial")),
    "status and basis": ("patch", both(put(f"{FALSIFIER}.status", "partial"), put("thresholds.error.basis", BASIS))),
}  # fmt: skip
LEAST = {"major": "2.0.0", "minor": "1.1.0", "patch": "1.0.1", "none": "1.0.0"}
BELOW = {"major": "1.9.9", "minor": "1.0.9", "patch": "1.0.0"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_asks_for_its_bump(name: str) -> None:
    level, edit = CHANGES[name]
    new = document()
    edit(new)
    found = history.changes(DOCUMENT, new)
    assert max((history.LEVELS.index(change.level) for change in found), default=0) == history.LEVELS.index(level)
    assert history.least("1.0.0", level) == LEAST[level]


FIELDS = {
    "equations.error.codomain": "major", "preconditions.0.of": "major", "preconditions.0.requires": "major",
    "preconditions.0.if_violated": "major", f"{FALSIFIER}.rule": "major", f"{FALSIFIER}.evidence": "none",
    "harnesses.0.obligation": "major", "harnesses.0.strategy": "minor", "known_issues.0.backend": "major",
    "known_issues.0.match": "major", "known_issues.0.closure": "minor", "known_issues.0.closing_test": "minor",
    "known_issues.0.status": "minor", "known_issues.0.closed_by": "minor", "known_issues.0.symptom": "patch",
    "required_fields.a.status": "minor", "required_fields.a.meaning": "patch", "metadata.scope": "patch",
}  # fmt: skip


@pytest.mark.parametrize("path", FIELDS)
def test_another_field_asks_for_its_bump(path: str) -> None:
    old, new = (document(known_issues=[ISSUE], required_fields={"a": {}}) for _ in range(2))
    put(path, "another")(new)
    assert max((change.level for change in history.changes(old, new)), default="none") == FIELDS[path]


@pytest.mark.parametrize("level", ["major", "minor", "patch"])
def test_the_version_rule_reads_git(level: str, tmp_path: Path) -> None:
    path = make(tmp_path, document())
    assert any("version rule skipped: not in a git" in note for note in checked_by([path]).notes)
    commit(tmp_path)
    assert any("git has no other version" in note for note in checked_by([path]).notes)
    name = {"major": "value", "minor": "issue added", "patch": "basis"}[level]
    for version, clean in ((BELOW[level], False), (LEAST[level], True)):
        new = document()
        CHANGES[name][1](new)
        new["metadata"]["version"] = version
        if version != "1.0.0":
            new["metadata"]["changelog"].append({"version": version, "change": "c"})
        write(path, new)
        lines = problems(path)
        assert (lines == []) is clean, lines
        assert clean or f"make the version at least {LEAST[level]}" in lines[0], lines
    commit(tmp_path)  # the working copy is HEAD now: the rule still looks at the version before
    assert problems(path) == []
    write(path, document())
    assert any("1.0.0 is lower than" in line for line in problems(path))


def test_a_committed_change_without_a_bump_stays_a_problem(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    commit(tmp_path)
    new = document()
    new["thresholds"]["error"]["value"] = 0.9
    write(path, new)
    commit(tmp_path)
    (line,) = problems(path)
    assert "thresholds.error.value: changed since 1.0.0" in line and "make the version at least 2.0.0" in line


def test_a_cited_commit_is_one_of_the_repository(tmp_path: Path) -> None:
    path = make(tmp_path, document())
    commit(tmp_path)
    head = history.commit_of(tmp_path).rstrip("+")
    for cited, there in ((head, True), (head[:12], True), ("0" * 12, False)):
        write(path, document(metadata={**DOCUMENT["metadata"], "references": [f"commit {cited}."]}))
        assert any(f"commit {cited} is not there" in line for line in problems(path)) is not there


def test_a_draft_may_precede_its_code_and_says_so(tmp_path: Path) -> None:
    contract = document()
    contract["metadata"]["status"] = "draft"
    contract["thresholds"]["idle"] = contract["thresholds"]["error"]
    found = findings(tmp_path, contract)
    assert found.problems == [] and any("1 of 2 thresholds have no code yet: idle" in note for note in found.notes)
    contract["falsification_tests"][0]["status"] = "discharged"
    assert any("discharged in a draft" in str(problem) for problem in findings(tmp_path, contract).problems)


def test_without_pytest_nothing_is_said_about_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, document())
    COLLECTED.clear()
    monkeypatch.setattr(nodes, "find_spec", lambda name: None)
    found = checked_by([path])
    assert found.problems == [] and found.exit_code == 3 and "pytest is not installed" in found.unchecked[0]


def test_outside_of_a_project_tests_and_code_are_not_checked(tmp_path: Path) -> None:
    path = make(tmp_path / "site-packages", document())
    found = checked_by([path])
    assert found.problems == [] and found.exit_code == 3 and len(found.unchecked) == 1


def test_names_of_thresholds_are_found_in_code() -> None:
    code = "Measure.of(self.contract, 'direct', 1); c.measure(\n  \"wide\", 2); c.threshold(name); other('not_one')"
    assert list(asked_for(code)) == [(1, "direct"), (2, "wide")]
    helped = "def fits(x, name): return c.threshold(name).holds(x)\nclass A:\n def f(self, n): return fits(1, n)\n"
    assert list(asked_for(f"{helped}fits('no', 'first'); a.f('second'); a.fits(1, 'no'); f('no')")) == [
        (4, "first"), (4, "second"),
    ]  # fmt: skip
    table = ["('of_a_table',), f'peer_{dtype}'"]
    assert coverage.mentioned("of_a_table", table) and coverage.mentioned("peer_f32", table)
    assert not coverage.mentioned("table", table) and not coverage.mentioned("poor_f32", table)


def test_references_name_nodes_and_their_parameters() -> None:
    ids = ["t.py::test_a[1]", "t.py::test_a[2]", "t.py::test_ab", "t.py::TestX::test_c"]
    assert nodes.named("t.py::test_a", ids) == ids[:2] and nodes.named("t.py::test_a[2]", ids) == [ids[1]]
    assert nodes.named("t.py::TestX", ids) == ids[3:] and nodes.named("t.py::test", ids) == []
