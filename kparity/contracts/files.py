"""Contract files that anybody may have written: read with care, checked against the schema, found by id or path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kparity import contracts
from kparity.contracts import Contract, form
from kparity.errors import UnknownName, WrongInput
from kparity.host import files

LARGEST = 1 << 20
"""Bytes of a contract file; what is larger is something else."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a contract: where in which file, what, and what to do."""

    file: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where or 'document'}: {self.what}; {self.remedy}"


def shown(path: Path) -> str:
    """A path as a person would type it: relative where it lies below the current folder."""
    here, there = Path.cwd(), path.absolute()
    return str(there.relative_to(here)) if there.is_relative_to(here) else str(path)


def problem(contract: Contract, where: str, what: str, remedy: str) -> Problem:
    """What is wrong at a place of a contract."""
    return Problem(shown(contract.path), where, what, remedy)


def parse(text: str, name: str) -> Any:
    """The YAML of a contract; raises WrongInput for broken YAML, a key given twice and aliases (which could expand
    without end).
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what YAML allows and a contract must not have."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.constructor.ConstructorError(None, None, "an alias", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [str(key.value) for key, _ in node.value]
            for at, (key, _) in enumerate(node.value):
                if names[at] in names[:at]:
                    raise yaml.constructor.ConstructorError(None, None, f"{names[at]!r} twice", key.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = str(getattr(error, "problem", None) or error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise WrongInput(f"{name}{line}: not a contract that can be read: {why}; correct the YAML") from error


@cache
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(form.schema())


def schema_problems(path: Path, document: Any) -> Iterator[Problem]:
    """Where a document departs from the form of a contract (``kparity.contracts.form``)."""
    for error in sorted(_validator().iter_errors(document), key=lambda error: [str(part) for part in error.path]):
        where = ".".join(str(part) for part in error.absolute_path)
        what = " ".join(error.message.split())
        what = what if len(what) <= 160 else what[:157] + "..."
        number = where.endswith("version") and "string" in what
        hint = "quote it, YAML reads it as a number" if number else "see kparity schema contract"
        yield Problem(shown(path), where, what, hint)


def read(path: Path) -> tuple[Contract | None, list[Problem]]:
    """A contract, or what is wrong with its form; raises WrongInput for what is no YAML document at all."""
    document = parse(files.read_text(path, "a contract", LARGEST), shown(path))
    problems = list(schema_problems(path, document))
    if not problems and document["metadata"]["id"] != path.stem:
        what = f"{document['metadata']['id']!r} in a file named {path.name!r}"
        problems.append(Problem(shown(path), "metadata.id", what, "name the file after the id"))
    return (None if problems else Contract(path, document)), problems


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
    paths = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
    if not paths:
        raise WrongInput(f"{place} has no *.yaml file; name a contract or a folder of contracts")
    return paths


def resolve(targets: Sequence[str], places: Sequence[str | Path] = ()) -> list[Path]:
    """Contract files: each target is a path or an id; without targets, every contract of ``places``, which are the
    shipped ones where none is given. Raises WrongInput, or UnknownName with the nearest id.
    """
    known = [path for place in places or (contracts.folder(),) for path in in_folder(Path(place))]
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
