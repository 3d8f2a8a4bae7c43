"""Rules of ops, figures, ratios, gates and times alone: what each takes and refuses at its limits."""

from __future__ import annotations

from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kparity import contracts
from kparity.receipts.record import Row
from kparity.receipts.rules import graph, identity, ops, parity, ratios, speed
from tests.edits import Edit, both, change, drop, more, put, times
from tests.made_receipts import NOW, predicate_of, record, refusals

LIMITS = contracts.load(contracts.RECEIPT)

# --- single ops ---

GATHERED = both(
    change("ops.1", op="embed", case="embed[D=2,M=1,V=7,dtype=f16,row0=0,rows=7]", bytes=12),
    drop("ops.1.kernel", "ops.1.kernel_sha256"),
)
"""An op that computes nothing."""


@pytest.mark.parametrize(("edit", "refused"), [
    (lambda _: None, []),
    (times("ops.1.gflop_per_s", 1.0009), []), (times("ops.1.gflop_per_s", 0.9991), []),
    (times("ops.1.gflop_per_s", 1.0011), ["gflop_per_s"]), (times("ops.1.gflop_per_s", 0.9989), ["gflop_per_s"]),
    (more("ops.1.bytes", 1), ["bytes"]), (more("ops.1.bytes", -1), ["bytes"]),
    (put("ops.1.kernel", "tgemv_cuda_generic"), ["kernel"]), (put("ops.1.kernel", "rope_cuda_dp4a"), ["kernel"]),
    (drop("ops.1.kernel", "ops.1.kernel_sha256"), []),
    (both(put("ops.1.baseline", True), more("ops.1.bytes", 1)), []),
    (put("ops.1.op", "unheard_of"), []), (put("ops.1.op", "add"), ["case"]),
    (both(GATHERED, drop("ops.1.gflop_per_s")), []), (GATHERED, ["gflop_per_s"]),
    (lambda made: made["ops"][1].update(unit_s=None, gflop_per_s=None), []),
    (lambda made: made["ops"][1].update(unit_s=None), ["gflop_per_s"]),
])  # fmt: skip
def test_a_row_of_an_op_is_that_of_its_case(edit: Edit, refused: list[str]) -> None:
    assert refusals(ops.cases, edit, "ops", LIMITS) == [f"ops/1/{name}" for name in refused]


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-3", -3), ("1e-05", 1e-5), ("2.5", 2.5), ("token", "token"), ("f16", "f16"),
    (str((1 << 40) - 1), (1 << 40) - 1), (f"-{(1 << 40) - 1}", 1 - (1 << 40)),
])  # fmt: skip
def test_a_parameter_is_a_number_or_a_word(text: str, value: object) -> None:
    assert ops._value(text) == value and type(ops._value(text)) is type(value)


def test_a_parameter_beyond_any_shape_is_none() -> None:
    for text in (str(1 << 40), f"-{1 << 40}", "1e400"):
        with pytest.raises(ValueError):
            ops._value(text)
    for case in ("tgemv[K=4096]", "tgemv", "", "tgemv[K=4096,M=1,N=4096,ascale=token,out=f32,wscale=tensor", "x[a=1]"):
        assert ops.case_of(Row(name="x", op="tgemv", case=case)) is None, case


# --- figures and floors ---

FIGURES = ("unit_s", "gb_per_s", "ms_per_token.p10", "ms_per_token.p50", "ms_per_token.p90", "ms_per_token.p99",
           "floor_s", "of_bandwidth")  # fmt: skip


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(("factor", "refused"), [(1.0009, False), (0.9991, False), (1.0011, True), (0.9989, True)])
def test_a_figure_follows_from_the_samples(figure: str, factor: float, refused: bool) -> None:
    for row in (0, 1):
        edit = times(f"runs.0.measurements.{row}.{figure}", factor)
        where = f"runs/0/measurements/{row}/{figure.replace('.', '/')}"
        assert refusals(speed.figures, edit, "bench", LIMITS) == ([where] if refused else []), row
    for name in ("unit_s", "gb_per_s"):
        assert refusals(speed.figures, times(f"ops.1.{name}", factor), "ops", LIMITS) == (
            [f"ops/1/{name}"] if refused else []
        )


