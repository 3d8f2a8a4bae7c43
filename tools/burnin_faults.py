"""Faults that servers have had, and what sees each: every one is switched on in a server that is held against a right
one, and in an engine whose perplexity is compared, where it is one of the model.

    python -m tools.burnin_faults [--write]

Prints the table of docs/burnin.md, or writes it there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from kparity.burnin import query
from kparity.burnin.perplexity import Perplexity
from kparity.burnin.prompts import built_in
from kparity.burnin.stats import drift, stats
from tests.burnin_server import Faulty
from tests.test_burnin import burned
from tests.test_ppl import VOCAB, Made, judged, right

PAGE = Path(__file__).parent.parent / "docs/burnin.md"
BEGIN, END = "<!-- written by tools.burnin_faults -->\n\n", "\n\n<!-- end -->"


def _stale() -> Perplexity:
    """Right for 200 resets."""
    made = Made()
    made.logits = lambda fed: right(fed) if made.resets <= 200 else np.zeros(VOCAB, np.float32)
    return judged(made)


def _rope() -> Perplexity:
    """Right up to half of the window."""
    return judged(Made(lambda fed: right(fed if len(fed) < 64 else [0, *fed[:-2]])))


def _tie() -> Perplexity:
    """Of two ids that are equally likely, the other one, at one position."""
    return judged(Made(lambda fed: right(fed) + (np.eye(VOCAB, dtype="f4")[3] * 1e-3 if len(fed) == 9 else 0)))


def _flat() -> Perplexity:
    return judged(Made(lambda fed: right(fed) * np.float32(0.9)))


@dataclass(frozen=True)
class Fault:
    """What a server does, in words and by the name of the switch; ``ppl`` is an engine with the same fault. A spike
    halts, as with ``--halt-on-spike``.
    """

    words: str
    switch: str
    ppl: Callable[[], Perplexity] | None = None
    rounds: int = 60
    delays_s: tuple[float, float] = (0.0, 0.0)
    set_back_s: float = 0.0


FAULTS = (
    Fault("the KV cache is not reset after 200 completions", "kv-reset", _stale, 300),
    Fault("a wrong RoPE convention on long contexts", "rope", _rope, 240),
    Fault("a tie in the sampler on one prompt", "tie", _tie),
    Fault("a tab comes as a space", "tab"),
    Fault("of several lines, the first comes", "lines"),
    Fault("replies are empty", "empty"),
    Fault("death in mid-stream", "truncated"),
    Fault("more than twice as slow", "", delays_s=(0.03, 0.12)),
    Fault("the clock is set back by an hour", "", set_back_s=3600),
    Fault("a distribution that is flatter, with the same likeliest tokens", "flat", _flat),
)


def _clock(fault: Fault, asked: Faulty) -> AbstractContextManager[object]:
    """A wall clock that is set back after ten requests."""
    if not fault.set_back_s:
        return nullcontext()
    right_one = time.time
    return patch("time.time", lambda: right_one() - fault.set_back_s * (len(asked.seen) > 10))


def seen(fault: Fault) -> tuple[str, str, str]:
    """Gates that fail, what else tells of it, and the verdict of perplexity."""
    one, other = Faulty(delay_s=fault.delays_s[0]), Faulty(fault.switch, delay_s=fault.delays_s[1])
    with TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with _clock(fault, other):
            done, _, _ = burned(log, one, other, built_in(), rounds=fault.rounds, halt_on_spike=True)
        with query.opened(log) as table:
            found, misses = stats(table), drift(table, "greedy", 1000)
    gates = [f"`{gate.name}`" for gate in found.gates if gate.state == "FAIL"] + ["halted"] * bool(done.halted)
    kinds = {miss.kind for miss in misses}
    told = [f"`{name}`" for name in ("prefix-only", "no-match") if found.buckets[name]]
    told += [f"`{name}`" for name in found.faults]
    told += ["one prompt, `top_miss`"] if found.pattern == "one" else []
    told += [f"`drift`: {kind} alone" for kind in kinds if len(kinds) == 1 and found.pattern == "many"]
    told += ["`clock`"] * bool(found.clock_jumps)
    ppl = fault.ppl().verdict if fault.ppl else ""
    return ", ".join(gates) or "none", ", ".join(told) or "nothing", ppl


def line(fault: Fault) -> str:
    """A row of the table, from running it."""
    return f"| {' | '.join([fault.words, *seen(fault)])} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/burnin.md")
    asked = parser.parse_args(arguments)
    head = ["| fault | gates that fail | what else tells of it | perplexity |", "|---|---|---|---|"]
    table = "\n".join([*head, *map(line, FAULTS)])
    if asked.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
