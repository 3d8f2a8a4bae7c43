"""How often a diagnosis names a defect of right engines (none may), and what it says of engines known to be wrong.

    python -m tools.diagnose_noise [--only PATTERN] [--windows 3] [--seed 1] [--write]

Every right pair climbs the ladder up to its positions and is diagnosed as if that had failed: every pattern is asked,
and defects are simulated where a position is beyond its limits. Then with the climb's own verdict, as the command
does. Writes its tables into docs/diagnose.md. Exit code 0: nothing was found of right pairs, 1: something was, 3:
nothing ran.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from kparity.diagnose.diagnosis import diagnosed
from kparity.engines.registry import open_here
from kparity.errors import Unavailable
from kparity.host.revision import checkout, commit
from kparity.host.text import markdown_table
from kparity.ladder.climb import Climb, climb
from kparity.ladder.prompts import PER_TOKEN, built_in
from kparity.ladder.record import FAIL, Diagnosis, Rung, Settings
from kparity.model.gguf_file import embedded
from kparity.mutate.library import MODELS, path_of
from kparity.numerics.statistics import upper_bound
from tests.ladder_pairs import WRONG, climbed

PAGE, TABLES = (
    Path(__file__).parent.parent / "docs/diagnose.md",
    "<!-- what follows is written by tools.diagnose_noise -->",
)
POSITIONS = 40
EVERY = (*MODELS, "")
"""Models: those of random weights, and the embedded one."""
SAME = ("cpu", "cpu?fused=0", "cpu?kv=f32", "cpu?act=block256", "numpy", "torch")
"""Forms of kparity's engine, against the plain pass of the same numerics."""
MORE = (
    ("reference", "kparity:wgpu"), ("reference", "kparity:opencl"), ("kparity:numpy", "kparity:cpu"),
    ("kparity:cpu?act=block256", "llama.cpp"), ("llama.cpp", "kparity:cpu?act=block256"),
    ("kparity:cpu", "kparity:cpu?act=block256"), ("kparity:cpu", "llama.cpp"), ("f16", "kparity:cpu"),
    ("kparity:cpu?kv=f32", "transformers:exported"),
)  # fmt: skip
"""Pairs on the embedded model alone; numerics of some differ."""


@dataclass(frozen=True)
class Pair:
    """Two right engines on a model, and a stretch of text."""

    reference: str
    candidate: str
    model: str
    text: str

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.model or 'embedded'}: {self.reference} against {self.candidate}"


def pairs(windows: int, seed: int) -> Iterator[Pair]:
    """Every pair, each with as many stretches of the held-out text."""
    whole, rng = built_in(), np.random.default_rng(seed)
    kinds = [(model, _plain(form), f"kparity:{form}") for model in EVERY for form in SAME]
    for model, reference, candidate in [*kinds, *(("", *pair) for pair in MORE)]:
        count = windows if model else -(-windows // 3)  # each takes several times as long
        for at in rng.integers(0, len(whole) - POSITIONS * PER_TOKEN, count):
            yield Pair(reference, candidate, model, whole[at : at + POSITIONS * PER_TOKEN])


def _plain(form: str) -> str:
    """The plain pass with the same activations and cache."""
    options = [each for each in form.partition("?")[2].split("&") if each.startswith(("act", "kv"))]
    return "reference" + ("?" + "&".join(options) if options else "")


def asked(pair: Pair, folder: Path) -> list[Diagnosis]:
    """The diagnosis of the pair as if it had failed, and as it ended; raises Unavailable."""
    path = path_of(pair.model, folder) or embedded()
    found = list[Diagnosis]()

    def hook(climbed: Climb, rung: Rung) -> Diagnosis:
        found.append(diagnosed(climbed, replace(rung, verdict=FAIL, measures=[])))
        return diagnosed(climbed, rung)

    document = climb(
        Settings(reference=pair.reference, candidate=pair.candidate, text=pair.text, prompts=(pair.text[:24],),
                 model=str(path), rung="positions", positions=POSITIONS),
        lambda spec, model: open_here(spec, model=model, context=512), hook,
    )  # fmt: skip
    lost = next((each.reason for each in document.rungs if each.failed), "")
    if lost or not found or document.diagnosis is None:
        raise Unavailable(lost or "nothing was diagnosed", "see kparity preflight", "KP-NO-PAIR")
    return [*found, document.diagnosis]


def right(only: str, windows: int, seed: int, folder: Path) -> tuple[str, int]:
    """What was found of right pairs, in Markdown, and the exit code."""
    ran, told, said = Counter[str](), Counter[str](), list[str]()
    for pair in pairs(windows, seed):
        if not re.search(only, pair.name):
            continue
        try:
            both = asked(pair, folder)
        except Unavailable as problem:
            print(f"{pair.name}: not run: {problem}", flush=True)
            continue
        ran[pair.name] += 1
        defects = [[each for each in one.findings if each.defect] for one in both]
        told[pair.name] += any(defects)
        told_of = zip(("as if it had failed", "as it ended"), defects, strict=True)
        found = [f"{how}: {each.pattern} {each.confidence:.2f}, {each.cause}" for how, of in told_of for each in of]
        said += [f"- {pair.name}, {each}" for each in found]
        print(f"{pair.name}: {'; '.join(found) or 'nothing'}", flush=True)
    total, wrong = sum(ran.values()), sum(told.values())
    share, at = (
        f"at most {upper_bound(wrong, total):.1%} at 95 %" if total else "",
        (commit(checkout()) or "unknown")[:7],
    )
    end = f"{wrong} of {total} right pairs were given a defect: {share}. Commit {at}." if total else ""
    table = markdown_table(["pair", "texts", "diagnoses"], [[name, count, told[name]] for name, count in ran.items()])
    print(end)
    return "\n\n".join(["## Right pairs", end, *said, table]), 1 if wrong else 0 if total else 3


def wrong(only: str, folder: Path) -> str:
    """What is said of the known-wrong pairs of tests/ladder_pairs.py, in Markdown."""
    rows = []
    for pair in WRONG:
        if not re.search(only, f"{pair.reference} {pair.candidate}"):
            continue
        found, problem = climbed(pair, "", folder)
        findings = found["diagnosis"]["findings"] if found and found["diagnosis"] else []
        best = findings[0] if findings else {"pattern": "none", "cause": problem, "evidence": "", "confidence": 0}
        others = ", ".join(f"{each['pattern']} {each['confidence']:.0%}" for each in findings[1:])
        rows.append([pair.what, f"`{pair.candidate}`", best["pattern"], f"{best['confidence']:.0%}", best["cause"],
                     best["evidence"], others])  # fmt: skip
        print(*rows[-1], sep=" | ", flush=True)
    heads = ["what is wrong", "engine", "finding", "confidence", "cause", "evidence", "others"]
    return "## Known to be wrong\n\n" + markdown_table(heads, rows, len(heads))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.diagnose_noise", description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of the names of pairs")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with tempfile.TemporaryDirectory() as place:
        bad = wrong(options.only, Path(place))
        good, code = right(options.only, options.windows, options.seed, Path(place))
    if options.write:
        PAGE.write_text("\n\n".join([PAGE.read_text().partition(TABLES)[0].rstrip(), TABLES, bad, good]) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
