"""The runner of mutants: what counts, what is excused, what ends a run; children that die; scores and exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kparity import ops
from kparity.device import registry
from kparity.errors import DeviceFault, Unavailable, UnknownName, WrongInput
from kparity.mutate import child, library, makers, proof, report, runner
from kparity.mutate.cell import (
    CONTROL,
    ENGINE,
    GATES,
    PROBE_GATES,
    Cell,
    CellRequest,
    GateResult,
    Status,
    Store,
    Witness,
)  # fmt: skip
from kparity.mutate.library import Subject
from kparity.mutate.score import Score, exit_code, false_alarms
from kparity.ops.assemble import kernel_text
from kparity.ops.mutant import Mutant
from tests.cli import run


def cell(name: str, *caught: str, op: str = "add", backend: str = "numpy", **fields: Any) -> Cell:
    gates = [GateResult(gate, "caught" if gate in caught else "passed", "said so") for gate in (*PROBE_GATES, "check")]
    return Cell(op, name, backend, "0", "wrong", gates=gates, graph="fused", **{"reached": True, **fields})


def control(*caught: str, **fields: Any) -> Cell:
    return cell("fused", *caught, op=CONTROL, **fields)


def planted(name: str, find: str, replace: str) -> list[runner.Plan]:
    """A mutant of numpy's text of add, as a plan for the runner."""
    mutant = Mutant("planted", numpy=f"«{find}→{replace}»")
    return runner.planned([Subject("add", name, "planted", mutant)], ["numpy"])[0][2:]


def test_a_patch_that_no_longer_fits_names_the_file() -> None:
    with pytest.raises(
        WrongInput, match=r"kernels/add/__init__\.py: 'never there' occurs 0 times, the patch expects 1"
    ):
        planted("rotten", "never there", "")


def test_the_library_has_every_op_and_enough_wrong_engines_and_refuses_names_that_it_does_not_know() -> None:
    assert {subject.op for subject in library.every()} >= set(ops.NAMES)
    assert len(makers.every()[0]) >= 40 and len({mutant.name for mutant in makers.every()[0]}) == len(makers.every()[0])
    assert all(mutant.what.endswith(".") for mutant in makers.every()[0])
    with pytest.raises(UnknownName, match="did you mean 'tgemv'"):
        library.select(["tgemm"])
    with pytest.raises(WrongInput, match="no mutant matches"):
        library.select([], "no-such-mutant")
    assert {subject.op for subject in library.select(["engine"], "*late*")} == {"engine"}


def test_scores_count_what_ran_and_nothing_else() -> None:
    ran = [cell("seen", "BOS", "check"), cell("late", "turns"), cell("tail", "check", reached=False), cell("alive")]
    statuses: tuple[Status, ...] = ("equivalent", "skipped", "invalid")
    score = Score([control(), *ran, *(cell(status, status=status) for status in statuses)])
    assert [(each.caught, each.of) for each in score.tallies.values()] == [(1, 4), (2, 3), (2, 4), (3, 4)]
    assert (score.per_gate["check"].caught, score.per_gate["turns"].caught) == (2, 1)
    assert [each.mutant for each in score.survivors] == ["alive"]
    assert all(len(score.with_status(status)) == 1 for status in statuses)
    assert str(Score([]).full) == "0/0" and not any(measure.holds for measure in Score([]).measures())


@pytest.mark.parametrize(("gate", "stage"), [("crash", "check"), ("hang", "probe")])
def test_a_death_counts_for_the_stage_at_which_it_happened(gate: str, stage: str) -> None:
    died = Cell("add", "x", "numpy", "0", gates=[GateResult(gate, "caught", "SIGSEGV", stage)])
    assert died.caught_by(PROBE_GATES if stage == "probe" else ("check",)) == died.caught_by() == [gate]
    assert died.caught_by(PROBE_GATES if stage == "check" else ("check",)) == []
    assert Score([died]).per_gate[gate].caught == 1


@pytest.mark.parametrize(
    ("cells", "alarms", "code"),
    [
        ([control(), cell("a", "positions")], [], 0),
        ([control(), cell("a", "positions"), cell("b")], [], 1),
        ([control(), cell("a", "check")], [], 1),
        ([control(), cell("a", "check", reached=False), cell("b", "BOS")], [], 0),
        ([control(), cell("a", "positions", status="invalid"), cell("b", "BOS")], [], 1),
        ([control()], [], 3),
        ([], [], 3),
        ([control(), cell("a", "positions")], ["numpy: a right kernel is rejected"], 3),
    ],
)
def test_exit_codes(cells: list[Cell], alarms: list[str], code: int) -> None:
    assert exit_code(cells, alarms) == code


