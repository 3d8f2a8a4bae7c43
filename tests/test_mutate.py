"""The runner of mutants: what counts, what is excused, what ends a run; children that die; scores and exit codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from kparity import ops
from kparity.errors import DeviceFault, UnknownName, WrongInput
from kparity.mutate import child, engine, library, page, proof, report, runner, store
from kparity.mutate.cell import CONTROL, ENGINE, GATES, PROBE_GATES, Cell, GateResult, Witness
from kparity.mutate.library import Subject
from kparity.mutate.messages import CellRequest
from kparity.mutate.score import Score, exit_code, false_alarms
from kparity.ops.assemble import kernel_text
from kparity.ops.mutant import Mutant
from tests.cli import run


def cell(name: str, *caught: str, backend: str = "numpy", op: str = "add", reached: bool | None = True) -> Cell:
    gates = [GateResult(gate, "caught" if gate in caught else "passed", "said so") for gate in (*PROBE_GATES, "check")]
    return Cell(op, name, backend, "0", what="wrong", gates=gates, reached=reached, graph="fused")


def control(*caught: str) -> Cell:
    return cell("fused", *caught, op=CONTROL)


def planted(name: str, find: str, replace: str, op: str = "add") -> list[runner.Plan]:
    """A mutant of numpy's text of an op, as a plan for the runner."""
    mutant = Mutant("planted", numpy=f"«{find}→{replace}»")
    return runner.planned([Subject(op, name, "planted", mutant)], ["numpy"])[0][2:]


def source_line(op: str) -> str:
    """A line of an op's reference that a patch can replace: the head of its function."""
    text = kernel_text(f"{op}/__init__.py")
    return next(line + "\n" for line in text.splitlines() if line.strip().startswith("def reference("))


def test_a_patch_that_no_longer_fits_names_the_file() -> None:
    with pytest.raises(WrongInput, match=r"kernels/add/__init__\.py: 'never there' occurs 0 times"):
        planted("rotten", "never there", "")


def test_the_library_has_every_op_and_enough_wrong_engines() -> None:
    assert {subject.op for subject in library.every()} >= set(ops.NAMES)
    assert len(engine.MUTANTS) >= 15 and len({mutant.name for mutant in engine.MUTANTS}) == len(engine.MUTANTS)


def test_names_that_are_not_known_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'tgemv'"):
        library.select(["tgemm"])
    with pytest.raises(WrongInput, match="no mutant matches"):
        library.select([], "no-such-mutant")
    assert {subject.op for subject in library.select(["engine"], "*late*")} == {"engine"}


def test_scores_count_what_ran_and_nothing_else() -> None:
    cells = [
        control(),
        cell("seen", "BOS", "check"),
        cell("late", "turns"),
        cell("tail", "check", reached=False),
        cell("alive"),
    ]
    for status in ("equivalent", "skipped", "invalid"):
        other = cell(status)
        other.status = status
        cells.append(other)
    score = Score(cells)
    assert [(t.caught, t.of) for t in (score.bos, score.probe, score.probe_of_all, score.full)] == [
        (1, 4), (2, 3), (2, 4), (3, 4),
    ]  # fmt: skip
    assert (score.per_gate["check"].caught, score.per_gate["turns"].caught) == (2, 1)
    assert [each.mutant for each in score.survivors] == ["alive"]
    assert all(len(score.with_status(status)) == 1 for status in ("equivalent", "skipped", "invalid"))
    assert str(Score([]).full) == "0/0" and not any(measure.holds for measure in Score([]).measures())


def test_a_death_counts_for_the_stage_at_which_it_happened() -> None:
    died = Cell("add", "x", "numpy", "0", gates=[GateResult("crash", "caught", "SIGSEGV", "check")])
    assert died.caught_by(PROBE_GATES) == [] and died.caught_by((*PROBE_GATES, "check")) == ["crash"]
    died = Cell("add", "x", "numpy", "0", gates=[GateResult("hang", "caught", "60 s", "probe")])
    assert died.caught_by(PROBE_GATES) == ["hang"] and died.caught_by(("check",)) == []