@pytest.mark.parametrize(("edit", "refused"), [
    (drop("runs.0.measurements.1.floor_s"), []), (drop("runs.0.measurements.1.unit_s"), ["unit_s"]),
    (drop("runs.0.measurements.1.of_bandwidth"), ["of_bandwidth"]),
    (drop("runs.0.measurements.1.gb_per_s"), ["gb_per_s"]),
    (both(put("runs.0.bandwidth", None), drop("runs.0.measurements.0")), ["floor_s", "of_bandwidth"]),
    (lambda made: made["runs"][0]["measurements"][1].update(bytes=0), ["gb_per_s", "floor_s", "of_bandwidth"]),
    (put("runs.0.measurements.1.depth", 1), ["name"]), (put("runs.0.measurements.1.name", "tg@1"), ["name"]),
    (change("runs.0.measurements.1", depth=1, name="tg@1"), []),
    (put("runs.0.measurements.1.phase", "prefill"), ["name"]),
    (put("runs.0.measurements.1.low_s", None), ["low_s", "limit"]),
    (put("runs.0.measurements.1.limit", "±2.1 % after 40 samples"), ["limit"]),
])  # fmt: skip
def test_what_a_row_of_a_model_tells(edit: Edit, refused: list[str]) -> None:
    found = refusals(speed.figures, edit, "bench", LIMITS)
    assert [each.partition("measurements/")[2][2:] for each in found] == refused


def test_a_row_stands_once_by_its_name() -> None:
    twice = lambda made: made["runs"][0]["measurements"].append(made["runs"][0]["measurements"][1])  # noqa: E731
    assert refusals(speed.figures, twice, "bench", LIMITS) == ["runs/0/measurements/2/name"]
    again = lambda made: made["ops"].append({**made["ops"][1], "baseline": True})  # noqa: E731
    assert refusals(speed.figures, again, "ops", LIMITS) == []


@pytest.mark.parametrize(("watts", "source", "refused"), [
    (0.0501, "x", False), (0.0499, "x", True), (19990.0, "x", False), (20010.0, "x", True), (100.0, None, True),
])  # fmt: skip
def test_energy_is_a_power_that_devices_have(watts: float, source: str | None, refused: bool) -> None:
    def edit(predicate: dict[str, Any]) -> None:
        row = predicate["runs"][0]["measurements"][1]
        row["energy_j_per_token"] = watts * median(row["samples_s"])
        predicate["runs"][0]["energy"] = {"source": source, "reason": None}

    where = ["runs/0/measurements/1/energy_j_per_token"]
    assert refusals(speed.figures, edit, "bench", LIMITS) == (where if refused else [])


def op_of(index: int, share: float) -> Edit:
    """A row of an op whose fastest sample takes ``share`` of what the memory needs."""

    def edit(predicate: dict[str, Any]) -> None:
        ceiling, row = predicate["ops"][0], predicate["ops"][index]
        best = ceiling["bytes"] * ceiling["units"] / min(ceiling["device_s"])
        sample = share * row["bytes"] * row["units"] / best
        row.update(device_s=[2 * sample, sample, 3 * sample], samples_s=[4 * sample] * 3)

    return edit


@pytest.mark.parametrize(("index", "share", "refused"), [
    (1, 0.801, False), (1, 0.799, True), (1, 5.0, False), (2, 1 / 63.9, False), (2, 1 / 64.1, True), (2, 5.0, False),
])  # fmt: skip
def test_no_op_is_faster_than_memory_or_cache(index: int, share: float, refused: bool) -> None:
    # The ceiling is of units as the op is, and the rule holds a sample, by either clock, of all its units against it.
    found = refusals(speed.floors, op_of(index, share), "ops", LIMITS)
    assert found == ([f"ops/{index}/samples_s"] if refused else [])
    assert refusals(speed.floors, both(op_of(index, share), put(f"ops.{index}.baseline", True)), "ops", LIMITS) == []


@pytest.mark.parametrize(("kind", "most"), [("gpu", 5e13), ("cpu", 5e12)])
def test_no_memory_is_faster_than_all_of_its_kind(kind: str, most: float) -> None:
    run = 0 if kind == "gpu" else 1
    for share, refused in ((0.999, []), (1.001, [f"runs/{run}"])):
        passes = [1e9 / most / share, 2.0, 3.0]
        only = lambda made, passes=passes: made["runs"][run].update(measurements=[], bandwidth={  # noqa: E731
            **made["runs"][run]["bandwidth"], "samples_s": passes, "bytes_per_s": 5e8})  # fmt: skip
        assert refusals(speed.floors, only, "bench", LIMITS) == refused
        row = lambda made, share=share: made["ops"][0].update(  # noqa: E731
            device_s=[made["ops"][0]["bytes"] * 4 / most / share] * 3, device={**made["ops"][0]["device"], "kind": kind}
        )
        assert refusals(speed.floors, both(drop("ops.2", "ops.1"), row), "ops", LIMITS) == (
            ["ops/0"] if refused else []
        )


