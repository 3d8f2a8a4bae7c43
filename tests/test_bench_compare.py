"""``kparity bench compare``: every verdict, every refusal, and every kind of document."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity.bench import comparison
from kparity.bench.comparison import ABSURD, FASTER, INVALID, SAME, SLOWER, TOO_FEW, doubt, facts_of, ratio, read
from kparity.cli.main import main
from kparity.device.adapter import Device
from kparity.errors import WrongInput
from tests import made_receipts

DEVICE = {"device": "Test CPU", "kind": "cpu", "api": "native", "driver": "", "uuid": "", "detail": "AVX2, 2 threads"}
CUDA = {"device": "Test GPU", "kind": "gpu", "api": "CUDA", "driver": "600.1", "uuid": "GPU-1", "detail": "9.0"}
OURS = {"backend": "x", "library": "", **DEVICE}
MADE = made_receipts.receipt("cpu")["predicate"]
MADE_OPS = made_receipts.ops_receipt("cpu")["predicate"]


def samples(middle: float, count: int = 40, noise: float = 0.01, seed: int = 1) -> list[float]:
    return [float(each) for each in middle * (1 + noise * np.random.default_rng(seed).standard_normal(count))]


def run_of(backend: str = "cpu", device: dict[str, str] | None = None, **times: list[float]) -> dict[str, Any]:
    """A run of a receipt; measurements are named as keywords, with _ for @."""
    run, made = copy.deepcopy(MADE["runs"][0]), MADE["runs"][0]["measurements"][0]
    rows = [{**made, "name": name.replace("_", "@"), "samples_s": found, "errors": []} for name, found in times.items()]
    return {**run, "backend": backend, "device": {**run["device"], **(device or DEVICE)}, "measurements": rows}


def receipt(*runs: dict[str, Any], model: str = "a" * 64, ops: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    more = {"harness": {**MADE["harness"], "commit": "c0ffee" + "0" * 34, "dirty": False}, "baselines": []}
    predicate = {**MADE, **more, "model": {**MADE["model"], "sha256": model}, "runs": list(runs), "ops": list(ops)}
    return {**made_receipts.receipt("cpu"), "predicate": predicate}


def op_row(middle: float, **more: Any) -> dict[str, Any]:
    made = {**MADE_OPS["ops"][1], "device": OURS, "case": "tgemv[K=1]", "state": "cold", "units": 10}
    return {**made, "device_s": samples(10 * middle), **more}


def suite(
    data: list[float] | None, extra: dict[str, Any] | None = None, name: str = "bench/test_x.py::test_y[cpu]"
) -> Any:
    stats = {"median": 1.0} if data is None else {"median": float(np.median(data)), "data": data}
    one = {"name": "test_y[cpu]", "fullname": name, "stats": stats, "extra_info": extra or {}}
    machine = {"node": "n", "cpu": {"brand_raw": "Test CPU"}}
    return {"machine_info": machine, "commit_info": {"id": "abc", "dirty": True}, "benchmarks": [one]}


def write(folder: Path, name: str, document: Any) -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def command(*arguments: str) -> tuple[int, str, str]:
    """``kparity bench compare ARGUMENTS``: exit code, stdout, stderr."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error), pytest.raises(SystemExit) as ended:
        main(["bench", "compare", *arguments])
    return int(ended.value.code or 0), out.getvalue(), error.getvalue()


