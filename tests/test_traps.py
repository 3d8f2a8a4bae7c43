"""Traps in which other harnesses sat: one row each, with the test that shows that this one does not.

NaN passes ``x > threshold``, max() drops it  test_non_finite_numbers_fail_every_threshold
the same                                      test_judge_tells_right_from_wrong, test_nan_meets_no_threshold
lengths differ, nothing to compare, 0/0       test_nothing_and_different_lengths_are_refused
the same                                      test_judge_refuses_what_cannot_be_compared
zero cases run, 0 of 0 passed                 test_nothing_selected_is_never_green, test_some_gates_are_no_pass
skips counted as passes                       test_every_sequence_of_up_to_four_outcomes_has_the_right_exit_code
the same                                      test_an_unsupported_backend_alone_is_inconclusive
a misspelt backend exits 0                    test_bad_input_is_one_sentence_and_exit_code_2
the same                                      test_wrong_use_is_one_sentence
0 traces loaded, all match                    test_nothing_compared_is_not_green
a baseline of zero tokens that matches        test_a_verdict_over_no_tokens_is_none
unseeded inputs                               test_inputs_follow_from_seed_case_and_kind_alone
inputs in (0, 1): nothing cancels             test_random_inputs_have_both_signs
only hot caches timed                         test_what_is_timed_is_larger_than_the_caches
the reference is the broken side              test_truth_is_fp64_and_no_other_backend
the same                                      test_a_reference_that_shares_the_defect
one decoder for reference and kernel          test_a_defect_in_either_decoder_shows
results without error, no threshold beside    test_every_verdict_has_number_threshold_and_basis
text tools that split on tabs and lines       test_every_backend_is_rejected_in_one_shape
the same                                      test_csv_has_a_line_per_output
30 prompts counted as 50,000 rounds           test_repeats_of_a_prompt_are_one_trial
``gemm_cpu_x`` passes for a GPU kernel        test_every_rule_reads_its_class
the same                                      test_a_failure_to_build_and_a_wrong_name_are_failures_of_every_kind
a receipt whose real flag is hard-coded       test_json_and_receipt_follow_their_schema

Those without a file of their own are here. Still to come with the burn-in: the parser of its log.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kparity import contracts, ops, plain
from kparity.bench import machine
from kparity.check import facts, record
from kparity.device.adapter import Backend, DeviceInfo
from kparity.engine import Engine
from kparity.gates import reference
from kparity.gates.candidate import Candidate
from kparity.gates.candidate import run as run_gates
from kparity.gates.exact import gate_exact
from kparity.gates.positions import gate_positions
from kparity.gates.verdict import Gate, Measure, Row
from kparity.model import Model, decode, load_model
from kparity.ops.spec import DTYPES
from kparity.probe import cache
from kparity.probe.messages import Request
from kparity.probe.runner import Found
from tests.cli import LOADED, run
from tests.liars.kparity_liars import DroppedColumn, Honest

PROBE = contracts.load(contracts.PROBE)


def test_the_tests_of_the_table_exist() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"\btest_\w+", __doc__ or "")
    assert len(named) > 20 and [name for name in named if f"\ndef {name}(" not in texts] == []


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
        wanted = reference.Reference("itself", tokens, logits, logits, plain.facts(model.path))
    else:
        wanted = reference.compute(model, tokens, act="token", kv="f16")
    return Candidate(engine, wanted, PROBE)


def test_a_verdict_over_no_tokens_is_none(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    too_few = gate_positions(candidate(model, Honest.open(), count=1))
    assert too_few.verdict == "FAIL" and any(m.threshold == "positions_min" and not m.holds for m in too_few.measures)
    # A remembered verdict that says "accepted" and shows no gate is a miss.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gate = Gate("BOS", "PASS", [Measure.of(PROBE, "bos_cosine", 1.0)])
    for depth, found, remembered in (
        ("bos", [], False), ("bos", [Gate("open", "PASS"), gate], True), ("full", [Gate("open", "PASS"), gate], False),
    ):  # fmt: skip
        keys = cache.Keys(Request(depth=depth))
        device = DeviceInfo("cpu", "made", "cpu", "", "", "").as_dict()
        row = Row("cpu", "accepted", gates=found, depth=depth, device=device, dispatches={"add_cpu_avx2": 1})
        cache.put(keys, Found(row, None, LOADED))
        assert (cache.get(keys, "cpu") is not None) == remembered


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