@pytest.mark.parametrize(("kind", "most", "run"), [("gpu", 1e5, 0), ("cpu", 5e3, 1)])
def test_no_device_computes_more_than_all_of_its_kind(kind: str, most: float, run: int) -> None:
    from kparity.receipts import derived

    for share, refused in ((0.999, []), (1.001, [f"runs/{run}/measurements/0"])):

        def edit(predicate: dict[str, Any], share: float = share) -> None:
            model = record().model
            assert model is not None
            row = predicate["runs"][run]["measurements"][0]
            second = derived.operations(model) * row["units"] * 1e-12 / most / share
            row.update(samples_s=[second], device_s=[])
            predicate["runs"][run]["measurements"] = [row]
            predicate["runs"][run]["bandwidth"]["cache_bytes"] = 1 << 40
            predicate["runs"][run]["bandwidth"]["samples_s"] = [1e9 / 4e12]

        found = refusals(speed.floors, edit, "bench", LIMITS)
        assert [where for where in found if where.endswith("/0")] == refused


def test_a_model_whose_bytes_fit_a_cache_is_held_against_caches() -> None:
    def edit(cache: int, share: float) -> Edit:
        def of(predicate: dict[str, Any]) -> None:
            run = predicate["runs"][1]
            row = run["measurements"][1]
            nbytes = row["bytes"] * row["units"]
            best = run["bandwidth"]["bytes"] / min(run["bandwidth"]["samples_s"])
            row["samples_s"] = [share * nbytes / best]
            run["bandwidth"]["cache_bytes"] = int(nbytes) + cache
            predicate["runs"] = [run]

        return of

    for cache, share, refused in (
        (0, 1 / 63.9, False), (0, 1 / 64.1, True), (-1, 0.801, False), (-1, 0.799, True), (1, 0.5, False),
    ):  # fmt: skip
        found = refusals(speed.floors, edit(cache, share), "bench", LIMITS)
        assert found == (["runs/0/measurements/1/samples_s"] if refused else []), (cache, share)


@pytest.mark.parametrize(("edit", "refused"), [
    (times("runs.0.bandwidth.bytes_per_s", 1.0009), []),
    (times("runs.0.bandwidth.bytes_per_s", 1.0011), ["bytes_per_s"]),
    (times("runs.0.bandwidth.bytes_per_s", 0.9989), ["bytes_per_s"]),
    (put("runs.0.bandwidth.cache_bytes", 3 << 29), []),
    (put("runs.0.bandwidth.cache_bytes", (3 << 29) + 1), ["cache_bytes"]),
    (put("runs.0.bandwidth.cache_bytes", None), []),
])  # fmt: skip
def test_what_a_bandwidth_tells(edit: Edit, refused: list[str]) -> None:
    assert refusals(speed.floors, both(put("runs.0.measurements", []), edit), "bench", LIMITS) == [
        f"runs/0/bandwidth/{name}" for name in refused
    ]


def test_a_pass_that_never_leaves_the_caches_is_no_bandwidth() -> None:
    for size, refused in ((1 << 20, []), ((1 << 20) - 1, ["runs/0/bandwidth/bytes"])):
        small = lambda made, size=size: made["runs"][0].update(measurements=[], bandwidth={  # noqa: E731
            **made["runs"][0]["bandwidth"], "bytes": size, "samples_s": [1.0], "bytes_per_s": float(size)})  # fmt: skip
        assert refusals(speed.floors, small, "bench", LIMITS) == refused


def test_an_op_has_a_bandwidth_of_its_backend_beside_it() -> None:
    assert refusals(speed.floors, put("ops.0.bytes", 0), "ops", LIMITS) == ["ops/0/bytes", "ops/1", "ops/2"]
    assert refusals(speed.floors, put("ops.0.backend", "hip"), "ops", LIMITS) == ["ops/1", "ops/2"]
    assert refusals(speed.ran, drop("ops.1.device_s"), "ops") == ["ops/1/device_s"]
    assert refusals(speed.ran, put("ops.1.errors", ["a", "b"]), "ops") == ["ops/1/errors"] * 2
    assert refusals(speed.ran, put("runs.0.errors", ["a", "b"])) == ["runs/0/errors/0", "runs/0/errors/1"]
    assert refusals(speed.ran, lambda made: [run.update(measurements=[]) for run in made["runs"]]) == ["runs"]
    assert refusals(speed.ran, put("runs.0.measurements", [])) == [] == refusals(speed.ran, lambda _: None, "probe")
    assert (
        refusals(speed.ran, put("ops", []), "ops") == ["runs"]
        and refusals(speed.ran, put("baselines.0.measurements.0.errors", ["x"])) == []
    )


