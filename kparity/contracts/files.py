"""Contract files that anybody may have written: read with care, checked against the schema, found by id or path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from kparity import contracts
from kparity.contracts import Contract, form
from kparity.contracts.plain_yaml import parse
from kparity.errors import UnknownName, WrongInput
from kparity.host import files
from kparity.host.plugins import registered
from kparity.host.text import printable

GROUP = "kparity.contracts"
LARGEST = 1 << 20
"""Bytes of a contract file; what is larger is something else."""


_TEST = "name a test of the project by its path from the root: tests/test_x.py::test_y"
HINTS = {
    ("version", "type"): "quote it, YAML reads it as a number",
    ("test", "pattern"): _TEST,
    ("closing_test", "pattern"): _TEST,
    ("enforced_by", "pattern"): "name a file of the project by its path from the root: src/gate.py",
    ("proof", "pattern"): "name a receipt of the project by its path from the root: docs/receipt.json",
}
"""Field and rule of the schema that it breaks → what to do."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a contract: where in which file, what, and what to do."""

    file: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.where or 'document'}: {self.what}; {self.remedy}")


def shown(path: Path) -> str:
    """A path as a person would type it: relative where it lies below the current folder."""
    here, there = Path.cwd(), path.absolute()
    return str(there.relative_to(here)) if there.is_relative_to(here) else str(path)


def inside(root: Path, name: str) -> Path | None:
    """A file of the project by its path from the root; None for what is not there, is no regular file, or lies outside
    of the root, be it by a link.
    """
    path = root / name
    try:
        return path if path.is_file() and path.resolve().is_relative_to(root.resolve()) else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def sources(contract: Contract, root: Path) -> dict[str, str]:
    """The texts of the files under ``enforced_by`` that are there, by name; raises WrongInput for one that is too
    large.
    """
    paths = {name: inside(root, name) for name in contract.sections.enforced_by}
    return {name: files.read(path).decode(errors="replace") for name, path in paths.items() if path}


def problem(contract: Contract, where: str, what: str, remedy: str) -> Problem:
    """What is wrong at a place of a contract."""
    return Problem(shown(contract.path), where, what, remedy)


@cache
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(form.schema())


def schema_problems(path: Path, document: Any) -> Iterator[Problem]:
    """Where a document departs from the form of a contract (``kparity.contracts.form``)."""
    for error in sorted(_validator().iter_errors(document), key=lambda error: [str(part) for part in error.path]):
        where = ".".join(str(part) for part in error.absolute_path)
        what = " ".join(error.message.split())
        if error.validator == "pattern":
            what = f"{str(error.instance)[:80]!r} does not match its form"
        what = what if len(what) <= 160 else what[:157] + "..."
        field = next((part for part in reversed(error.absolute_path) if isinstance(part, str)), "")
        yield Problem(shown(path), where, what, HINTS.get((field, error.validator), "see kparity schema contract"))


def read(path: Path) -> tuple[Contract | None, list[Problem]]:
    """A contract, or what is wrong with its form; raises WrongInput for what is no YAML document at all."""
    document = parse(files.read_text(path, "a contract", LARGEST), shown(path))
    problems = list(schema_problems(path, document))
    if not problems and document["metadata"]["id"] != path.stem:
        what = f"{document['metadata']['id']!r} in a file named {path.name!r}"
        problems.append(Problem(shown(path), "metadata.id", what, "name the file after the id"))
    contract = None if problems else Contract(path, document)
    try:
        assert contract is None or contract.sections
    except msgspec.ValidationError as error:  # 2.0 is an integer to JSON Schema
        return None, [Problem(shown(path), "", str(error), "see kparity schema contract")]
    return contract, problems


def read_all(paths: Sequence[Path]) -> list[Contract]:
    """Contracts in good form; raises WrongInput with the first problem of the first that is not."""
    good = []
    for path in paths:
        contract, problems = read(path)
        if contract is None:
            others = f" (and {len(problems) - 1} more: kparity contract validate {shown(path)})"
            raise WrongInput(f"{problems[0]}{others if len(problems) > 1 else ''}")
        good.append(contract)
    return good


def in_folder(place: Path) -> list[Path]:
    """The contracts of a folder (its ``*.yaml``), or the file itself; raises WrongInput where there is none."""
    if not place.exists():
        raise WrongInput(f"{place}: no such file or folder; name a contract or a folder of contracts")
    paths = files.below(place, "*.yaml", "a folder of contracts")[0] if place.is_dir() else [place]
    if not paths:
        raise WrongInput(f"{place} has no *.yaml file; name a contract or a folder of contracts")
    return paths


def installed() -> list[Path]:
    """The contracts of other packages, of which none is imported: ``ID = "package"`` in the entry-point group
    ``kparity.contracts`` is the file ``ID.yaml`` in that package's folder. Raises WrongInput where there is none.
    """
    paths = []
    for name, package in registered(GROUP, "contract", dict.fromkeys(contracts.names(), contracts.__name__)).items():
        if package == contracts.__name__:
            continue
        spec = find_spec(package) if package.isidentifier() else None
        places = [Path(folder, f"{name}.yaml") for folder in (spec and spec.submodule_search_locations) or ()]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise WrongInput(f"contract {name!r}: {package} has no file {name}.yaml; repair or remove its package")
        paths.append(path)
    return paths


def resolve(targets: Sequence[str], places: Sequence[str | Path] = ()) -> list[Path]:
    """Contract files: each target is a path or an id; without targets, every contract of ``places``, which are the
    shipped ones and those of other packages where none is given. Raises WrongInput, or UnknownName with the nearest id.
    """
    known = [path for place in places or (contracts.folder(), *installed()) for path in in_folder(Path(place))]
    by_id = {path.stem: path for path in known}
    if not targets:
        return known
    paths: list[Path] = []
    for target in targets:
        if target in by_id:
            paths.append(by_id[target])
        elif Path(target).exists() or "/" in target or target.endswith((".yaml", ".yml")):
            paths += in_folder(Path(target))
        else:
            raise UnknownName("contract", target, by_id)
    return list(dict.fromkeys(paths))
