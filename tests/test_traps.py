"""Traps in which other harnesses sat: one row each, with the test that shows that this one does not.

NaN passes ``x > threshold``, max() drops it  test_nan_meets_no_threshold
lengths differ, nothing to compare, 0/0       test_what_cannot_be_compared_has_no_number
zero cases run, 0 of 0 passed                 test_nothing_run_is_not_green
skips counted as passes                       test_what_was_skipped_is_not_green
a misspelt backend exits 0                    test_a_misspelt_name_ends_every_command
0 traces loaded, all match                    test_two_empty_traces_do_not_match
a baseline of zero tokens that matches        test_a_verdict_over_no_tokens_is_none
unseeded inputs                               test_inputs_follow_from_the_seed_alone
inputs in (0, 1): nothing cancels             test_random_inputs_have_both_signs
only hot caches timed                         test_what_is_timed_is_larger_than_the_caches
the reference is the broken side              test_truth_is_fp64_and_no_other_backend
the same                                      test_a_reference_that_shares_the_defect
one decoder for reference and kernel          test_a_defect_in_either_decoder_shows
results without error, no threshold beside    test_every_verdict_has_number_threshold_and_basis
text tools that split on tabs and lines       test_tabs_and_lines_in_a_text_move_no_field
30 prompts counted as 50,000 rounds           test_repeats_are_not_trials
``gemm_cpu_x`` passes for a GPU kernel        test_a_kernel_id_proves_no_gpu_by_itself
a receipt whose real flag is hard-coded       test_what_a_receipt_says_of_the_device_was_asked_of_it

Each is compact; the files of the parts (test_compare, test_check, test_pytest_plugin, test_repack, …) go further. Still
to come with the burn-in: the parser of its log.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kparity import contracts, ops, plain
from kparity.bench import machine
from kparity.check import core, document, facts, record
from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.engine import Engine
from kparity.errors import WrongInput
from kparity.gates import reference
from kparity.gates.candidate import Candidate, Distance
from kparity.gates.candidate import run as run_gates
from kparity.gates.exact import gate_exact
from kparity.gates.judge import lacking
from kparity.gates.open import gate_open
from kparity.gates.positions import gate_positions
from kparity.gates.verdict import Gate, Measure, Row
from kparity.model import Model, decode, load_model
from kparity.numerics import compare
from kparity.numerics.statistics import distinct, lower_bound
from kparity.ops.spec import DTYPES, Bound
from kparity.probe import cache, runner
from kparity.traces.parity import sample_size_parity, std_ratio_gate
from tests.cli import run
from tests.liars.kparity_liars import DroppedColumn, Honest

ROOT = Path(__file__).resolve().parent.parent
OWN_OPS = str(ROOT / "tests" / "own_ops")
PROBE = contracts.load(contracts.PROBE)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    found = load_model(None)
    yield found
    found.close()


def candidate(model: Model, backend: Backend, count: int = 80, own: bool = False) -> Candidate:
    """A backend at the gates; with ``own`` its own logits are the reference."""
    tokens = reference.probe_tokens(model, count)
    engine = Engine(model, backend)
    if own:
        logits = np.stack([engine.step(token) for token in tokens])
        engine.reset()
        wanted = reference.Reference("itself", tokens, logits, logits, "itself", plain.facts(model.path))
    else:
        wanted = reference.compute(model, tokens, act="token", kv="f16")
    return Candidate(engine, wanted, PROBE)


def test_nan_meets_no_threshold() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        for name in ("positions_cosine", "positions_norm"):  # at least, at most
            assert not PROBE.threshold(name).holds(bad) and not Measure.of(PROBE, name, bad).holds
    got, truth = np.ones((3, 4), np.float32), np.ones((3, 4))
    got[1, 2] = np.nan
    found = compare.judge("case", "y", got, truth, Bound(np.full((3, 4), 1e30), "generous"))
    assert not found.ok and found.worst_index == (1, 2) and found.nan_count == 1 and found.utilisation == math.inf
    far = Distance.between(got, truth)
    assert math.isnan(far.cosine) and math.isnan(far.norm) and (far.low, far.high) == (1, 1)


def test_what_cannot_be_compared_has_no_number() -> None:
    empty, three, four = np.zeros(0), np.ones(3), np.ones(4)
    for metric in (compare.cosine, compare.norm_ratio, compare.nmse, compare.max_abs):
        for pair in ((empty, empty), (three, four)):
            with pytest.raises(WrongInput):
                metric(*pair)
    for got, truth in ((empty, empty), (three, four), (three, three[None])):
        with pytest.raises(WrongInput):
            compare.judge("case", "y", got, truth, Bound(None, ""))
    assert compare.cosine(np.zeros(3), three) == 0.0, "0/0 is no agreement"
    assert not PROBE.threshold("bos_cosine").holds(compare.cosine(np.zeros(3), three))


def test_nothing_run_is_not_green() -> None:
    assert lacking([], "bos") and lacking([Gate("open", "PASS")], "bos")
    done = run("check", "-b", "numpy", "-k", "no_such_case")
    assert done.returncode == 3, done.stdout + done.stderr
    with pytest.raises(WrongInput, match="nothing was run"):
        lower_bound(0, 0)


def test_what_was_skipped_is_not_green() -> None:
    not_run = Gate("positions", "INCONCLUSIVE", note="not run")
    assert "positions" in lacking([Gate("open", "PASS"), not_run, not_run], "full")
    done = run("check", "-o", "leaky_alone", "-b", "cpu", env={"PYTHONPATH": OWN_OPS})  # there is no native text
    assert done.returncode == 3, done.stdout + done.stderr
    assert re.search(r"\b0 PASS", done.stdout) and "UNSUPPORTED" in done.stdout


@pytest.mark.parametrize(
    "command", [["probe", "--backends", "cpuu"], ["check", "-b", "cpuu"], ["check", "-o", "tgemm"]]
)
def test_a_misspelt_name_ends_every_command(command: list[str]) -> None:
    done = run(*command)
    assert done.returncode == 2 and "did you mean" in done.stderr and not done.stdout


def test_two_empty_traces_do_not_match() -> None:
    for gate in (sample_size_parity, std_ratio_gate):
        assert gate([], []).verdict != "PASS"


def test_a_verdict_over_no_tokens_is_none(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    too_few = gate_positions(candidate(model, Honest.open(), count=1))
    assert too_few.verdict == "FAIL" and any(m.threshold == "positions_min" and not m.holds for m in too_few.measures)
    # A remembered verdict that says "accepted" and shows no gate is a miss.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gate = Gate("BOS", "PASS", [Measure.of(PROBE, "bos_cosine", 1.0)])
    for depth, found, remembered in (
        ("bos", [], False), ("bos", [Gate("open", "PASS"), gate], True), ("full", [Gate("open", "PASS"), gate], False),
    ):  # fmt: skip
        keys = cache.Keys(runner.Request(depth=depth))
        cache.put(keys, Row("cpu", "accepted", gates=found, depth=depth), np.ones(3, np.float32))
        assert (cache.get(keys, "cpu") is not None) == remembered


SEEDED = "from kparity import ops; from kparity.check.facts import facts;" + (
    "print([facts(op, op.cases()[1], 'random', 7).sha256 for op in ops.every()])"
)


def test_inputs_follow_from_the_seed_alone() -> None:
    """Two processes give the same bytes, another seed or another case gives others."""
    outputs = [subprocess.run([sys.executable, "-c", SEEDED], capture_output=True, text=True, check=True) for _ in "ab"]
    assert outputs[0].stdout == outputs[1].stdout and len(outputs[0].stdout) > 64 * len(ops.NAMES)
    for op in ops.every():
        case = op.cases()[1]
        assert facts.facts(op, case, "random", 7).sha256 in outputs[0].stdout
        assert facts.facts(op, case, "random", 8).sha256 not in outputs[0].stdout


@pytest.mark.parametrize("op", ops.every(), ids=lambda op: op.name)
def test_random_inputs_have_both_signs(op: ops.Op) -> None:
    """So that sums cancel, as they do in a model: what is reduced or rotated is negative as often as positive."""
    case = max(op.cases(), key=lambda each: sum(arg.nbytes for arg in op.args(each)))
    inputs = op.inputs(case, np.random.default_rng(case.seed()))
    shares = {
        arg.name: float((array < 0).sum() / max(1, (array != 0).sum()))
        for arg, array in zip(op.inputs_of(case), inputs, strict=True)
        if arg.dtype in ("f32", "f16", "i8") and "scale" not in arg.name
    }
    assert shares and max(shares.values()) > 0.3 and all(0.3 < share < 0.7 or share == 0 for share in shares.values())


def test_what_is_timed_is_larger_than_the_caches() -> None:
    backend = Honest.open()
    cached = machine.cache_bytes(backend.info)
    assert cached >= 1 << 20 and machine.cold_bytes(backend.info) >= min(2 * cached, 1 << 30)
    backend.close()


def test_truth_is_fp64_and_no_other_backend(model: Model) -> None:
    for op in ops.every():
        case = op.cases()[0]
        found = facts.facts(op, case, "random", 0)
        for arg, truth in zip(op.outputs_of(case), found.truth, strict=True):
            stored = np.dtype(np.float64) if arg.dtype == "f32" else DTYPES[arg.dtype]
            assert truth.dtype == stored, f"{op.name}.{arg.name}"
    assert reference.compute(model, [1, 2], act="token", kv="f16").logits.dtype == np.float64


def test_a_reference_that_shares_the_defect(model: Model) -> None:
    """Judged by its own wrong logits, a backend is still rejected: the exact gate has the file's bytes for truth."""
    found = {gate.name: gate for gate in run_gates(candidate(model, DroppedColumn.open(), own=True), "full")}
    assert found["BOS"].verdict == "PASS" and found["exact"].verdict == "FAIL"
    assert found["exact"].code == "KP-EXACT-BITS"


