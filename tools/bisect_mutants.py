"""Every mutant of the library through ``kparity bisect``: which are located, and whether at the right op. Then those
that are through ``kparity diagnose``: whether the best finding has a pattern that says what is wrong.

    python -m tools.bisect_mutants [PATTERN…] [--diagnose] [--write]

A mutant runs on the first backend whose text can hold its defect. ``--diagnose`` diagnoses those that the page has as
located, and bisects none, those first that it does not have as diagnosed. ``--write`` puts each row into docs/bisect.md
as soon as it is known; the rows of other mutants stay.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kparity.bisect.record import Bisection
from kparity.bisect.run import bisect
from kparity.cli.bisect import POSITIONS
from kparity.cli.pair import asked_for
from kparity.diagnose.diagnosis import diagnosed
from kparity.errors import KparityError
from kparity.host.revision import checkout, commit
from kparity.host.text import markdown_table
from kparity.ladder.climb import climb
from kparity.ladder.record import FAIL
from kparity.ladder.stream import EngineFailed
from kparity.mutate.cell import ENGINE
from kparity.mutate.library import Subject, every, path_of

PAGE = Path(__file__).parent.parent / "docs" / "bisect.md"
TABLES = {
    "<!-- made -->": (("right", "wrong", "within", "failed"), "mutant | on | way, first bad position | first slot | "
                      "located at | evaluations | what | commit"),
    "<!-- diagnosed -->": (("right", "wrong", "open", "passed"), "mutant | fails at | patterns that say it | told | "
                           "confidence | cause | commit"),
}  # fmt: skip
"""What begins a table of the page → the verdicts of its rows, and its columns."""
MADE, DIAGNOSED = TABLES
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
SPREAD = ("weights", "P8-quantisation")
PATTERNS: dict[tuple[str, ...], str] = {
    ("activation",): "*/relu2-for-silu glu/sigmoid-for-silu engine/wrong-activation engine/host-activation",
    ("gate-and-up",): "*/gate-and-up-swapped",
    ("clamp",): "engine/host-clamp",
    ("rope-pairs",): "*/convention-swapped engine/host-rope-mode",
    ("rope-direction",): "rope/turned-backwards rope/sine-and-cosine-swapped rope/one-sine-negated",
    ("rope-table",): "rope/frequency-of-the-next-pair engine/host-rope-table",
    ("rope-theta",): "engine/rope-theta-default engine/host-theta-*",
    ("rope-scale",): "engine/host-rope-scale",
    ("rope-dim",): "engine/host-rope-dim",
    ("rope-keys",): "rope_store/keys-stored-before-they-turn",
    ("rope-values",): "rope_store/values-turned-too",
    ("P6-second",): "rope/last-head-still rope/turned-in-place",
    ("batch", "rope-missing"): "rope*/position-of-the-first-row",
    ("batch",): "embed/first-id-for-all rmsnorm/sum-of-row-0 act_quant/maximum-of-row-0 tgemv/token-scale-of-the-first "
    "tgemv/first-row-activations attention/position-of-the-first-row add/row-0-for-all dense_gemv/first-tile-for-all "
    "norm_quant/norm-of-row-0",
    ("batch", "anew"): "engine/chunk-restarts",
    ("batch", "turn"): "engine/micro-batch-alone",
    ("batch", "rope-theta"): "engine/chunk-of-another-theta",
    ("P3-gain",): "rmsnorm/mean-over-one-less rmsnorm/lane-dropped",
    ("norm-mean",): "rmsnorm/layer-norm",
    ("norm-gain",): "rmsnorm/gain-* norm_quant/quantised-before-the-gain",
    ("norm-missing",): "engine/no-sub-norm",
    ("eps",): "*/eps-* engine/host-eps-*",
    ("rounding",): "*/truncated",
    ("quantisation",): "act_quant/scale-of-128",
    ("scale",): "tgemv/token-scale-missing tgemv/token-scale-squared",
    ("scale-tensor",): "engine/host-scale-*",
    SPREAD: "tgemv/last-* tgemv/neighbour-output */columns-swapped tgemv/shift-order-reversed "
    "tgemv/words-swapped tgemv/qsum-* */lane-dropped",
    ("scale", *SPREAD): "tgemv/tail-of-k-ignored",
    ("batch", *SPREAD): "add/second-row-off-by-one",
    ("kv-type",): "*/truncated-to-*",
    (*SPREAD, "nan"): "engine/head-read-as-bf16",
    ("kv-late",): "kv_store/next-position rope_store/stored-one-position-later",
    ("kv-hole",): "engine/position-off-by-one",
    ("kv-exchanged",): "*/keys-and-values-*",
    ("kv-missing",): "rope_store/values-not-stored",
    ("gqa",): "attention/heads-by-remainder attention/values-of-the-first-head rope_store/keys-from-the-head-before "
    "engine/value-heads-exchanged engine/host-heads-dealt",
    ("P5-jump", "batch"): "attention/*-not-rescaled",
    ("P5-jump",): "attention/boundary-key-twice",
    ("P5-jump", "anew", "steps"): "kv_store/row-for-position",
    ("mask-more", "mask"): "attention/mask-one-more",
    ("mask-less", "mask"): "attention/mask-one-less",
    ("kv-missing", "mask-less", "mask"): "attention/last-tile-skipped",
    ("mask-none", "mask"): "attention/no-mask",
    ("softmax-scale",): "attention/scale-* engine/softmax-scale-twice",
    ("residual",): "add/difference norm_quant/residual-not-written engine/residual-dropped",
    ("residual", "block-missing"): "norm_quant/second-input-forgotten add/operand-twice",
    ("block-missing",): "engine/graph-lost-* engine/never-launched",
    ("cache-of-another-layer",): "engine/cache-of-another-layer",
    ("layers",): "engine/layers-swapped",
    ("layout",): "dense_gemv/last-row-skipped engine/head-rows-swapped engine/embedding-row-lost",
    ("input",): "embed/next-row engine/embedding-off-by-one",
    ("reset",): "engine/cache-not-reset engine/reset-keeps-long-prompts",
    ("anew",): "engine/ring-too-short",
    ("turn", "anew"): "engine/chunk-starts-aligned engine/second-turn-restarts",
    ("turn",): "engine/turn-loses-its-last-key",
    ("prefill",): "engine/last-row-off-by-one",
    ("batch", "prefill"): "engine/padding-stored",
    ("steps", "input"): "engine/stale-token",
    ("steps", "late"): "engine/logits-one-step-late",
    ("nan",): "engine/f16-overflow",
    ("failed",): "engine/host-context",
}  # fmt: skip
"""Patterns of a diagnosis, any of which says what is wrong → mutants that are of that nature; the first that fits
counts. Of the others none says it: a type of fewer bits, few weights of a matrix, the norm of another stream.
"""


def asked(candidate: str, reference: str, model: str) -> dict[str, Any]:
    """What both commands are asked, over as many positions."""
    return {"reference": reference, "candidate": candidate, "model": model, "candidate_model": "",
            "positions": POSITIONS}  # fmt: skip


def bisected(candidate: str, reference: str = "reference", model: str = "", keep: Path | None = None) -> Bisection:
    """As the command does it."""
    settings, opener, room = asked_for(asked(candidate, reference, model), usual=POSITIONS)
    return bisect(settings, opener, keep, room)


def located(subject: Subject, folder: Path) -> list[str]:
    """A row: the verdict, the mutant, where it was found, or why nothing could be."""
    why, name, model = "", f"`{subject.label}`", str(path_of(subject.model, folder) or "")
    for backend in BACKENDS:
        try:
            found = bisected(f"mutant:{subject.label}?backend={backend}", model=model)
        except (EngineFailed, KparityError) as problem:
            why = why or str(problem)
            continue
        where, counted = found.found, str(found.evaluations)
        if where.kind == "nothing":
            return ["within", name, backend, "", "", "", counted, ""]
        right = RIGHT.get(subject.name, ENGINE) if subject.op == ENGINE else subject.op
        place = [f"{found.ways[-1].name} {where.position}", f"{where.layer}.{where.slot}", f"{where.op}, {where.kind}"]
        verdict = "right" if where.op == right else "wrong"
        return [verdict, name, backend, *place, counted, where.pattern or where.sentence]
    return ["failed", name, "", "", "", "", "", why]


def patterns(label: str) -> tuple[str, ...]:
    """Those that say what is wrong with a mutant."""
    return next((told for told, of in PATTERNS.items() if any(fnmatchcase(label, each) for each in of.split())), ())


def explained(subject: Subject, backend: str, folder: Path) -> list[str]:
    """A row: the verdict, the mutant, the rung that fails, what should be said and what is."""
    model, wanted = str(path_of(subject.model, folder) or ""), patterns(subject.label)
    settings, opener, _ = asked_for(asked(f"mutant:{subject.label}?backend={backend}", "reference", model))
    document = climb(settings, opener, diagnosed)
    rung = next((each.name for each in document.rungs if each.verdict == FAIL), "")
    best = next((each for each in document.diagnosis.findings if each.defect), None) if document.diagnosis else None
    told = [best.pattern, f"{best.confidence:.0%}", best.cause] if best else ["", "", ""]
    verdict = "passed" if not rung else "open" if not wanted else "right" if told[0] in wanted else "wrong"
    return [verdict, f"`{subject.label}`", rung, ", ".join(wanted) or "none", *told]


def rows(chosen: list[str], diagnose: bool) -> Iterator[list[str]]:
    """The row of each mutant that matches a pattern; of all without any."""
    there, made = kept(MADE), (commit(checkout()) or "unknown")[:7]
    with TemporaryDirectory() as folder:
        known = kept(DIAGNOSED) if diagnose else {}
        for subject in sorted(every(), key=lambda each: f"`{each.label}`" in known):
            if chosen and not any(fnmatchcase(subject.label, each) for each in chosen):
                continue
            verdict, _, backend, *_ = there.get(f"`{subject.label}`", ["failed", "", ""])
            if not diagnose:
                yield [*located(subject, Path(folder)), made]
            elif verdict in ("right", "wrong"):
                yield [*explained(subject, backend, Path(folder)), made]


def kept(title: str) -> dict[str, list[str]]:
    """The rows that the page has in a table, by their mutant."""
    text = PAGE.read_text(encoding="utf-8").partition(title)[2].partition("<!--")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {each[1]: each for each in cells if each and each[0] in TABLES[title][0]}


def told(title: str, table: Collection[list[str]]) -> str:
    """What a table says altogether."""
    count = Counter(row[0] for row in table)
    all_of = f"{count['right']} of {count['right'] + count['wrong']} mutants"
    if title == MADE:
        return (f"{all_of} whose logits are beyond the limits are located at their op; {count['within']} stay within, "
                f"{count['failed']} cannot be opened.")  # fmt: skip
    located = sum(row[0] in ("right", "wrong") for row in kept(MADE).values())
    return (f"{len(table)} of {located} were diagnosed. Of {all_of} that a pattern describes it is the best finding;\n"
            f"{count['open']} are described by none, {count['passed']} pass the ladder.")  # fmt: skip


def write(title: str, table: Collection[list[str]]) -> None:
    """Put a table into the page."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(title)
    order = {f"`{each.label}`": at for at, each in enumerate(every())}
    made = markdown_table(["", *TABLES[title][1].split(" | ")], sorted(table, key=lambda row: order[row[1]]), 9)
    rest = after.partition("\n\n## ")
    PAGE.write_text(f"{before}{title}\n{told(title, table)}\n\n{made}\n{''.join(rest[1:])}", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.bisect_mutants", description=__doc__)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--diagnose", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    title = DIAGNOSED if options.diagnose else MADE
    table = kept(title)
    for row in rows(options.patterns, options.diagnose):
        table[row[1]] = row
        print(*row, sep=" | ", flush=True)
        if options.write:
            write(title, table.values())
    print(told(title, table.values()))


if __name__ == "__main__":
    main()
