"""A sample of real cells: a mutant of every op, and wrong engines; the whole matrix is run by ``kparity mutate``."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kparity import ops
from kparity.mutate import library, proof, runner
from kparity.mutate.score import Score, false_alarms

ENGINES = ("cache-not-reset", "chunk-starts-aligned", "id-one-step-late", "graph-lost-a-launch", "qk-scales-swapped")


def assert_rejected(device: str, dialect: str, names: Sequence[str], engines: Sequence[str]) -> None:
    """The first mutant of each op and some wrong engines on a backend, where it is here."""
    firsts = (next(name for name, each in library.of_op(op).items() if dialect in each.patches) for op in names)
    chosen = [(op, first) for op, first in zip(names, firsts, strict=True)] + [("engine", name) for name in engines]
    plans, skipped = runner.planned([library.select([op], name)[0] for op, name in chosen], [device])
    if skipped:
        pytest.skip(skipped[0].reason)
    cells = runner.execute(plans)
    proof.mark_reach(cells)
    score = Score(cells)
    assert [*false_alarms(cells), *proof.verify_witnesses(cells)] == [] and score.survivors == []
    assert score.full.of == len(chosen)


@pytest.mark.slow
def test_a_sample_of_real_cells_is_rejected() -> None:
    assert_rejected("opencl", "gpu", ops.NAMES, ENGINES)


def test_a_sample_compiled_from_patched_headers_is_rejected() -> None:
    assert_rejected("cpu", "native", ["add"], ["second-turn-restarts"])