def test_a_defect_in_either_decoder_shows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels run on what the first decoder packed, truth is what the second one says: they must agree."""
    right = candidate(model, Honest.open(), own=True)
    assert gate_exact(right).verdict == "PASS"
    for name in ("decode_tq2_0", "decode_tq1_0", "decode_i2_s"):
        original = getattr(decode, name)

        def swapped(*given: object, original=original) -> tuple:
            weights, scale = original(*given)
            weights = weights.copy()
            weights[:, [0, 1]] = weights[:, [1, 0]]
            return weights, scale

        monkeypatch.setattr(decode, name, swapped)
    assert gate_exact(right).verdict == "FAIL"


def test_every_verdict_has_number_threshold_and_basis() -> None:
    done = run("probe", "--backends", "numpy", "--depth", "bos", "--json")
    measures = [m for row in json.loads(done.stdout)["rows"] for gate in row["gates"] for m in gate["measures"]]
    assert measures
    for measure in measures:
        threshold = PROBE.threshold(measure["threshold"])
        assert measure["limit"] == threshold.value and threshold.basis and isinstance(measure["value"], float)
    with pytest.raises(TypeError):
        Measure("bos_cosine", 1.0)  # a verdict cannot be made without its limit
    needed = {each.name for each in dataclasses.fields(record.OutputRecord) if each.default is dataclasses.MISSING}
    assert {"error", "limit", "utilisation", "threshold", "derivation"} <= needed


def result_with(reason: str) -> document.Result:
    """A sweep of one record that failed for a reason."""
    op = ops.get("add")
    blank = core.blank_record("cuda", op, op.cases()[0], 0, label="a\tb", device_kind="gpu")
    request = {"ops": [], "expression": None, "quick": False, "max_seconds": None}
    return document.Result(["cuda"], 0, request, [dataclasses.replace(blank, reason=reason)])


NASTY = "lost\tdevice\n\nBackend: cuda (NVIDIA)\r\n  [code]"


def test_tabs_and_lines_in_a_text_move_no_field() -> None:
    line = PROBE.rejected("cuda", "KP-DEVICE-LOST", NASTY)
    assert line.count("\n") == line.count("\t") == line.count("\r") == 0
    assert line.startswith(
        f"[{PROBE.id}] cuda path rejected, attempting fallback: [KP-DEVICE-LOST] lost device Backend:"
    )
    text = document.as_csv(result_with(NASTY))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["reason"] for row in rows] == [NASTY]
    assert json.loads(json.dumps(document.as_json(result_with(NASTY))))["records"][0]["reason"] == NASTY


def test_repeats_are_not_trials() -> None:
    rounds = [(f"prompt {at % 30}", True) for at in range(50_000)]
    assert lower_bound(*distinct(rounds)) < 0.92, "30 clean prompts say no more, however often they are repeated"


def gpu_kernel_pattern() -> re.Pattern[str]:
    """``<op>_<api>_<variant>`` with the APIs that a GPU may be behind."""
    apis = {name for name in registry.BUILTIN if registry.backend_class(name).dialect == "gpu"} | {"wgsl"}
    return re.compile(rf"({'|'.join(ops.NAMES)})_({'|'.join(sorted(apis))})_[a-z0-9_]+")


def test_a_kernel_id_proves_no_gpu_by_itself(backend: Backend) -> None:
    pattern, add = gpu_kernel_pattern(), ops.get("add")
    for fake in ("gemm_cpu_x", "add_cpu_cuda_x", "add_avx2_generic", "xadd_cuda_x", "add_cuda_", "add_cuda_x y"):
        assert not pattern.fullmatch(fake), fake
    kernel = backend.build(add, add.case(M=1, D=4))
    assert bool(pattern.fullmatch(kernel.id)) == (backend.dialect in ("gpu", "wgsl"))
    # An OpenCL kernel may run on a CPU: the kind of the device is asked for, too.
    required = gate_open(backend.info, require_gpu=True)
    assert required.verdict == ("PASS" if backend.info.kind == "gpu" else "FAIL")


def test_what_a_receipt_says_of_the_device_was_asked_of_it(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    run("probe", "--backends", "numpy", "--depth", "bos", "--receipt", str(path))
    (row,) = json.loads(path.read_text())["predicate"]["runs"]
    opened = registry.open_backend("numpy")
    assert row["device"] == opened.info.as_dict() and row["kernels"]
    gpu = run("receipt", "verify", str(path), "--require-gpu-kernels")
    assert gpu.returncode == 1 and "RCPT-NO-GPU-KERNELS" in gpu.stdout
    refused = run("probe", "--backends", "numpy", "--depth", "bos", "--require-gpu")
    assert refused.returncode != 0 and "KP-NOT-GPU" in refused.stderr
