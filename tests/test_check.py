"""``check_case`` and what surrounds it: selection, counts, documents. The command line is in ``test_check_cli.py``."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity import contracts, ops
from kparity.backends.numpy import NumpyBackend
from kparity.check import core, document, measure
from kparity.check.core import Guarded
from kparity.check.facts import facts
from kparity.check.record import FAIL, OUTCOMES, PASS, SKIPPED, UNSUPPORTED, OutputRecord, Record, Summary
from kparity.check.select import expression
from kparity.cli.schema import schema_of
from kparity.device import registry
from kparity.errors import CompileFailed, Unavailable, UnknownName, WrongInput, named
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Op

ADD = ops.get("add")
SMALL = ADD.case(M=2, D=3)


@pytest.fixture(scope="module")
def passed() -> list[Record]:
    op = ops.get("rmsnorm")
    return core.check_case(NumpyBackend(), op, op.case(M=3, D=257))


def result_of(records: list[Record], backends: tuple[str, ...] = ("numpy",)) -> document.Result:
    request = document.Request(
        backends=[*backends], ops=[], kinds=[], expression=None, quick=True, max_seconds=None, replay=None
    )
    return document.Result(request, 0, records)


# One case


def test_a_right_kernel_passes_with_every_number_beside_it(passed: list[Record]) -> None:
    op = ops.get("rmsnorm")
    case = op.case(M=3, D=257)
    assert [record.kind for record in passed] == list(op.kinds(case))
    for record in passed:
        assert (record.outcome, record.reason, record.failed) == (PASS, "", ())
        assert (record.kernel, record.device_kind) == ("rmsnorm_numpy_generic", "cpu")
        assert len(record.inputs_sha256) == 64
        assert set(record.counts) == {"launch_excess", "input_changes", "guard_changes", "repeat_differences"}
        assert (record.bytes, record.flops) == (op.work(case).bytes, op.work(case).flops)
    measured = passed[0].outputs[0]
    assert measured.derivation.startswith("(γ_257/2 + 8u)") and measured.threshold == "utilisation"
    assert 0 < measured.utilisation < 1 and 0 < measured.error <= measured.limit and measured.count == 3 * 257
    assert measured.peer_ratio is not None and 0 < measured.peer_ratio < 2


def test_only_the_kinds_that_were_asked_for_run_and_the_first_failure_ends_it() -> None:
    records = core.check_case(NumpyBackend(), ADD, SMALL, kinds=["tiny", "random"])
    assert [record.kind for record in records] == ["tiny", "random"]

    class Late(NumpyBackend):
        def sync(self) -> None:
            raise CompileFailed("kernels/add/add.cu", 3, "late")

    assert len(core.check_case(Late(), ADD, SMALL)) == len(ADD.kinds(SMALL))
    (only,) = core.check_case(Late(), ADD, SMALL, stop_at_first=True)
    assert only.outcome == FAIL and only.reason == "kernels/add/add.cu:3: late"


def test_a_failure_to_build_and_a_wrong_name_are_failures_of_every_kind() -> None:
    class Broken(NumpyBackend):
        def build(self, op: Op, case: Case) -> Any:
            raise ZeroDivisionError("division by zero")

    class Poser(NumpyBackend):
        def build(self, op: Op, case: Case) -> Any:
            kernel = super().build(op, case)
            kernel.id = "gemm_cpu_x"
            return kernel

    wanted = {Broken: "ZeroDivisionError: division by zero",
              Poser: "the kernel calls itself 'gemm_cpu_x', expected add_<dialect>_<variant>"}  # fmt: skip
    for backend, reason in wanted.items():
        records = core.check_case(backend(), ADD, SMALL)
        assert len(records) == len(ADD.kinds(SMALL))
        assert {(each.outcome, each.reason) for each in records} == {(FAIL, reason)}


def test_an_error_of_the_specification_is_not_blamed_on_the_kernel() -> None:
    class Absurd(type(ops.get("add"))):  # type: ignore[misc]
        def bounds(self, case: Case, inputs: Any, truth: Any) -> list[ErrorBound]:
            raise ValueError("a mistake in the specification")

    op = Absurd()
    with pytest.raises(ValueError, match="a mistake in the specification"):
        core.check_case(NumpyBackend(), op, op.case(M=2, D=4097))


def test_each_count_decides_by_itself_and_nothing_compared_is_no_pass(passed: list[Record]) -> None:
    for name in passed[0].counts:
        record = core.judged(replace(passed[0], counts={**passed[0].counts, name: 1}))
        assert record.outcome == FAIL and record.failed == (name,) and record.reason
    assert core.judged(replace(passed[0], outputs=())).outcome == FAIL


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("utilisation", {"utilisation": 1.001}),
        ("utilisation", {"utilisation": math.nan}),
        ("utilisation", {"utilisation": math.inf, "wrong": 1}),
        ("peer_ratio_f32", {"peer_ratio": 2.001}),
        ("peer_ratio_f32", {"peer_ratio": math.nan}),
        ("peer_ratio_f16", {"peer_ratio": 3.001, "dtype": "f16"}),
        ("f16_ulp_share", {"ulp_share": 0.0011}),
        ("exact_differences", {"rung": "exact", "threshold": "exact_differences", "wrong": 1}),
    ],
)
def test_each_threshold_decides_by_itself(passed: list[Record], name: str, change: dict[str, Any]) -> None:
    found = core.judged(replace(passed[0], outputs=(replace(passed[0].outputs[0], **change),)))
    assert found.outcome == FAIL and found.failed == (name,) and passed[0].outputs[0].name in found.reason


def test_every_threshold_of_the_contract_is_used(passed: list[Record]) -> None:
    used = {*passed[0].counts, *core.PEER.values(), "utilisation", "exact_differences", "f16_ulp_share"}
    assert used == set(contracts.load(core.CONTRACT).document["thresholds"])


def test_a_write_past_the_end_is_seen_where_a_handle_is_a_region_of_a_buffer() -> None:
    try:
        backend = registry.open_backend("opencl")
    except Unavailable as missing:
        pytest.skip(f"opencl: {missing}")
    guarded = Guarded(backend, Arg("y", "f32", (5,), "out"))
    assert guarded.changes() == 0
    text = "__kernel void ones(__global float *y) { y[get_global_id(0)] = 1.0f; }"
    ones = backend.cl.Kernel(backend.cl.Program(backend.context, text).build(), "ones")  # type: ignore[attr-defined]
    for items, changed in ((5, 0), (6, 4)):
        ones(backend.queue, (items,), None, guarded.buffer.handle)  # type: ignore[attr-defined]
        assert guarded.changes() == changed
    assert (backend.download(guarded.buffer) == 1).all()
    backend.close()


# The ratio of errors


def measured(got: Array, truth: Array, limit: Array, peer: Array) -> OutputRecord:
    return measure.measured(
        "case", Arg("y", "f32", got.shape, "out"), got, truth, ErrorBound(limit, "n roundings"), peer
    )


@pytest.mark.parametrize("n", [16, 256, 4096])
def test_a_sum_in_sequence_is_within_the_ratio_and_one_in_f16_is_not(n: int) -> None:
    """Both stay within the worst-case bound γ_n at n = 4096: only the ratio tells them apart."""
    rng = np.random.default_rng(n)
    terms = rng.standard_normal((200, n)).astype(np.float32)
    truth = terms.astype(np.float64).sum(axis=1)
    limit = n * 2.0**-24 * np.abs(terms.astype(np.float64)).sum(axis=1)
    pairwise = terms.sum(axis=1)
    sequence = np.zeros(200, np.float32)
    for column in terms.T:
        sequence += column
    right = measured(sequence, truth, limit, pairwise)
    assert right.wrong == 0 and right.peer_ratio is not None and right.peer_ratio < 1
    rounded = terms.astype(np.float16).astype(np.float32).sum(axis=1)
    wrong = measured(rounded, truth, limit, pairwise)
    assert wrong.peer_ratio is not None and wrong.peer_ratio > 2
    assert n < 4096 or wrong.wrong == 0


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 32, 256]), st.booleans(), st.booleans()
)
def test_a_sum_in_any_order_is_within_the_ratio(n: int, seed: int, lanes: int, outlier: bool, positive: bool) -> None:
    """Lanes that each take every so many terms in sequence, then one after another: from a loop to a work-group."""
    rng = np.random.default_rng(seed)
    terms = rng.standard_normal((64, n)).astype(np.float32)
    terms = np.abs(terms) if positive else terms
    terms[:, -1] *= 1000 if outlier else 1
    truth = terms.astype(np.float64).sum(axis=1)
    limit = n * 2.0**-24 * np.abs(terms.astype(np.float64)).sum(axis=1)
    partial = np.zeros((64, lanes), np.float32)
    for at in range(0, n, lanes):
        part = terms[:, at : at + lanes]
        partial[:, : part.shape[1]] += part
    total = partial[:, 0].copy()
    for lane in partial.T[1:]:
        total += lane
    found = measured(total, truth, limit, terms.sum(axis=1))
    assert found.wrong == 0 and found.peer_ratio is not None and found.peer_ratio <= 2


def test_a_worse_peer_admits_a_worse_result_and_a_lucky_peer_does_not_forbid_a_right_one() -> None:
    truth = 1 + np.arange(1000) * 2.0**-20
    limit = np.full(1000, 2.0**-22)
    got = (truth + 2.0**-23).astype(np.float32)
    lucky = measured(got, truth, limit, truth.astype(np.float32)).peer_ratio
    worse = measured(got, truth, limit, (truth + 2.0**-22).astype(np.float32)).peer_ratio
    assert lucky is not None and worse is not None and worse < lucky < 2


def test_truth_without_size_has_no_ratio() -> None:
    zeros = np.zeros(8)
    assert measured(np.full(8, 1e-9, np.float32), zeros, np.ones(8), np.zeros(8, np.float32)).peer_ratio is None
    tiny = np.full(8, 2.0**-120)
    assert measured(np.zeros(8, np.float32), tiny, tiny, tiny.astype(np.float32)).peer_ratio is None


def test_one_number_over_and_over_is_one_sample_and_has_no_ratio() -> None:
    truth, limit = np.repeat([3.0, 0.0], 500), np.full(1000, 1e-3)
    ratios = []
    for size in (3.0, 3.125):
        truth[7] = size
        got = (truth * (1 + 1e-5)).astype(np.float32)
        ratios.append(measured(got, truth, limit, truth.astype(np.float32)).peer_ratio)
    assert ratios[0] is None and ratios[1] > 2


def test_the_share_of_f16_elements_that_are_off_by_more_than_one_ulp() -> None:
    truth = np.linspace(1, 2, 1000).astype(np.float16)
    off = [truth.view(np.int16).copy() for _ in range(2)]
    off[0][:500] += 1
    off[1][:500] += 2
    shares = [measure.ulp_share(bits.view(np.float16), truth.astype(np.float64)) for bits in off]
    assert shares == [0.0, 0.5]
    assert measure.ulp_share(np.array([-0.0, np.nan], np.float16), np.array([0.0, np.nan])) == 0
    assert measure.ulp_share(np.array([1.0, np.nan], np.float16), np.array([np.nan, 1.0])) == 1


# Selection


@pytest.mark.parametrize(
    ("text", "taken", "refused"),
    [
        ("K=640,", "tgemv[K=640,M=1] random", "tgemv[K=6400,M=1] random"),
        ("a and b", "ab", "a"),
        ("a or b and c", "a", "b"),
        ("(a or b) and c", "bc", "a"),
        ("not a and b", "b", "ab"),
        ("not (a or b)", "c", "b"),
        ("not not A", "a", "c"),
    ],
)
def test_an_expression_takes_and_refuses(text: str, taken: str, refused: str) -> None:
    assert expression(text)(taken) and not expression(text)(refused)


@pytest.mark.parametrize(
    ("text", "column"),
    [("", 1), ("   ", 1), ("a and", 6), ("a b", 3), ("(a or b", 8), ("a )", 3), ("or a", 1), ("a and or b", 7),
     ("not", 4)],
)  # fmt: skip
def test_an_expression_that_cannot_be_read_names_the_column(text: str, column: int) -> None:
    with pytest.raises(WrongInput, match=f"column {column}: expected"):
        expression(text)


def test_misspelt_names_are_refused_with_the_nearest() -> None:
    assert named(["tgemv,rope", "add"], "op", ops.names()) == ["tgemv", "rope", "add"]
    with pytest.raises(UnknownName, match="did you mean 'tgemv'"):
        named(["tgmev"], "op", ops.names())
    for listed in (["tgemv,"], ["tgemv,rope", "rope"]):
        with pytest.raises(WrongInput, match=r"an empty name in 'tgemv,'|rope is named twice in tgemv,rope,rope"):
            named(listed, "op", ops.names())


def test_inputs_follow_from_seed_case_and_kind_alone() -> None:
    other = ADD.case(M=2, D=4)
    keys = ((SMALL, "random", 0), (SMALL, "tiny", 0), (SMALL, "random", 1), (other, "random", 0))
    digests = [facts(ADD, *key).sha256 for key in keys]
    assert len(set(digests)) == 4


# Counts and documents


def test_the_exit_code_is_green_for_passes_only(passed: list[Record]) -> None:
    wanted = (["numpy"], ["numpy", "cuda"], [])
    assert [Summary(passed[:1]).exit_code(names) for names in wanted] == [0, 3, 3]
    assert Summary([]).exit_code(["numpy"]) == 3


def test_every_sequence_of_up_to_four_outcomes_has_the_right_exit_code(passed: list[Record]) -> None:
    sequences = [each for length in range(5) for each in itertools.product(OUTCOMES, repeat=length)]
    assert len(sequences) == 341
    for outcomes in sequences:
        records = [replace(passed[0], outcome=outcome) for outcome in outcomes]
        green = PASS in outcomes and SKIPPED not in outcomes
        code = 1 if FAIL in outcomes else 0 if green else 3
        assert Summary(records).exit_code(["numpy"]) == code, outcomes


def test_the_four_outcomes_add_up_to_all_that_was_planned(passed: list[Record]) -> None:
    summary = Summary([*passed, replace(passed[0], outcome=SKIPPED, reason="x", kind="", runs=5)])
    tally = summary.by_op["numpy", "rmsnorm"]
    assert tally.total == len(passed) + 5 and tally.runs[PASS] == len(passed) and len(tally.cases) == 1


def test_a_record_survives_json(passed: list[Record]) -> None:
    odd = replace(passed[0].outputs[0], error=math.inf, got=math.nan, cosine=-math.inf)
    for record in (*passed, replace(passed[0], outputs=(odd,))):
        text = json.dumps(record.as_dict(), allow_nan=False)
        assert repr(Record.from_dict(json.loads(text))) == repr(record)


def test_json_follows_its_schema(passed: list[Record]) -> None:
    bad = replace(passed[0], outcome=FAIL, reason="x", failed=("utilisation",))
    skipped = replace(passed[0], outcome=SKIPPED, reason="x", kind="", runs=3, outputs=(), counts={})
    for records in (passed, [bad, skipped], []):
        text = document.as_json(result_of(records))
        found = json.loads(text)
        jsonschema.validate(found, schema_of("check"))
        assert sum(line.startswith('{"op"') for line in text.splitlines()) == len(records) == len(found["records"])
        assert found["contract"]["id"] == core.CONTRACT and found["seed"] == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.update(records=[]),
        lambda found: found["records"][0].update(outputs=[]),
        lambda found: (found.update(exit_code=1), found["records"][0].update(outcome=FAIL)),
        lambda found: found["records"][0].update(device=""),
        lambda found: found["records"][0]["outputs"][0].update(error=None),
    ],
    ids=["green", "unmeasured", "unreasoned", "device", "null"],
)
def test_the_schema_rejects_what_proves_nothing(passed: list[Record], spoil: Callable[[Any], object]) -> None:
    found = json.loads(document.as_json(result_of(passed)))
    msgspec.convert(found, document.Document, strict=False)
    spoil(found)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(found, document.Document, strict=False)


def test_junit_parses_and_counts_whatever_a_compiler_says(passed: list[Record]) -> None:
    bad = replace(passed[0], outcome=FAIL, reason='\x1b[31mundeclared <x> & "y"\x00 ]]>', failed=("utilisation",))
    skipped = replace(passed[0], outcome=UNSUPPORTED, reason="no <kernel>", runs=7)
    root = ET.fromstring(document.as_junit(result_of([passed[0], bad, skipped])))
    (suite,) = root.findall("testsuite")
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3", "failures": "1", "errors": "0", "skipped": "1"
    }  # fmt: skip
    (failure,) = suite.iter("failure")
    assert 'undeclared <x> & "y"' in str(failure.get("message")) and "limit" in str(failure.text)
    (left_out,) = suite.iter("skipped")
    assert left_out.get("message") == "UNSUPPORTED (7 kinds of input): no <kernel>"


def test_csv_has_a_line_per_output(passed: list[Record]) -> None:
    skipped = replace(passed[0], outcome=SKIPPED, reason='a,\t"b"\r\n\nc', outputs=())
    rows = list(csv.DictReader(io.StringIO(document.as_csv(result_of([*passed, skipped])), newline="")))
    assert len(rows) == len(passed) + 1
    assert rows[0]["outcome"] == PASS and float(rows[0]["output_utilisation"]) == passed[0].outputs[0].utilisation
    assert rows[-1]["reason"] == skipped.reason and rows[-1]["output_name"] == ""
