"""A sample of real cells: a mutant of every op, and wrong engines; the whole matrix is run by ``kparity mutate``."""

from __future__ import annotations

import pytest

from kparity import ops
from kparity.device import registry
from kparity.errors import Unavailable
from kparity.mutate import library, proof, runner
from kparity.mutate.score import Score, exit_code, false_alarms

ENGINES = ("cache-not-reset", "chunk-starts-aligned", "id-one-step-late", "graph-lost-a-launch", "qk-scales-swapped")


@pytest.mark.slow
def test_a_sample_of_real_cells_is_rejected() -> None:
    try:
        registry.open_backend("opencl").close()
    except Unavailable as problem:
        pytest.skip(f"opencl: {problem}")
    firsts = []
    for op in ops.NAMES:
        name = next(name for name, mutant in library.of_op(op).items() if "gpu" in mutant.patches)
        firsts += library.select([op], name)
    engines = [subject for subject in library.select(["engine"]) if subject.name in ENGINES]
    plans, _ = runner.planned([*firsts, *engines], ["opencl"])
    cells = runner.execute(plans)
    proof.mark_reach(cells)
    alarms = [*false_alarms(cells), *proof.verify_witnesses(cells)]
    score = Score(cells)
    assert alarms == [] and [cell.key for cell in score.survivors] == []
    assert score.full.of == len(ops.NAMES) + len(ENGINES)
    assert exit_code(cells, alarms) in (0, 1)  # the share of the probe alone means nothing on so few


def test_a_sample_compiled_from_patched_headers_is_rejected() -> None:
    from kparity.mutate import native

    reason = native.missing()
    if reason:
        pytest.skip(reason)
    subjects = [*library.select(["add"], "difference"), *library.select(["engine"], "second-turn-restarts")]
    plans, _ = runner.planned(subjects, ["cpu"])
    cells = runner.execute(plans)
    assert false_alarms(cells) == []
    assert all(cell.caught_by() for cell in cells if cell.op != "control"), [cell.as_dict() for cell in cells]