@pytest.mark.parametrize(
    ("cells", "alarms", "code"),
    [
        ([control(), cell("a", "positions")], [], 0),
        ([control(), cell("a", "positions"), cell("b")], [], 1),
        ([control(), cell("a", "check")], [], 1),
        ([control(), cell("a", "check", reached=False), cell("b", "BOS")], [], 0),
        ([control()], [], 3),
        ([], [], 3),
        ([control(), cell("a", "positions")], ["numpy: a right kernel is rejected"], 3),
    ],
)
def test_exit_codes(cells: Sequence[Cell], alarms: list[str], code: int) -> None:
    assert exit_code(list(cells), alarms) == code


def test_an_invalid_mutant_is_an_error_and_no_kill() -> None:
    broken = cell("a", "positions")
    broken.status = "invalid"
    assert exit_code([control(), broken, cell("b", "BOS")], []) == 1


def test_a_control_that_is_rejected_or_silent_is_an_alarm() -> None:
    assert false_alarms([control()]) == []
    assert false_alarms([control("turns")]) == ["numpy: the fused control: turns: said so"]
    silent = control()
    silent.gates = silent.gates[:3]
    assert len(false_alarms([silent])) == 1


def test_equivalent_is_what_is_proven_and_only_that() -> None:
    mutant = Mutant("the same", {"numpy": "tests/test_x.py::test_y"}, numpy="«x→y»")
    for verdict, status in ((None, "equivalent"), ("tests/test_x.py::test_y does not pass", "ran")):
        alive = cell("a")
        proof.excuse([alive], [Subject("add", "a", "the same", mutant)], lambda node, said=verdict: said)
        assert alive.status == status and "test_y" in alive.reason
    caught = cell("a", "check")
    proof.excuse([caught], [Subject("add", "a", "the same", mutant)], lambda node: None)
    assert caught.status == "ran", "what a gate rejects is not equivalent, whatever it claims"


def test_a_proof_that_does_not_exist_proves_nothing() -> None:
    assert "does not pass" in str(proof.proven("tests/test_mutate.py::test_that_is_not_there"))


def test_reach_is_a_difference_from_the_control() -> None:
    cells = [control(), cell("same"), cell("other"), cell("dead")]
    for each, bits in zip(cells, ("aa", "aa", "bb", ""), strict=True):
        each.bits = bits
    proof.mark_reach(cells)
    assert [each.reached for each in cells[1:]] == [False, True, True]


