"""A sample of real cells: a mutant of some ops, and wrong engines; the whole matrix is run by ``kparity mutate``."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kparity import contracts
from kparity.backends.cpu import CpuBackend
from kparity.gates import reference
from kparity.gates.candidate import Candidate
from kparity.gates.table import named
from kparity.model import load_model
from kparity.mutate import library, makers, proof, runner
from kparity.mutate.score import Score, false_alarms

SAMPLE = ("rmsnorm", "tgemv", "attention", "rope_store")
ENGINES = ("id-one-step-late", "graph-lost-a-launch")


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
    assert_rejected("opencl", "gpu", SAMPLE, ENGINES)


def test_a_sample_compiled_from_patched_headers_is_rejected() -> None:
    assert_rejected("cpu", "native", ["add"], ["second-turn-restarts"])


@pytest.fixture(scope="module")
def truth() -> reference.Reference:
    model = load_model(None)
    tokens = reference.probe_tokens(model, 72)
    return reference.compute(model, tokens, act="token", kv="f16", context=0)


@pytest.mark.parametrize(
    ("name", "gate", "blind"),
    [
        ("one-step-of-hundred", "reset", ("turns", "resident")),
        ("reset-keeps-long-prompts", "reset", ("resident",)),
        ("turn-loses-its-last-key", "turns", ("reset", "resident")),
        ("stray-write", "resident", ("turns",)),
        ("wears-out", "soak", ("reset", "turns", "resident")),
        ("staging-shared", "soak", ("reset", "turns", "resident")),
        ("scratch-shared", "soak", ("reset", "turns", "resident")),
    ],
)
def test_what_is_seldom_late_or_shared_is_seen_by_its_gate(
    name: str, gate: str, blind: tuple[str, ...], truth: reference.Reference
) -> None:
    wrong = makers.every()[1][name](load_model(None), CpuBackend())
    wrong.recorded(wrong.chunk)
    candidate = Candidate(wrong, truth, contracts.load(contracts.PROBE), soak=60.0)
    wanted = [
        named(each) for each in ("positions", "prefill", "reset", "turns", "resident", *["soak"][: gate == "soak"])
    ]
    found = {each.name: each.load()(candidate) for each in wanted}
    assert found[gate].verdict == "FAIL" and found[gate].code != "KP-UNSUPPORTED", found[gate]
    assert all(found[each].verdict == "PASS" for each in blind), found
