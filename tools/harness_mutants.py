"""Changes of the harness itself that its own tests do not notice: cosmic-ray's mutants of gates, limits and rules.

    python -m tools.harness_mutants [--sample 200] [--minutes 15] [--seed 1] [--only gates] [--output FILE]

``tools/harness_mutants.yaml`` names the modules, the quick tests of each, and the survivors that are known. A mutant is
a change at one place: where cosmic-ray has several for a place, the seed draws one. Each runs in a fork of this
process, whose import of that one module gives the changed text: no file is touched, and no child of the tests sees the
change, so a mutant that only a probe in processes of its own would notice counts as a survivor. Annotations, and
whether a type checker is at work, are not changed: they never run. Exit code 1 where a survivor is unknown, 2 where the
tests fail without a change.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, ModuleType

import msgspec
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path(__file__).with_suffix(".yaml")


class Area(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Modules (patterns, from the root) and what pytest gets for a mutant of theirs, the quickest test first."""

    modules: list[str]
    tests: list[str]


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A survivor, as ``Mutant.change`` writes it, and why no test notices it."""

    mutant: str
    equivalent: bool
    why: str


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file beside this one."""

    areas: list[Area]
    survivors: list[Known]


class Mutant(msgspec.Struct, frozen=True):
    """One change: the operator's ``occurrence`` in the module at ``path`` (from the root)."""

    path: str
    operator: str
    occurrence: int
    rank: bytes
    """Its place in the order that the seed gives: a hash of seed and ``operator`` at its line, not of the line's
    number."""

    def text(self) -> str:
        """The changed source."""
        return str(mutate_code((ROOT / self.path).read_text(encoding="utf-8"), get_operator(self.operator)(),
                               self.occurrence))  # fmt: skip

    @property
    def change(self) -> str:
        """Path, the line as it was, and as it is."""
        old, new = (ROOT / self.path).read_text(encoding="utf-8").splitlines(), self.text().splitlines()
        lost, got = ([line.strip() for line in a if line not in b] for a, b in ((old, new), (new, old)))
        return f"{self.path}: {' '.join(lost)} → {' '.join(got)}"


class Changed(SourceFileLoader):
    """Finds and loads one module, with another text."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.path.removesuffix(".py").replace("/", "."), str(ROOT / mutant.path))
        self.changed = mutant.text()

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.changed, self.path, "exec", dont_inherit=True)


def places_of_annotations(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where each annotation begins and ends, as (line, column)."""
    found = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    return [((it.lineno, it.col_offset), (it.end_lineno or 0, it.end_col_offset or 0)) for it in found if it]