def test_a_control_that_is_rejected_or_silent_is_an_alarm() -> None:
    assert false_alarms([control()]) == []
    assert false_alarms([control("turns")]) == ["numpy: the fused control: turns: said so"]
    silent = control()
    silent.gates = silent.gates[:3]
    assert false_alarms([silent]) == [f"numpy: the fused control: {PROBE_GATES[3]} did not run"]


def test_equivalent_is_what_is_proven_and_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = Mutant("the same", {"numpy": "tests/test_x.py::test_y"}, numpy="«x→y»")
    for verdict, status in ((None, "equivalent"), ("tests/test_x.py::test_y does not pass", "ran")):
        alive, caught = cell("a"), cell("a", "check")
        monkeypatch.setattr(proof, "proven", lambda node, verdict=verdict: verdict)
        proof.excuse([alive, caught], [Subject("add", "a", "the same", mutant)])
        assert alive.status == status and "test_y" in alive.reason
        assert caught.status == "ran", "what a gate rejects is not equivalent, whatever it claims"


def test_a_proof_is_a_test_that_passes() -> None:
    assert proof.proven("tests/test_mutate.py::test_exit_codes") is None
    assert "does not pass" in str(proof.proven("tests/test_mutate.py::test_that_is_not_there"))


def test_reach_is_a_difference_from_the_control() -> None:
    cells = [control(bits="aa"), cell("same", bits="aa"), cell("other", bits="bb"), cell("dead")]
    proof.mark_reach(cells)
    assert [each.reached for each in cells[1:]] == [False, True, True]


def test_stored_cells_come_back_and_only_for_the_same_sources(tmp_path: Path) -> None:
    path, kept = tmp_path / "cells.jsonl", cell("kept", "check", witness=Witness("add", {"M": 1, "D": 1}, "random"))
    Store(path).add(kept)
    subject = Subject("add", "kept", "wrong")
    known = [Store(path).known(runner.Plan(subject, "numpy", "numpy", "fused", {}, at).blank) for at in ("0", "1")]
    assert known == [kept, None]
    path.write_text("{}\n")
    with pytest.raises(WrongInput, match=r"cells\.jsonl:1: no cell"):
        Store(path)


def test_children_that_are_wrong_harmless_broken_dead_or_silent() -> None:
    head = next(line for line in kernel_text("add/__init__.py").splitlines(keepends=True) if "def reference(" in line)
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


def test_a_wrong_engine_that_fails_by_itself_is_no_rejection() -> None:
    of_op, of_engine = (CellRequest(op, "a", "numpy", "numpy", "fused", {}, None, -1) for op in ("add", ENGINE))
    for problem in (RecursionError("deep"), TypeError("no such argument")):
        with pytest.raises(child.Mistake):
            child.answer(of_engine, problem)
        assert type(problem).__name__ in child.answer(of_op, problem)
    assert "lost" in child.answer(of_engine, DeviceFault("the device was lost", "KP-DEVICE-LOST"))


def test_reports_show_every_mutant_and_escape_what_they_quote() -> None:
    odd = cell("odd", "BOS")
    odd.gates[1] = GateResult("BOS", "caught", 'cosine <script> "0.5" & more')
    cells = [control(), odd, cell("alive")]
    text = report.markdown(cells, ["numpy: alarm"])
    assert "`add/alive@numpy`" in text and "numpy: alarm" in text and "1/2 (50.0%)" in text
    assert "did not run on" not in text
    checked = msgspec.structs.replace(cell("slow"), backend="slow", gates=[GateResult("check", "caught", "wrong")])
    assert "The probe did not run on `slow`" in report.markdown([*cells, checked], [])
    document = json.loads(report.as_json(cells, [], 1))
    assert document["scores"]["all"]["full"] == {"caught": 1, "of": 2, "share": 0.5}
    assert set(document["scores"]["numpy"]) >= set(GATES)
    pytest.importorskip("jinja2", reason="Jinja2 is not installed")
    html = report.page(cells, ["numpy: <alarm>"])
    assert "<summary>alive</summary>" in html and html.count('class="survivor"') == 1
    assert "1 survived: add/alive@numpy." in html and "&lt;alarm&gt;" in html
    assert "<script>" not in html and "&lt;script&gt;" in html and "//" not in html


