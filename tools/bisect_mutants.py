"""Every mutant of the library through ``kparity bisect``: which are located, and whether at the right op.

    python -m tools.bisect_mutants [PATTERN…] [--write]

A mutant runs on the first backend whose text can hold its defect. ``--write`` puts the table into docs/bisect.md; with
patterns the rows of other mutants stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from kparity.bisect.record import Bisection
from kparity.bisect.run import bisect
from kparity.cli.bisect import POSITIONS
from kparity.cli.pair import asked_for
from kparity.engines.remote import open_engine
from kparity.errors import KparityError
from kparity.host.revision import checkout, commit
from kparity.ladder.stream import EngineFailed
from kparity.mutate.cell import ENGINE
from kparity.mutate.library import Subject, every, path_of

PAGE = Path(__file__).parent.parent / "docs" / "bisect.md"
MADE, VERDICTS = "<!-- made -->", ("right", "wrong", "within", "failed")
BACKENDS = ("numpy", "opencl", "wgpu", "cpu")
RIGHT = {
    "wrong-activation": "norm_quant", "no-sub-norm": "norm_quant", "residual-dropped": "norm_quant",
    "cache-of-another-layer": "attention", "rope-theta-default": "rope_store", "chunk-of-another-theta": "rope_store",
    "qk-scales-swapped": "tgemv", "softmax-scale-twice": "tgemv", "value-heads-exchanged": "tgemv",
    "layers-swapped": "norm_quant", "head-rows-swapped": "dense_gemv", "head-read-as-bf16": "dense_gemv",
    "f16-overflow": "tgemv", "host-theta-default": "rope_store", "host-theta-off": "rope_store",
    "host-eps-constant": "norm_quant", "host-eps-off": "norm_quant", "host-activation": "norm_quant",
    "host-clamp": "norm_quant", "host-rope-scale": "rope_store", "host-rope-dim": "rope_store",
    "host-rope-mode": "rope_store", "host-heads-dealt": "tgemv", "host-scale-forgotten": "tgemv",
    "host-scale-inverted": "tgemv", "host-rope-table": "rope_store", "upload-cut-short": "tgemv",
    "words-flipped": "tgemv", "embedding-row-lost": "dense_gemv",
}  # fmt: skip
"""Mutants of the engine → the op whose launch, parameters or weights are wrong; of the others it is the engine."""


def bisected(candidate: str, reference: str = "reference", model: str = "", keep: Path | None = None) -> Bisection:
    """As the command does it, by default."""
    settings, room = asked_for(
        POSITIONS, reference=reference, candidate=candidate, model=model, candidate_model="", given=None,
        prompt_file=None, positions=None, context=None,
    )  # fmt: skip
    return bisect(settings, lambda spec, path: open_engine(spec, model=path, context=room), keep, room)


def located(subject: Subject, folder: Path) -> tuple[str, Bisection | str]:
    """The backend, and what was found or why nothing could be."""
    why = ""
    for backend in BACKENDS:
        path = path_of(subject.model, folder)
        try:
            return backend, bisected(f"mutant:{subject.label}?backend={backend}", model=str(path or ""))
        except (EngineFailed, KparityError) as problem:
            why = why or str(problem)
    return "", why


def rows(patterns: list[str]) -> Iterator[tuple[str, str]]:
    """The mutant, and its row of the table."""
    with TemporaryDirectory() as folder:
        for subject in every():
            if patterns and not any(fnmatchcase(subject.label, each) for each in patterns):
                continue
            backend, found = located(subject, Path(folder))
            if isinstance(found, str):
                yield f"`{subject.label}`", f"| failed | `{subject.label}` |  |  |  |  |  | {found} |"
                continue
            right = RIGHT.get(subject.name, ENGINE) if subject.op == ENGINE else subject.op
            where = found.found
            verdict = "within" if where.kind == "nothing" else "right" if where.op == right else "wrong"
            if verdict == "within":
                yield (
                    f"`{subject.label}`",
                    f"| within | `{subject.label}` | {backend} |  |  |  | {found.evaluations} |  |",
                )
                continue
            place = f"{found.ways[-1].name} {where.position} | {where.layer}.{where.slot} | {where.op}, {where.kind}"
            told = where.pattern or where.sentence
            yield (
                f"`{subject.label}`",
                f"| {verdict} | `{subject.label}` | {backend} | {place} | {found.evaluations} | {told} |",
            )


def kept() -> dict[str, str]:
    """The rows that the page has, by their mutant."""
    lines = PAGE.read_text(encoding="utf-8").partition(MADE)[2].splitlines()
    return {line.split(" | ")[1]: line for line in lines if line.startswith(tuple(f"| {each} |" for each in VERDICTS))}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.bisect_mutants", description=__doc__)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    table = kept() if options.patterns else {}
    for label, row in rows(options.patterns):
        table[label] = row
        print(row, flush=True)
    count = {each: sum(row.startswith(f"| {each} |") for row in table.values()) for each in VERDICTS}
    told = (f"{count['right']} of {count['right'] + count['wrong']} mutants whose logits are beyond the limits are "
            f"located at their op; {count['within']} stay within, {count['failed']} cannot be opened.")  # fmt: skip
    print(told)
    if options.write:
        head, _, _ = PAGE.read_text(encoding="utf-8").partition(MADE)
        title = ["|  | mutant | on | way, first bad position | first slot | located at | evaluations | what |",
                 "| --- | --- | --- | --- | --- | --- | ---: | --- |"]  # fmt: skip
        lines = [f"{MADE}\n{told}\nCommit {(commit(checkout()) or 'unknown')[:7]}.\n", *title, *table.values()]
        PAGE.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
