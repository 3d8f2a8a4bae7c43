"""Wrong host code: every backend computes the same, and the reference, which reads the file by itself, does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kparity.backends.cpu import CpuBackend
from kparity.engine import Engine
from kparity.gates import graph, reference
from kparity.gates.candidate import Candidate
from kparity.model import load_model
from kparity.mutate import library, makers, runner
from kparity.mutate.cell import CONTROL, ENGINE
from tests.test_judge import CONTRACT

# One per cent of either moves logits by 2 to 84 times the noise floor over models and tokens, and no model helps: what
# makes an angle or a scale matter more makes a rounding matter more.
SEEN_BY_CONSTANTS_ALONE = {"host-theta-off", "host-eps-off"}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("model", library.MODELS)
def test_wrong_host_code_is_rejected_on_a_model_where_it_matters(model: str) -> None:
    subjects = [each for each in library.every() if each.op == ENGINE and each.model == model]
    assert subjects and all(each.name.startswith("host-") for each in subjects)
    plans, skipped = runner.planned(subjects, ["cpu"])
    assert not skipped
    cells = runner.execute([plan for plan in plans if plan.subject.model == model])
    assert {cell.op for cell in cells} == {CONTROL, ENGINE} and len(cells) == len(subjects) + 1
    for cell in cells:
        caught = set(cell.caught_by())
        if cell.op == CONTROL:
            assert not caught and cell.bits, cell
        else:
            by_logits = caught & {"BOS", "positions"}
            assert by_logits or (cell.mutant in SEEN_BY_CONSTANTS_ALONE and "graph" in caught), (cell.mutant, caught)


def test_a_table_that_the_host_makes_wrongly_is_seen_on_the_device(tmp_path: Path) -> None:
    path = library.path_of("b158", tmp_path)
    model = load_model(path)
    wanted = reference.compute(model, [1, 2, 3], act="token", kv="f16")
    good = Candidate(Engine(model, CpuBackend()), wanted, CONTRACT)
    good.engine.recorded(1)
    assert graph.gate_graph(good).verdict == "PASS"
    wrong = Candidate(makers.every()[1]["rope-theta-default"](model, CpuBackend()), wanted, CONTRACT)
    wrong.engine.model.hparams  # noqa: B018 - right: it is the table alone that is wrong, by as little as its base
    recorded = wrong.engine.recorded(1).graph
    table = wrong.engine.backend.download(recorded.freq)
    table[3] *= 1 + 2e-6
    wrong.engine.backend.write(recorded.freq, table)
    found = graph.gate_graph(wrong)
    assert found.verdict == "FAIL" and found.code == "KP-GRAPH" and "frequency 3" in found.reason