def test_the_picture_has_a_row_per_op_a_legend_and_every_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    drawn: list[str] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path: (drawn.extend(t.get_text() for t in self.findobj(Text)), save(self, path))
    )
    picture = report.drawn([control(), cell("a", "BOS"), cell("b"), cell("a", "check", op="rope")])
    assert {"add (2)", "rope (1)", "all (3)", "share of the mutants rejected", *GATES} <= set(drawn)
    assert picture[:4] == b"\x89PNG"


def test_the_command_lists_and_refuses() -> None:
    listed = run("mutate", "--list", "--op", "engine")
    assert listed.returncode == 0 and "cache-not-reset" in listed.stdout
    for options, reason in (
        (("--op", "tgemm"), "did you mean 'tgemv'"), (("--mutant", "no-such-mutant"), "no mutant matches"),
        (("--backends", "wgpuu"), "did you mean 'wgpu'"), (("--backends", ""), "empty"),
    ):  # fmt: skip
        refused = run("mutate", *options)
        assert refused.returncode == 2 and reason in refused.stderr


def test_a_backend_that_is_not_here_is_skipped_with_its_reason_and_concludes_nothing() -> None:
    try:
        registry.open_backend("hip").close()
        pytest.skip("hip opens here")
    except Unavailable:
        done = run("mutate", "--backends", "hip", "--op", "engine", "--mutant", "false-gpu")
    assert done.returncode == 3 and "skipped  hip: [KP-HIP-" in done.stdout and "nothing ran" in done.stdout


OWN = """
from kparity.backends.numpy import NumpyBackend, NumpyBound
from kparity.device.adapter import Kernel

class OwnKernel(Kernel):
    launch = NumpyBound

class Own(NumpyBackend):
    name, kernel = "own", OwnKernel
"""


def test_a_patch_that_a_backend_does_not_take_is_skipped_and_concludes_nothing(tmp_path: Path) -> None:
    info = tmp_path / "own_texts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-texts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kparity.backends]\nown = own_texts:Own\n")
    (tmp_path / "own_texts.py").write_text(OWN)
    names = ("--op", "add", "--mutant", next(iter(library.of_op("add"))))
    done = run("mutate", "--backends", "own", *names, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3 and "survived" not in done.stdout, done.stdout + done.stderr
    assert "skipped  own: own takes nothing from the patched texts (add/" in done.stdout


def test_a_cell_that_was_cut_off_is_run_again_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    Store(path).add(cell("whole"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    Store(path).add(cell("next"))
    assert [line.count(b'"mutant"') for line in path.read_bytes().splitlines()] == [1, 1]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WrongInput, match="is a named pipe"):
        Store(tmp_path / "pipe")


@pytest.mark.parametrize("option", ["--json", "--html", "--png", "--markdown", "--resume"])
def test_what_cannot_be_written_is_said_before_a_mutant_runs(tmp_path: Path, option: str) -> None:
    done = run("mutate", "--backends", "numpy", "--op", "add", option, str(tmp_path / "no" / "file"))
    assert done.returncode == 2 and "is not a folder; create it first" in done.stderr


def test_a_cell_is_run_again_where_a_gate_or_the_engine_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = runner.fingerprint.sources()
    subjects = [library.select(["add"])[0], makers.every()[0][0]]

    def digests(changed: str) -> list[str]:
        path = next(each for each in sources if each.as_posix().endswith(changed))
        other = tmp_path / path.parent.name / path.name
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(path.read_bytes() + b"\n")
        monkeypatch.setattr(
            runner.fingerprint, "sources", lambda: [other if each == path else each for each in sources]
        )
        runner._rules.cache_clear()
        return [runner.digest_of(subject, "numpy", {}) for subject in subjects]

    before = [runner.digest_of(subject, "numpy", {}) for subject in subjects]
    for deciding in ("gates/reset.py", "engine/graph.py", "numerics/compare.py", "backend-output-parity-v1.yaml"):
        assert all(now != then for now, then in zip(digests(deciding), before, strict=True)), deciding
    of_engines = digests("mutate/engine.py")
    assert of_engines[0] == before[0] and of_engines[1] != before[1]
    assert digests("cli/mutate.py") == before
    runner._rules.cache_clear()