def mutants_of(path: Path, seed: str) -> Iterator[Mutant]:
    """One mutant of each place of a module and kind of change."""
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    lines, skipped, tree = text.splitlines(), places_of_annotations(ast.parse(text)), get_ast(text)
    drawn = dict[tuple[str, tuple[int, int]], Mutant]()
    for operator in (each for each in operator_names() if not get_operator(each).arguments()):
        changes = get_operator(operator)()
        places = (place for node in ast_nodes(tree) for place in changes.mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            if any(first <= start < last for first, last in skipped) or "TYPE_CHECKING" in lines[start[0] - 1]:
                continue
            words = (seed, name, lines[start[0] - 1].strip(), str(start[1]), operator)
            mutant = Mutant(name, operator, occurrence, hashlib.sha256("\n".join(words).encode()).digest())
            key = operator.partition("_")[0], start
            drawn[key] = min(drawn.get(key, mutant), mutant, key=lambda each: each.rank)
    yield from drawn.values()


def tried(tests: list[str], mutant: Mutant | None) -> None:
    """The body of a fork: run the tests with the change, if any; exit with pytest's code."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("kparity", "tests") and name != "kparity._native":
            del sys.modules[name]
    if mutant:
        sys.meta_path.insert(0, Changed(mutant))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.devnull
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        code = pytest.main(["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "not slow", *tests])
    if mutant is None and code:
        print(said.getvalue(), file=sys.stderr)
    sys.stdout.flush()
    os._exit(int(code))


def exit_code(tests: list[str], mutant: Mutant | None, limit: float) -> int | None:
    """Of pytest in a fork; None where it took longer than ``limit`` seconds."""
    process = get_context("fork").Process(target=tried, args=(tests, mutant))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def sample(config: Config, seed: str, only: str, count: int) -> tuple[list[tuple[Mutant, Area]], int]:
    """The first ``count`` mutants in the seed's order with their areas, and how many there are."""
    every = [
        (mutant, area) for area in config.areas for pattern in area.modules for path in sorted(ROOT.glob(pattern))
        if only in path.relative_to(ROOT).as_posix() for mutant in mutants_of(path, seed)
    ]  # fmt: skip
    every.sort(key=lambda pair: pair[0].rank)
    return every[:count], len(every)


def page(found: list[tuple[Mutant, bool]], total: int, seed: str, known: dict[str, Known]) -> str:
    """The document: score, score per module, survivors with why."""
    survivors = [mutant.change for mutant, killed in found if not killed]
    equivalent = [each for each in survivors if each in known and known[each].equivalent]
    killed, count = len(found) - len(survivors), len(found) - len(equivalent)
    told = [
        "# Mutants of the harness", "",
        f"Made by `python -m tools.harness_mutants --sample {len(found)} --seed {seed}` (Cosmic Ray's operators, one "
        "change at a place; what they run is in `tools/harness_mutants.yaml`).", "",
        f"Of {total} places {len(found)} were drawn. Their quick tests notice **{killed} of {count} "
        f"({killed / max(count, 1):.1%})**; {len(equivalent)} more are equivalent.", "",
        "| module | noticed | of |", "| --- | ---: | ---: |",
    ]  # fmt: skip
    for path in sorted({mutant.path for mutant, _ in found}):
        of = [killed for mutant, killed in found if mutant.path == path]
        told.append(f"| `{path}` | {sum(of)} | {len(of)} |")
    told += ["", "## Survivors", ""]
    for each in sorted(survivors):
        why = known.get(each)
        told.append(f"- `{each}`: {f'equivalent: {why.why}' if why and why.equivalent else why.why if why else '?'}")
    return "\n".join([*told, ""])


def main() -> int:
    """Draw, run, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=200, help="how many mutants; 0 for all")
    parser.add_argument("--minutes", type=float, default=1e6, help="how long: the first ones in the seed's order")
    parser.add_argument("--seed", default="1", help="a word that draws them")
    parser.add_argument("--only", default="", help="modules whose path has this in it")
    parser.add_argument("--output", type=Path, help="the document to write")
    options = parser.parse_args()
    os.chdir(ROOT)
    config = msgspec.yaml.decode(CONFIG.read_bytes(), type=Config)
    known = {each.mutant: each for each in config.survivors}
    drawn, total = sample(config, options.seed, options.only, options.sample or sys.maxsize)
    for area in config.areas:  # so that every fork has what the tests import
        for name in area.tests:
            import_module(name.partition(".py")[0].replace("/", "."))
    found, unknown, limits = list[tuple[Mutant, bool]](), 0, dict[str, float]()
    ends = time.monotonic() + 60 * options.minutes
    for mutant, area in drawn:
        if time.monotonic() > ends:
            break
        if str(area.tests) not in limits:
            started = time.monotonic()
            if exit_code(area.tests, None, 600):
                print(f"{area.tests}: fails without a change", file=sys.stderr)
                return 2
            limits[str(area.tests)] = 20 + 5 * (time.monotonic() - started)
        killed = exit_code(area.tests, mutant, limits[str(area.tests)]) != 0
        found.append((mutant, killed))
        if not killed:
            unknown += mutant.change not in known
        told = "noticed" if killed else "known" if mutant.change in known else "UNKNOWN survivor"
        print(f"{told}: {mutant.change}", flush=True)
    print(
        f"{sum(noticed for _, noticed in found)} of {len(found)} noticed, {unknown} survivors unknown; {total} places"
    )
    if options.output:
        options.output.write_text(page(found, total, options.seed, known), encoding="utf-8")
    return int(bool(unknown))


if __name__ == "__main__":
    sys.exit(main())
