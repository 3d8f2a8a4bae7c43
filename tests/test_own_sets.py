"""Mutants and contracts of another package: found through entry points, held to the rules of ours, refused in one
sentence where they cannot be.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest

from kparity.contracts import files
from kparity.contracts.known import load_issues
from kparity.device import registry
from kparity.errors import KparityError, WrongInput
from kparity.mutate import library, runner
from tests.cli import run
from tests.conftest import needing
from tests.contract_project import ISSUE, document, make
from tests.test_own_op import OWN, forget

MUTANTS = """
from kparity.ops.mutant import Mutant

MUTANTS = {
    "no-slope": Mutant("The slope is forgotten.", gpu="«SLOPE * x[at]→x[at]»;"),
    "unfit": Mutant("It is of another text.", wgsl="«slope→SLOPE» * x[at]"),
}
TAKEN = {"difference": Mutant("a - b.", numpy="inputs[0].astype(dtype) «+→-» ")}
BAD_NAME = {"No Name": Mutant("a - b.", numpy="inputs[0].astype(dtype) «+→-» ")}
NO_TEXT = {"no-text": Mutant("There is no such text.", torch="«a→b»")}
LIST = [1]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of ops, and a package of sets beside it."""
    shutil.copytree(OWN, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    info = tmp_path / "own_sets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-sets\nVersion: 1.0\n")
    (tmp_path / "own_sets.py").write_text(MUTANTS, encoding="utf-8")
    (tmp_path / "own_sets_leaving.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    library.theirs.cache_clear()
    yield tmp_path
    forget()
    library.theirs.cache_clear()


def entry(folder: Path, group: str, line: str) -> None:
    (folder / "own_sets-1.0.dist-info" / "entry_points.txt").write_text(f"[kparity.{group}]\n{line}\n")
    library.theirs.cache_clear()


def test_mutants_of_an_op_of_another_package_are_seen_and_its_digest_is_of_its_files(folder: Path) -> None:
    with needing("opencl"):
        registry.open_backend("opencl").close()
    entry(folder, "mutants", "leaky = own_sets:MUTANTS")
    (subject,) = library.select(["leaky"], "no-slope")
    before = runner.digest_of(subject, "opencl", {})
    done = run("mutate", "-b", "opencl", "-o", "leaky", "--mutant", "no-slope", env={"PYTHONPATH": str(folder)})
    assert done.returncode == 0 and "1/1 (100.0%)" in done.stdout, done.stdout + done.stderr
    spec = folder / "kparity_own_ops" / "__init__.py"
    spec.write_text(spec.read_text("utf-8") + "\n# changed\n", encoding="utf-8")
    assert runner.digest_of(subject, "opencl", {}) != before


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("add = own_sets:TAKEN", "add has a mutant 'difference' already"),
        ("add = own_sets:BAD_NAME", "'No Name' is no lower-case name"),
        ("add = own_sets:LIST", "is no dict of name to"),
        ("add = own_sets:NOTHING", "cannot be imported"),
        ("add = own_sets_leaving:MUTANTS", "cannot be imported"),
        ("nobodys_op = own_sets:MUTANTS", "nobodys_op"),
    ],
)
def test_a_bad_set_of_mutants_is_one_sentence(line: str, sentence: str, folder: Path) -> None:
    entry(folder, "mutants", line)
    with pytest.raises(KparityError, match=sentence):
        library.every()


@pytest.mark.parametrize(
    ("attribute", "name", "dialect", "sentence"),
    [
        ("MUTANTS", "unfit", "wgsl", r"^kparity_own_ops/leaky/leaky\.wgsl: .* occurs 0 times"),
        ("NO_TEXT", "no-text", "torch", r"kparity_own_ops/leaky/leaky_torch\.py: 'a' occurs"),
    ],
)
def test_a_patch_that_does_not_fit_names_the_file_of_the_package(
    attribute: str, name: str, dialect: str, sentence: str, folder: Path
) -> None:
    entry(folder, "mutants", f"leaky = own_sets:{attribute}")
    with pytest.raises(WrongInput, match=sentence):
        library.of_op("leaky")[name].sources("leaky", dialect)


def test_a_patch_of_a_text_that_is_not_there_is_one_sentence(folder: Path) -> None:
    entry(folder, "mutants", "leaky_alone = own_sets:NO_TEXT")
    with pytest.raises(WrongInput, match="which kparity_own_ops does not have"):
        library.of_op("leaky_alone")["no-text"].sources("leaky_alone", "torch")


def test_known_issues_of_an_installed_contract_refuse_and_nothing_of_it_is_imported(folder: Path) -> None:
    path = make(folder / "own_fleet", document(known_issues=[{**ISSUE, "backend": "numpy"}]))
    (path.parent / "__init__.py").write_text("raise SystemExit(3)\n")
    path.parent.rename(folder / "own_rules")
    invalidate_caches()
    entry(folder, "contracts", f"{path.stem} = own_rules")
    found = files.resolve([path.stem])
    assert [each.name for each in found] == [path.name] and path.name in {each.name for each in files.resolve([])}
    assert ISSUE["id"] in {issue.id for issue in load_issues([], registry.names())}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("fleet-v1 = own_sets", "own_sets has no file fleet-v1.yaml"),
        ("fleet-v1 = nobodys_package", "nobodys_package has no file"),
        ("receipt-v1 = own_sets", "contract 'receipt-v1' is registered twice"),
    ],
)
def test_a_bad_contract_entry_is_one_sentence(line: str, sentence: str, folder: Path) -> None:
    entry(folder, "contracts", line)
    for ask in (lambda: files.resolve(["receipt-v1"]), lambda: load_issues([], registry.names())):
        with pytest.raises(WrongInput, match=sentence):
            ask()