# --- ratios ---


@pytest.mark.parametrize(("middle", "low", "high", "share", "said"), [
    (1.5, 1.0, 2.0, None, ""), (1.5, 0.999, 2.0, None, "its interval spans 0.999 to 2"),
    (1.5, 0.0, 2.0, None, "its interval"),
    (100.0, 99.0, 101.0, None, ""), (100.1, 99.0, 101.0, None, "a factor of 100"), (1.5, 1.4, 1.6, 0.02, ""),
    (1.5, 1.4, 1.6, 0.0199, "the baseline moves 1.99% of"), (1.0, 0.9, 1.1, 0.0199, ""),
    (1.01, 0.9, 1.1, 0.0, "the baseline"),
])  # fmt: skip
def test_a_ratio_is_doubted(middle: float, low: float, high: float, share: float | None, said: str) -> None:
    found = ratios.doubt(middle, low, high, share)
    assert found.startswith(said) and bool(found) is bool(said)


def test_a_share_of_the_bandwidth() -> None:
    memory: Any = SimpleNamespace(bytes_per_s=1000.0)
    assert ratios.share(Row(name="a", bytes=50, units=4), Row(name="b", unit_s=2.0), memory) == 0.1
    for ours, theirs, held in ((0, 2.0, memory), (50, None, memory), (50, 2.0, None)):
        assert ratios.share(Row(name="a", bytes=ours), Row(name="b", unit_s=theirs), held) is None


@pytest.mark.parametrize(("edit", "refused"), [
    (lambda _: None, []), (times("baselines.0.ratios.0.ratio", 1.0009), []),
    (times("baselines.0.ratios.0.ratio", 1.0011), ["0/ratio"]),
    (times("baselines.0.ratios.0.ratio", 0.9989), ["0/ratio"]),
    (put("baselines.0.ratios.1.doubt", "x"), ["1/doubt"]), (put("baselines.0.ratios.0.doubt", ""), ["0/doubt"]),
    (put("baselines.0.ratios.0.backend", "hip"), ["0", ""]), (drop("baselines.0.ratios.1"), [""]),
])  # fmt: skip
def test_a_ratio_follows_from_both_sides(edit: Edit, refused: list[str]) -> None:
    wheres = [f"baselines/0/ratios/{each}".rstrip("/") for each in refused]
    assert sorted(refusals(ratios.ratios, edit, "bench", LIMITS)) == sorted(wheres)


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize(("share", "refused"), [(0.24, False), (0.26, True), (-0.24, False), (-0.26, True)])
def test_the_interval_of_a_ratio_is_that_of_its_samples(end: str, share: float, refused: bool) -> None:
    def edit(predicate: dict[str, Any]) -> None:
        each = predicate["baselines"][0]["ratios"][0]
        each[end] += share * (each["high"] - each["low"])

    found = refusals(ratios.ratios, edit, "bench", LIMITS)
    assert found == (["baselines/0/ratios/0/low"] if refused else [])


# --- gates, sizes and times ---


@pytest.mark.parametrize(("name", "value", "possible"), [
    ("a_cosine", 1 + 1e-6, True), ("a_cosine", 1 + 3e-6, False), ("a_cosine", -1 - 3e-6, False),
    ("a_cosine", -1.0, True),
    ("a_noise", -1e-7, True), ("a_noise", -2e-6, False), ("a_noise", 0.5, True), ("a_wrong", 0.5, False),
    ("a_wrong", 3.0, True),
    ("a_noise", None, True), *((f"a{end}", 1.5, False) for end in parity.COUNTED),
])  # fmt: skip
def test_a_measure_has_a_value_that_it_can_have(name: str, value: float | None, possible: bool) -> None:
    assert bool(parity.impossible(name, value)) is not possible


@pytest.mark.parametrize(("edit", "refused"), [
    (lambda _: None, []), (put("runs.0.timed_output.cosine", 0.99), []),
    (put("runs.0.timed_output.cosine", 0.9899), ["cosine"]),
    (put("runs.0.timed_output.cosine", None), ["cosine"]), (put("runs.0.timed_output.limit", 0.9899), ["limit"]),
    (put("runs.0.timed_output.limit", None), ["limit"]),
    (change("runs.0.timed_output", limit=0.995, cosine=0.994), ["cosine"]),
    (change("runs.0.timed_output", limit=0.995, cosine=0.995), []),
    (put("runs.0.timed_output.checked", False), ["checked"]),
    (put("runs.0.timed_output.passed", False), ["cosine"]), (put("runs.0.timed_output.cosine", 2.0), ["cosine"]),
    (put("runs.0.timed_output", None), []),
    (both(put("runs.0.timed_output.checked", False), put("runs.0.parity.verdict", "FAIL")), []),
])  # fmt: skip
def test_what_was_timed_was_verified(edit: Edit, refused: list[str]) -> None:
    assert refusals(parity.outputs, edit) == [f"runs/0/timed_output/{name}" for name in refused]


