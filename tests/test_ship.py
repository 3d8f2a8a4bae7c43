"""What ships a wheel: for which interpreters and processors, and what CI installs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def pyproject() -> dict[str, Any]:
    """What pyproject.toml says."""
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return dict(toml.loads((ROOT / "pyproject.toml").read_text("utf-8")))


def test_wheels_are_built_for_every_python_and_processor_that_is_promised() -> None:
    project = pyproject()
    told = [each.rpartition(" ")[2] for each in project["project"]["classifiers"] if "Python :: 3." in each]
    (minors,) = re.findall(r"cp31\{([\d,]+)\}-manylinux", project["tool"]["cibuildwheel"]["build"])
    assert [f"3.1{minor}" for minor in minors.split(",")] == told
    least, most = re.findall(r"3\.(\d+)", project["project"]["requires-python"])
    assert (told[0], told[-1]) == (f"3.{least}", f"3.{int(most) - 1}")
    assert project["tool"]["ruff"]["target-version"] == f"py3{least}"
    assert project["tool"]["mypy"]["python_version"] == f"3.{least}"
    assert project["tool"]["cibuildwheel"]["linux"]["archs"] == ["x86_64", "aarch64"]
    setup = (ROOT / "setup.sh").read_text("utf-8")
    assert f"(3, {least}) <= sys.version_info[:2] <= (3, {int(most) - 1})" in setup


def requirements(extras: tuple[str, ...]) -> Iterator[Requirement]:
    """What this project needs with these extras, and with those that they name."""
    project = pyproject()["project"]
    for line in [
        *project["dependencies"],
        *(each for name in extras for each in project["optional-dependencies"][name]),
    ]:
        found = Requirement(line)
        yield from requirements(tuple(found.extras)) if found.name == "kparity" else (found,)


def test_the_lock_has_what_is_asked_for_with_hashes() -> None:
    text = (ROOT / ".ci/lock.txt").read_text("utf-8").replace("\\\n", " ")
    locked: dict[str, list[tuple[Version, str]]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, version, rest = re.match(r"([\w.-]+)==(\S+)(.*)", line).groups()  # type: ignore[union-attr]
            assert "--hash=sha256:" in rest, name
            locked.setdefault(name, []).append((Version(version), rest))
    more = [line for line in (ROOT / ".ci/tests.in").read_text("utf-8").splitlines() if not line.startswith("#")]
    asked = [*requirements(("dev", "fleet")), *map(Requirement, more)]
    assert len(asked) > 30 and "torch" not in locked
    for each in asked:
        if each.name != "torch":
            versions = [version for version, _ in locked[canonicalize_name(each.name)]]
            assert all(each.specifier.contains(version, prereleases=True) for version in versions), each