@pytest.fixture(autouse=True)
def believed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipts of most tests are no whole ones: only those marked ``verified`` ask the verifier."""
    if "verified" not in request.fixturenames:
        monkeypatch.setattr(comparison.verify, "verify", lambda _document: [])


@pytest.fixture
def verified() -> None:
    """The verifier decides."""


class Compared:
    """The command over two documents."""

    def __init__(self, folder: Path, a: Any, b: Any, *arguments: str) -> None:
        paths = [write(folder, name, document) for name, document in (("a.json", a), ("b.json", b))]
        self.code, out, self.error = command(*map(str, paths), "--json", "-", *arguments)
        self.document = json.loads(out) if out else {}
        self.rows = {row["name"]: row for row in self.document.get("rows", [])}


# --- ratios ---


def test_a_ratio_is_that_of_medians_and_its_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(60):
        middle, low, high = ratio(samples(2.0, seed=seed, noise=0.05), samples(1.0, seed=1000 + seed, noise=0.05))
        assert low <= middle <= high
        covered += low <= 2.0 <= high
    assert covered >= 52, "of 60, where 57 are expected"
    assert ratio([2.0] * 5, [1.0] * 5) == (2.0, 2.0, 2.0)
    for wrong in ([], [0.0], [float("nan")]):
        with pytest.raises(ValueError, match="a ratio needs"):
            ratio(wrong, [1.0])


def test_equal_runs_are_rarely_called_different() -> None:
    apart = 0
    for seed in range(60):
        _, low, high = ratio(samples(1.0, seed=seed, noise=0.05), samples(1.0, seed=1000 + seed, noise=0.05))
        apart += not low <= 1 <= high
    assert apart <= 8


@pytest.mark.parametrize(
    ("found", "share", "why"),
    [
        ((1.5, 1.4, 1.6), 0.5, ""),
        ((0.001, 0.0009, 0.0011), 0.001, ""),
        ((1.5, 0.9, 2.1), None, "its interval spans 0.9 to 2.1"),
        ((2717.0, 2600.0, 2800.0), None, "a factor of 2.72e+03"),
        ((9.0, 8.9, 9.1), 0.004, "the baseline moves 0.40% of what the memory can"),
    ],
)
def test_an_absurd_ratio_is_no_comparison(found: tuple[float, float, float], share: float | None, why: str) -> None:
    assert doubt(*found, share).startswith(why) and bool(doubt(*found, share)) == bool(why)


# --- verdicts ---


def test_a_bandwidth_without_bytes_is_refused_and_no_traceback(tmp_path: Path, verified: None) -> None:
    forged = made_receipts.ops_receipt("cpu")
    forged["predicate"]["ops"] = forged["predicate"]["ops"][:2]
    del forged["predicate"]["ops"][0]["bytes"]
    found = Compared(tmp_path, forged, forged)
    assert found.code == 3 and {row["verdict"] for row in found.rows.values()} == {INVALID}


def test_absurd_ratios_decide_nothing(tmp_path: Path) -> None:
    a, noisy = receipt(run_of(tg_0=samples(1.0))), [0.1, 1.0, 10.0] * 4
    for after in (samples(1e-3, seed=2), noisy):
        found = Compared(tmp_path, a, receipt(run_of(tg_0=after)))
        assert found.code == 3 and found.rows["cpu tg@0"]["verdict"] == ABSURD and found.rows["cpu tg@0"]["reason"]


def test_many_samples_take_little_memory() -> None:
    middle, low, high = ratio(np.full(1 << 18, 2.0), np.full(5, 1.0))
    assert (middle, low, high) == (2.0, 2.0, 2.0)


def test_what_the_verifier_refuses_counts_for_nothing(tmp_path: Path, verified: None) -> None:
    right = made_receipts.receipt("cpu")
    assert {row["verdict"] for row in Compared(tmp_path, right, right).rows.values()} == {SAME}
    forged = copy.deepcopy(right)
    for row in forged["predicate"]["runs"][0]["measurements"]:
        row["samples_s"] = [each / 2 for each in row["samples_s"]]
    found = Compared(tmp_path, right, forged, "--fail-below", "0.5")
    assert found.code == 1 and {row["verdict"] for row in found.rows.values()} == {INVALID}
    assert all("B: kparity receipt verify refuses it: RCPT-" in row["reason"] for row in found.rows.values())


@pytest.mark.parametrize(("after", "verdict"), [(1.0, FASTER), (2.0, SAME), (4.0, SLOWER)])
def test_the_verdict_is_where_the_interval_lies(tmp_path: Path, after: float, verdict: str) -> None:
    a, b = receipt(run_of(tg_0=samples(2.0))), receipt(run_of(tg_0=samples(after, seed=2)))
    found = Compared(tmp_path, a, b)
    row = found.rows["cpu tg@0"]
    assert found.code == 0 and row["verdict"] == verdict and row["low"] <= row["ratio"] <= row["high"]
    assert row["ratio"] == pytest.approx(2.0 / after, rel=0.02)
    origin = {"path": str(tmp_path / "a.json"), "kind": "receipt", "commit": "c0ffee" + "0" * 34, "dirty": False}
    assert found.document["a"] == origin


def test_fail_below_asks_for_the_whole_interval(tmp_path: Path) -> None:
    a, b = receipt(run_of(tg_0=samples(1.0))), receipt(run_of(tg_0=samples(1.25, seed=2)))
    assert Compared(tmp_path, a, b, "--fail-below", "0.95").code == 1
    assert Compared(tmp_path, a, b, "--fail-below", "0.75").code == 0
    noisy = receipt(run_of(tg_0=samples(1.06, noise=0.2, seed=3)))
    assert Compared(tmp_path, a, noisy, "--fail-below", "0.95").code == 0, "the interval reaches above it"
    assert Compared(tmp_path, a, b, "--fail-below", "0").code == 2


def test_few_samples_decide_nothing(tmp_path: Path) -> None:
    found = Compared(tmp_path, receipt(run_of(tg_0=[1.0] * 4)), receipt(run_of(tg_0=[2.0] * 40)), "--fail-below", "0.9")
    assert found.code == 3 and found.rows["cpu tg@0"]["verdict"] == TOO_FEW and found.rows["cpu tg@0"]["ratio"] is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: run["parity"].update(verdict="INVALID-CORRECTNESS"), "parity verdict is INVALID-CORRECTNESS"),
        (lambda run: run["parity"].update(verdict="FAIL"), "parity verdict is FAIL"),
        (lambda run: run["timed_output"].update(passed=False), "not verified"),
        (lambda run: run["errors"].append("other bits in a repeat"), "other bits"),
        (lambda run: run["measurements"][0]["errors"].append("faster than the floor"), "faster than the floor"),
    ],
)
def test_a_number_without_proof_gets_no_ratio(tmp_path: Path, change: Any, reason: str) -> None:
    right, wrong = run_of(tg_0=samples(2.0)), run_of(tg_0=samples(1.0))
    change(wrong)
    found = Compared(tmp_path, receipt(right), receipt(wrong), "--fail-below", "0.5")
    row = found.rows["cpu tg@0"]
    assert row["verdict"] == INVALID and reason in row["reason"] and row["ratio"] is None
    assert found.code == 1, "fast and wrong is no pass"
    assert Compared(tmp_path, receipt(right), receipt(wrong)).code == 3, "nothing was decided"
    before = Compared(tmp_path, receipt(wrong), receipt(right), "--fail-below", "0.5")
    assert before.code == 3 and before.rows["cpu tg@0"]["reason"].startswith("A: ")


def test_what_only_one_side_has_is_named(tmp_path: Path) -> None:
    a = receipt(run_of(tg_0=samples(1.0), pp32=samples(1.0)))
    found = Compared(tmp_path, a, receipt(run_of(tg_0=samples(1.0), pp128=samples(1.0))))
    assert found.document["only_a"] == ["cpu pp32"] and found.document["only_b"] == ["cpu pp128"]
    assert "only in A: cpu pp32" in found.error and found.code == 0
    nothing = Compared(tmp_path, receipt(run_of(pp32=samples(1.0))), receipt(run_of(pp128=samples(1.0))))
    assert nothing.code == 3 and "nothing in common" in nothing.error


# --- refusals ---


@pytest.mark.parametrize(
    ("fact", "b"),
    [
        ("device", receipt(run_of("cuda", {**CUDA, "device": "Other GPU"}, tg_0=samples(1.0)))),
        ("device", receipt(run_of("cuda", {**CUDA, "uuid": "GPU-2"}, tg_0=samples(1.0)))),
        ("device", receipt(run_of("cuda", {**CUDA, "kind": "software"}, tg_0=samples(1.0)))),
        ("driver", receipt(run_of("cuda", {**CUDA, "driver": "600.2"}, tg_0=samples(1.0)))),
        ("model", receipt(run_of("cuda", CUDA, tg_0=samples(1.0)), model="b" * 64)),
        ("threads", receipt(run_of("cuda", {**CUDA, "detail": "3 threads"}, tg_0=samples(1.0)))),
    ],
)
def test_different_things_are_not_compared_unless_told(tmp_path: Path, fact: str, b: Any) -> None:
    a = receipt(run_of("cuda", CUDA, tg_0=samples(1.0)))
    refused = Compared(tmp_path, a, b)
    assert refused.code == 2 and not refused.document and f"--across {fact}" in refused.error
    told = Compared(tmp_path, a, b, "--across", ",".join({fact, "model"}))
    assert told.code == 0 and list(told.document["differs"]) == [fact] and f"across {fact}" in told.error
    others = ",".join({"device", "driver", "model", "threads"} - {fact})
    assert Compared(tmp_path, a, b, "--across", others).code == 2


NEGATIVE = suite([1.0, -1.0])
PROBE = receipt()
PROBE["predicate"]["kind"] = "probe"
LACKING = receipt(run_of(tg_0=samples(1.0)))
del LACKING["predicate"]["runs"][0]["device"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("", "not a receipt that can be read"),
        ('{"predicateType": ', "not a receipt that can be read"),
        ([], "an object must be"),
        ({"schema": "kparity-check-v1"}, "another kind of document"),
        (PROBE, "receipt of kparity probe"),
        (LACKING, "lacks what a benchmark holds (Object missing required field `device`"),
        (NEGATIVE, "lacks what a benchmark holds (Expected `float` >= 1e-12"),
        (suite(None), "holds no raw samples"),
        (suite([1.0] * (1 << 20) + [1.0]), "holds more than 1048576 samples"),
        (suite([1.0], name=["a"]), "lacks what a benchmark holds (Expected `str`"),  # type: ignore[arg-type]
        ({**suite([1.0]), "commit_info": {"id": 7}}, "lacks what a benchmark holds (Expected `str"),
        ({**suite([1.0]), "commit_info": "\ud800"}, "surrogates not allowed"),
        ({**suite([1.0]), "machine_info": 10**30}, "more than 64 bits"),
        ('{"benchmarks": ' + "[" * 100_000, "nested too deeply"),
        (receipt(ops=[op_row(1.0, units=0)]), "lacks what a benchmark holds (Expected `int` >= 1"),
        (receipt(run_of(tg_0=[1.0, float("nan")])), "NaN is not a number"),
        ({"payloadType": "x", "payload": "%%%", "signatures": []}, "not base64"),
        (receipt(run_of(tg_0=[1.0]), run_of(tg_0=[1.0])), "holds cpu tg@0 twice"),
    ],
)
def test_what_is_no_benchmark_is_refused(tmp_path: Path, document: Any, reason: str) -> None:
    path = write(tmp_path, "x.json", document)
    with pytest.raises(WrongInput) as refused:
        read(path)
    assert reason in str(refused.value) and str(path) in str(refused.value)


def test_bad_input_is_named(tmp_path: Path) -> None:
    code, _, error = command(str(tmp_path / "no.json"), str(tmp_path / "no.json"))
    assert code == 2 and "cannot be read" in error and "Traceback" not in error
    same = receipt(run_of(tg_0=samples(1.0)))
    found = Compared(tmp_path, same, same, "--across", "devise")
    assert found.code == 2 and "did you mean 'device'" in found.error


# --- kinds of documents ---


def test_rows_of_ops_are_compared_per_launch(tmp_path: Path) -> None:
    stream = {**op_row(1.0), "op": "stream", "case": "", "state": ""}
    a = receipt(ops=[op_row(2e-6), op_row(1e-6, state="hot"), stream, op_row(1.0, state="died", device_s=[])])
    b = receipt(ops=[op_row(1e-6), op_row(1e-6, state="hot", errors=["output wrong"]), stream])
    found = Compared(tmp_path, a, b)
    assert found.rows["cpu tgemv[K=1] cold"]["ratio"] == pytest.approx(2, rel=0.02)
    assert found.rows["cpu tgemv[K=1] cold"]["a_median_s"] == pytest.approx(2e-6, rel=0.02)
    assert found.rows["cpu tgemv[K=1] hot"]["verdict"] == INVALID and "cpu stream" in found.rows
    slow = receipt(ops=[op_row(1e-6, device={**OURS, "detail": "AVX2, 1 thread"})])
    assert "numbers of threads" in Compared(tmp_path, a, slow).error


def test_files_of_pytest_benchmark_are_read(tmp_path: Path) -> None:
    extra = {"device": OURS, "verified": True}
    found = Compared(tmp_path, suite(samples(1.0), extra), suite(samples(0.5), extra))
    assert found.rows["bench/test_x.py::test_y[cpu]"]["verdict"] == FASTER
    assert found.document["b"] == {
        "path": str(tmp_path / "b.json"), "kind": "pytest-benchmark", "commit": "abc", "dirty": True,
    }  # fmt: skip
    assert Compared(tmp_path, suite(samples(1.0), extra), suite(samples(1.0), {"device": {**OURS, **CUDA}})).code == 2
    unverified = Compared(tmp_path, suite(samples(1.0), extra), suite(samples(1.0), {**extra, "verified": False}))
    assert unverified.rows["bench/test_x.py::test_y[cpu]"]["verdict"] == INVALID
    foreign = read(write(tmp_path, "foreign.json", suite(samples(1.0))))
    assert foreign.measured[0].facts["device"] == "Test CPU"


def test_a_signed_receipt_is_read_from_its_envelope(tmp_path: Path) -> None:
    inner = receipt(run_of(tg_0=samples(1.0)))
    envelope = {"payloadType": "application/vnd.in-toto+json", "signatures": [],
                "payload": base64.b64encode(json.dumps(inner).encode()).decode()}  # fmt: skip
    found = Compared(tmp_path, envelope, inner)
    assert found.code == 0 and found.rows["cpu tg@0"]["verdict"] == SAME


def test_threads_are_those_of_the_detail() -> None:
    made = [msgspec.convert({**OURS, **each}, Device) for each in (DEVICE, {"detail": "NEON, 1 thread"}, CUDA)]
    assert [facts_of(each)["threads"] for each in made] == ["2", "1", ""]
    assert facts_of(made[2]) == {"device": "Test GPU, gpu, CUDA, GPU-1", "driver": "600.1", "threads": ""}


def test_the_table_is_for_people(tmp_path: Path) -> None:
    paths = [str(write(tmp_path, f"{at}.json", receipt(run_of(tg_0=samples(at))))) for at in (2.0, 1.0)]
    code, out, _ = command(*paths)
    assert code == 0 and all(part in out for part in ("cpu tg@0", "faster", "2 ×", "1 s")) and "\x1b[" not in out