def test_stored_cells_come_back_and_only_for_the_same_sources(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    plan = _plan("kept", "0")
    kept = cell("kept", "check")
    kept.witness = Witness("add", {"M": 1, "D": 1}, "random")
    store.Store(path).add(kept)
    assert store.Store(path).known(plan) == kept
    assert store.Store(path).known(_plan("kept", "1")) is None
    path.write_text("{}\n")
    with pytest.raises(WrongInput, match=r"cells\.jsonl:1: no cell"):
        store.Store(path)


def _plan(name: str, digest: str) -> runner.Plan:
    return runner.Plan(Subject("add", name, "wrong"), "numpy", "numpy", "fused", {}, digest)


def test_children_that_are_wrong_harmless_broken_dead_or_silent() -> None:
    head = source_line("add")
    plans = [
        *runner.planned([], ["numpy"])[0][:1],
        *planted("wrong", head, f"{head}        inputs = [x * 1.5 for x in inputs]\n"),
        *planted("harmless", head, f"{head}        inputs = list(inputs)\n"),
        *planted("broken", head, f"{head}        this is no python\n"),
        *planted("dead", head, f"{head}        __import__('ctypes').string_at(0)\n"),
        *planted("silent", head, f"{head}        __import__('time').sleep(3600)\n"),
    ]
    cells = {each.mutant: each for each in runner.execute(plans, timeout=8)}
    proof.mark_reach(list(cells.values()))
    assert cells["fused"].caught_by() == []
    assert {"kernels", "check"} <= set(cells["wrong"].caught_by()) and cells["wrong"].reached
    assert cells["harmless"].caught_by() == [] and cells["harmless"].reached is False
    assert cells["broken"].status == "invalid" and "kernels/add/__init__.py" in cells["broken"].reason
    assert cells["dead"].caught_by() == ["crash"] and "SIGSEGV" in cells["dead"].gates[-1].reason
    assert cells["silent"].caught_by() == ["hang"]
    assert proof.verify_witnesses(list(cells.values())) == []


def asked(op: str) -> CellRequest:
    """The request of a cell of an op."""
    return CellRequest(op, "a", "numpy", "numpy", "fused", {}, None, -1)


def test_a_wrong_engine_that_fails_by_itself_is_no_rejection() -> None:
    for problem in (RecursionError("deep"), TypeError("no such argument")):
        with pytest.raises(child.Mistake):
            child.answer(asked(ENGINE), problem)
        assert type(problem).__name__ in child.answer(asked("add"), problem)
    assert "lost" in child.answer(asked(ENGINE), DeviceFault("the device was lost", "KP-DEVICE-LOST"))


def test_reports_show_every_mutant_and_escape_what_they_quote() -> None:
    odd = cell("odd", "BOS")
    odd.gates[1] = GateResult("BOS", "caught", 'cosine <script> "0.5" & more')
    cells = [control(), odd, cell("alive")]
    html = page.page(cells, [])
    assert "alive" in html and "class='survivor'" in html
    assert "<script>" not in html and "&lt;script&gt;" in html and "http" not in html
    text = report.markdown(cells, ["numpy: alarm"])
    assert "`add/alive@numpy`" in text and "numpy: alarm" in text and "1/2 (50.0%)" in text
    document = json.loads(report.as_json(cells, [], 1))
    assert document["scores"]["all"]["full"] == {"caught": 1, "of": 2, "share": 0.5}
    assert set(document["scores"]["numpy"]) >= set(GATES)


def test_the_picture_has_a_field_per_mutant_and_gate(tmp_path: Path) -> None:
    from kparity.mutate import figure

    cells = [control(), cell("a", "BOS"), cell("b"), cell("a", "check", backend="cpu")]
    values, rows, backends = figure.grid(cells)
    assert values.shape == (2, 2 * len(GATES)) and rows == [("add", "a"), ("add", "b")] and backends == ["numpy", "cpu"]
    assert (values == 2).sum() == 2
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure.draw(cells, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").read_bytes()[:4] == b"\x89PNG"


def test_a_missing_matplotlib_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from kparity.errors import Unavailable
    from kparity.mutate import figure

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Unavailable, match=r"kparity\[report\]"):
        figure.require_matplotlib()


def test_the_command_lists_and_refuses() -> None:
    listed = run("mutate", "--list", "--op", "engine")
    assert listed.returncode == 0 and "cache-not-reset" in listed.stdout
    assert run("mutate", "--op", "tgemm").returncode == 2
    assert run("mutate", "--mutant", "no-such-mutant").returncode == 2
    unknown = run("mutate", "--backends", "wgpuu")
    assert unknown.returncode == 2 and "did you mean 'wgpu'" in unknown.stderr


def test_a_backend_that_is_not_here_is_skipped_with_its_reason_and_concludes_nothing() -> None:
    from kparity.device import registry
    from kparity.errors import Unavailable

    try:
        registry.open_backend("hip").close()
        pytest.skip("hip opens here")
    except Unavailable:
        done = run("mutate", "--backends", "hip", "--op", "engine", "--mutant", "false-gpu")
    assert done.returncode == 3 and "skipped  hip: [KP-HIP-" in done.stdout and "nothing ran" in done.stdout
