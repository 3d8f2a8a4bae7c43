"""How far a version must move, and which version stands before: without git, which is played."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kparity.contracts import history
from kparity.errors import WrongInput


@pytest.mark.parametrize(
    ("level", "least"), [("none", "4.5.6"), ("patch", "4.5.7"), ("minor", "4.6.0"), ("major", "5.0.0")]
)
def test_the_least_version_of_a_bump(level: str, least: str) -> None:
    assert history.least("4.5.6", level) == least and history.numbers("4.5.6") == (4, 5, 6)
    for wrong in ("4.5", "4.5.6.7", "a.b.c", ""):
        with pytest.raises(ValueError):
            history.numbers(wrong)


def test_every_difference_has_its_place_and_level() -> None:
    old: dict[str, Any] = {
        "metadata": {"version": "1.0.0", "summary": "a", "scope": "b"}, "log": {"a": 1}, "notes": 1,
        "thresholds": {"x": {"value": 1, "basis": "b"}, "gone": {"value": 1}, "text": "no entry"},
        "harnesses": [{"id": "H1", "bound": 1}, {"id": "H2", "bound": 1}],
        "falsification_tests": [{"id": "F", "status": "a"}],
    }  # fmt: skip
    new: dict[str, Any] = {
        "metadata": {"version": "2.0.0", "summary": "c", "scope": "b", "devices": ["gpu"]}, "log": {"a": 2}, "notes": 2,
        "thresholds": {"x": {"value": 2, "basis": "c", "unit": "s"}, "come": {"value": 1}, "text": "another"},
        "harnesses": [{"id": "H2", "bound": 2}, {"id": "H1", "bound": 1}],
        "falsification_tests": [{"id": "F", "status": "b"}],
        "more": 1,
    }  # fmt: skip
    found = [(each.where, each.what, each.level) for each in history.changes(old, new)]
    assert found == [
        ("thresholds.gone", "removed", "major"), ("thresholds.come", "added", "minor"),
        ("thresholds.x.basis", "changed", "patch"), ("thresholds.x.unit", "changed", "patch"),
        ("thresholds.x.value", "changed", "major"), ("harnesses.H2.bound", "changed", "minor"),
        ("log", "the shape of the log lines changed", "major"), ("more", "changed", "patch"),
        ("notes", "changed", "patch"),
        ("metadata.devices", "changed", "major"), ("metadata.summary", "changed", "patch"),
    ]  # fmt: skip
    assert history.changes(old, json.loads(json.dumps(old))) == [] == history.changes({}, {})
    assert [each.level for each in history.changes({"thresholds": None}, {"thresholds": {"a": {}}})] == ["minor"]


Played = Callable[..., list[tuple[str, ...]]]


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Plays a repository: answers by the first word of a call; gives the calls."""

    def play(
        top: str | None, log: str, shown: dict[str, str | None], head: str | None = "c" * 40, dirty: str = ""
    ) -> Any:
        calls: list[tuple[str, ...]] = []

        def answer(folder: Path, *words: str) -> str | None:
            calls.append(words)
            if words[0] == "show":
                return shown.get(words[1].partition(":")[0])
            return {"rev-parse": top, "log": log, "status": dirty}[words[0]]

        monkeypatch.setattr(history, "git", answer)
        monkeypatch.setattr(history, "commit", lambda folder: head)
        return calls

    return play


def document(version: object) -> str:
    return json.dumps({"metadata": {"version": version}})


def test_the_version_before_is_the_last_that_differs(git: Played, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(document("1.2.0"))
    one, two = "a" * 40, "b" * 40
    git(None, "", {})
    assert history.previous(path, json.loads) == (None, "not in a git repository")
    calls = git("/x", f"{one}\n{two}\n", {"HEAD": document("1.1.0"), one: document("1.1.0")})
    assert history.previous(path, json.loads) == (json.loads(document("1.1.0")), "HEAD")
    assert ("show", "HEAD:./mine.yaml") in calls and ("log", "--format=%H", "--", "mine.yaml") in calls
    git("/x", f"{one}\n{two}\n", {"HEAD": document("1.2.0"), one: document("1.2.0"), two: document("1.0.0")})
    assert history.previous(path, json.loads) == (json.loads(document("1.0.0")), "b" * 12)
    git("/x", f"{one}\n{two}", {"HEAD": None, one: document("1.2.0")})
    assert history.previous(path, json.loads) == (None, "git has no other version")
    for text in (document("1.2"), document(3), "[]", '{"metadata": 1}', "{}"):
        git("/x", one, {one: text})
        assert history.previous(path, json.loads) == (None, f"the version of commit {one[:12]} cannot be read"), text

    def refuse(text: str) -> Any:
        raise WrongInput("no contract")

    assert history.previous(path, refuse)[0] is None


def test_the_commit_that_is_checked_out(git: Played, tmp_path: Path) -> None:
    for head, dirty, said in ((None, " M a", ""), ("c" * 40, " M a\n", "c" * 40 + "+"), ("c" * 40, " \n", "c" * 40)):
        git("/x", "", {}, head, dirty)
        assert history.commit_of(tmp_path) == said