@pytest.mark.parametrize(("verdicts", "kind", "depth", "refused"), [
    (("PASS", "PASS"), "bench", "full", 0), (("PASS", "FAIL"), "bench", "full", 0),
    (("FAIL", "FAIL"), "bench", "full", 1),
    (("PASS", "INVALID-CORRECTNESS"), "bench", "full", 1), (("PASS", "PASS"), "probe", "bos", 1),
    (("PASS", "PASS"), "probe", "soak", 0),
    (("PASS", "PASS"), "bench", "bos", 0), (("INVALID-CORRECTNESS",) * 2, "bench", "full", 3),
])  # fmt: skip
def test_parity_is_required_of_every_run_that_was_not_rejected(
    verdicts: tuple[str, str], kind: str, depth: str, refused: int
) -> None:
    edit = both(
        put("request.options.depth", depth),
        *(put(f"runs.{at_}.parity.verdict", each) for at_, each in enumerate(verdicts)),
    )
    assert len(refusals(parity.required, edit, kind)) == refused
    assert refusals(parity.required, lambda _: None, "ops") == []


def test_a_file_is_as_large_as_its_tensors() -> None:
    from kparity.receipts import derived

    model = record().model
    assert model is not None
    least, most = derived.tensor_bytes(model)
    for size, refused in ((least - 1, 1), (least, 0), (most + (1 << 28), 0), (most + (1 << 28) + 1, 1)):
        assert refusals(graph.graph, put("model.bytes", size), "bench", LIMITS) == ["model/bytes"] * refused
    for factor, refused in ((1.0009, 0), (1.0011, 1), (0.9989, 1)):
        found = refusals(graph.graph, times("runs.0.measurements.1.bytes", factor), "bench", LIMITS)
        assert found == ["runs/0/measurements/1/bytes"] * refused


@pytest.mark.parametrize(("edit", "refused"), [
    (lambda _: None, []), (put("ended", "2026-11-20T12:05:00Z"), []), (put("ended", "2026-11-20T12:05:01Z"), ["ended"]),
    (put("begun", "2025-11-20T00:00:00Z"), []), (put("begun", "2025-11-19T23:59:59Z"), ["begun"]),
    (put("begun", "2026-11-20T12:00:01Z"), ["ended"]), (put("begun", "2026-02-30T00:00:00Z"), ["begun"]),
    (put("ended", "2026-02-30T00:00:00Z"), ["ended"]),
])  # fmt: skip
def test_times_of_a_receipt(edit: Edit, refused: list[str]) -> None:
    assert refusals(identity.times, edit, "bench", LIMITS, NOW) == refused


def test_a_receipt_lasts_as_long_as_its_samples() -> None:
    def lasting(change_: float, kind: str, counted: float) -> list[str]:
        begun = identity.moment(predicate_of(kind)["ended"])
        assert begun is not None
        start = np.datetime64(begun.replace(tzinfo=None)) - np.timedelta64(round(1e6 * (counted + change_)), "us")
        return refusals(identity.times, put("begun", f"{start}Z"), kind, LIMITS, NOW)

    given = record()
    bench = sum(sum(row.samples_s) + sum(row.device_s) for _, row, _ in given.rows())
    bench += sum(sum(run.bandwidth.samples_s) for run in given.runs if run.bandwidth)
    walled = sum(sum(row.samples_s) for row in record(kind="ops").ops)
    for kind, counted in (("bench", bench), ("ops", walled), ("probe", 9e-3)):
        assert lasting(-1e-3, kind, counted) == [] and lasting(-3e-3, kind, counted) == ["ended"], kind


@pytest.mark.parametrize(("changes", "refused"), [
    ({}, 0), ({"dirty": True}, 1), ({"dirty": True, "changed": ["a"]}, 0), ({"changed": ["a"]}, 1),
    ({"dirty": None}, 1),
    ({"dirty": None, "commit": "unknown"}, 0), ({"commit": "unknown"}, 1), ({"commit": "0" * 40}, 1),
    ({"dirty": True, "changed": ["a", "a"]}, 1),
])  # fmt: skip
def test_a_commit_does_not_contradict_itself(changes: dict[str, Any], refused: int) -> None:
    assert refusals(identity.revision, change("harness", **changes)) == ["harness/dirty"] * refused
