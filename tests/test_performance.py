"""docs/performance.md follows from what was saved: targets are met or missed by right outputs alone, and a run that
fails costs itself.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from kparity.bench import shapes
from kparity.bench.ops.cases import plan
from kparity.cli.bench import bench as command

pytest.importorskip("jinja2", reason="the extra receipts is not installed")
from tools import performance

ROOT = Path(__file__).resolve().parent.parent


def measured(point: str, tokens_per_s: float, **more: Any) -> dict[str, Any]:
    low, high, ms = tokens_per_s * 0.99, tokens_per_s * 1.01, {"p50": 1e3 / tokens_per_s}
    return {"name": point, "tokens_per_s": tokens_per_s, "low": low, "high": high, "ms_per_token": ms,
            "of_bandwidth": 0.9, "bytes_per_token": 10**8, "errors": [], **more}  # fmt: skip


def run(rate: float, *points: str, theirs: float = 10.0, **more: Any) -> dict[str, Any]:
    """A saved run: ``rate`` tokens/s on the cpu backend, ``theirs`` in llama.cpp."""
    names = points or ("tg@0",)
    ratios = [{"backend": "cpu", "name": name, "ratio": rate / theirs, "low": 1.0, "high": 99.0} for name in names]
    baseline = {"name": "llama.cpp", "errors": [], "ratios": ratios,
                "measurements": [measured(name, theirs) for name in names]}  # fmt: skip
    kernels = [{"id": "tgemv_avx2_dp4a", "launches_per_step": 7, "device_ns": 1e6},
               {"id": "attention_avx2_f16", "launches_per_step": 2, "device_ns": 5e5}]  # fmt: skip
    engine = {
        "backend": "cpu", "device": {"device": "Xeon", "kind": "cpu"}, "parity": "PASS", "errors": [],
        "bandwidth": {"bytes_per_s": 2e10}, "kernels": kernels, "timed_output": {"cosine": 0.9999},
        "measurements": [measured(name, rate) for name in names], **more,
    }  # fmt: skip
    host = {"cpu": "Xeon", "cpus": 2, "memory_bytes": 1 << 34, "system": "Linux"}
    result = {
        "host": host,
        "model": {"layers": 6},
        "runs": [engine],
        "baselines": [baseline],
        "fallback": [],
        "ops": [],
    }
    return {"command": "kparity bench …", "begun": "2026-01-01T00:00:00Z", "load": 0.1, "commit": "a" * 40,
            "dirty": False, "code": 0, "said": [], "seconds": 2.0, "verify": [], "verify_gpu": ["RCPT-FALLBACK-ONLY"],
            "result": result}  # fmt: skip


def claims(runs: dict[str, Any], section: str) -> dict[str, list[str]]:
    """Verdicts by target."""
    found = dict[str, list[str]]()
    for claim in performance.claims(performance.Results({"runs": runs}))[section]:
        found.setdefault(claim.target, []).append(claim.verdict)
    return found


BOTH = {"6:32000, 2 threads": run(20.0), "6:32000, 1 thread": run(15.0)}


# --- what is committed ---


def test_the_page_is_what_the_committed_results_give() -> None:
    saved = json.loads(performance.SAVED.read_text(encoding="utf-8"))
    assert saved["schema"] == performance.SCHEMA and performance.SAVED.stat().st_size < 1_000_000
    assert set(saved["runs"]) == set(performance.FACTS["runs"])
    page = performance.PAGE.read_text(encoding="utf-8")
    assert performance.page(saved) == page, "run python -m tools.performance --render"


def test_every_run_can_be_started_and_is_asked_for() -> None:
    runs = performance.FACTS["runs"]
    assert {name for each in performance.FACTS["sections"].values() for name in each["runs"]} == set(runs)
    for name, text in runs.items():
        program, *rest = performance.command(text.replace(" F16 ", " file "))
        assert Path(program).exists(), name
        if text.startswith("python"):
            assert (ROOT / rest[1].replace(".", "/")).with_suffix(".py").is_file()
            continue
        with command.make_context("bench", shlex.split(text)[2:]) as context:
            options = context.params
        if options["shape"]:
            shapes.parse(options["shape"])
        if options["ops_expression"]:
            served = {(case["params"]["N"], case["params"]["K"]) for case in plan(options["ops_expression"])
                      if case["op"] == "tgemv"}  # fmt: skip
            assert served == set(performance.GEMVS)


# --- targets ---


def test_a_target_is_met_missed_or_not_measured() -> None:
    found = claims(BOTH, "decode")
    assert found["decode_ratio_6"] == ["met"] and found["decode_ratio_24"] == ["not measured"]
    assert found["scaling"][0] == "**missed**", "20 over 15 is no 1.8"
    slower = {**BOTH, "6:32000, 1 thread": run(12.0)}
    assert claims(slower, "decode")["decode_ratio_6"] == ["**missed**"], "one of two is enough"
    assert claims({"6:32000, 2 threads": run(20.0)}, "decode")["decode_ratio_6"] == ["not measured"]


@pytest.mark.parametrize(
    "change", [{"parity": "FAIL"}, {"parity": "INVALID-CORRECTNESS"}, {"errors": ["the timed output is wrong"]},
               {"measurements": [measured("tg@0", 20.0, errors=["faster than the roofline floor"])]}]
)  # fmt: skip
def test_a_number_without_proof_does_not_count(change: dict[str, Any]) -> None:
    wrong = {**BOTH, "6:32000, 2 threads": run(20.0, **change)}
    assert claims(wrong, "decode")["decode_ratio_6"] == ["not measured"]
    assert "20.0 (" not in performance.page({"runs": wrong}) and "20.0 (" in performance.page({"runs": BOTH})


def test_ops_are_held_against_their_targets() -> None:
    def row(op: str, state: str, us: float, n: int, k: int) -> dict[str, Any]:
        case = f"{op}[K={k},M=1,N={n},ascale=token]" if op != "act_quant" else f"act_quant[K={k},M=1,mode=token]"
        return {"op": op, "case": case, "state": state, "us": us, "us_low": us - 1, "us_high": us + 2, "errors": [],
                "of_bandwidth": 0.95, "gb_per_s": 9.0}  # fmt: skip

    ops = [row("act_quant", "hot", 1.0, 0, k) for k in (2560, 6912)]
    for n, k in ((2560, 2560), (6912, 2560), (2560, 6912)):
        ops += [row("tgemv", "cold", 80, n, k), row("tgemv", "hot", 39, n, k), row("mul_mat_TQ2_0", "hot", 101, n, k)]
    saved = run(20.0)
    saved["result"]["ops"] = ops
    runs = {"ops, 2 threads": saved}
    assert "| tgemv 2560×2560 | 80.00 (79.00 … 82.00) | 9.0 |" in performance.page({"runs": runs})
    found = claims(runs, "ops")
    assert found["tgemv_cold_share"] == ["met", "not measured"] and found["act_quant_us"] == ["met", "not measured"]
    assert found["tgemv_hot_ratio"] == ["met", "not measured"], "101 over 39 + 1"
    slow = copy.deepcopy(runs)
    slow["ops, 2 threads"]["result"]["ops"][-1]["us"] = 99.0
    assert claims(slow, "ops")["tgemv_hot_ratio"][0] == "**missed**", "the sum counts, 99 over 40"
    wrong = copy.deepcopy(runs)
    wrong["ops, 2 threads"]["result"]["ops"][2]["errors"] = ["output wrong"]
    assert claims(wrong, "ops")["tgemv_cold_share"][0] == "not measured"


def test_prefill_and_attention_are_held_against_their_targets() -> None:
    saved = run(400.0, "pp64", "pp512", theirs=100.0)
    f16 = copy.deepcopy(saved["result"]["baselines"][0])
    f16["name"] = "llama.cpp on 2b-4t-6-32000-f16-bitnet-0.gguf"
    f16["ratios"][1]["ratio"] = 0.9
    saved["result"]["baselines"].append(f16)
    found = claims({"prefill": saved}, "prefill")
    assert found == {"prefill_ratio": ["met"], "prefill_f16_ratio": ["**missed**"]}
    deep = run(40.0, "tg@0", "tg@2048", theirs=20.0)
    deep["result"]["runs"][0]["measurements"][1]["ms_per_token"]["p50"] += 2.0
    deep["result"]["baselines"][0]["measurements"][1]["ms_per_token"]["p50"] += 3.0
    assert claims({"depth": deep}, "attention") == {"attention_ratio": ["met"]}
    deep["result"]["baselines"][0]["measurements"][1]["ms_per_token"]["p50"] -= 2.0
    assert claims({"depth": deep}, "attention") == {"attention_ratio": ["**missed**"]}


def test_scripts_are_held_against_their_targets() -> None:
    def harness(name: str, ms: float, rate: float = 0.0) -> dict[str, Any]:
        return {"name": name, "us": ms * 1e3, "bytes": int(rate > 0), "gb_per_s": rate, "errors": []}

    rows = [harness("kparity --help", 90), harness("kparity probe --backends cpu, full", 900),
            harness("repack TQ2_0, 1 thread", 1, 0.5)]  # fmt: skip
    found = claims({"harness": {"result": {"rows": rows}}}, "harness")
    assert found == {"help_ms": ["met"], "probe_s": ["met"], "repack_gb_per_s": ["**missed**"]}
    result = {"gb_per_s": {"one pass, avx2": [9.0, 9.5]}, "share_of_read": {"one pass, avx2": [0.85, 0.9]}}
    assert claims({"comparison": {"result": result}}, "comparison") == {"comparison_share": ["met"]}
    result["share_of_read"]["one pass, avx2"] = [0.7, 0.7]
    found = claims({"comparison": {"result": result}}, "comparison")
    assert found == {"comparison_share": ["**missed**"]}


# --- the page ---


def test_the_page_names_machine_targets_and_profiles() -> None:
    text = performance.page({"runs": BOTH})
    assert "Xeon, 2 processors, 16 GiB, Linux" in text and f"`{'a' * 12}`" in text and "all verified" in text
    assert re.search(r"\| decode over llama.cpp, 6 layers.*2 threads 2.00 ×, 1 thread 1.50 × \| met \|", text)
    assert "A step takes 50000 µs and moves 100 MB. Its matrices take 1000 µs alone" in text
    assert re.search(r"\| `tgemv_avx2_dp4a` \| 7 \| 1000.0 \| 2 % \|", text) and "step − sum of kernels" in text
    assert "1 met, 1 missed" in text and "Not measured yet." in text


def test_a_missed_target_is_shown_with_its_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(performance.FACTS, "remarks", {"decode_ratio_6": "Because of x."})
    assert "Because of x." not in performance.page({"runs": BOTH})
    text = performance.page({"runs": {**BOTH, "6:32000, 2 threads": run(12.0)}})
    line = "6 layers, vocabulary 32000 | ≥ 1.40 × | 2 threads 1.20 ×, 1 thread 1.50 × | **missed** |"
    assert text.count(line) == 2 and "Because of x." in text, "in the summary and in its section"


def test_a_refused_receipt_and_a_run_without_result_are_told() -> None:
    refused = {**run(20.0), "verify": ["RCPT-FLOOR"]}
    gone = {name: each for name, each in run(1.0).items() if name != "result"}
    gone |= {"code": 2, "said": ["kparity: no such shape"]}
    text = performance.page({"runs": {"6:32000, 2 threads": refused, "6:32000, 1 thread": gone}})
    assert "6:32000, 2 threads: RCPT-FLOOR" in text
    assert "6:32000, 1 thread: no result: kparity: no such shape" in text


def test_a_straight_line_is_told_from_a_bent_one() -> None:
    straight = performance.curve((6, 12, 18), (7.0, 13.0, 19.0))
    assert [straight["start"], straight["slope"]] == pytest.approx([1.0, 1.0]) and straight["deviation"] < 1e-9
    assert performance.curve((6, 12, 18), (7.0, 13.0, 40.0))["deviation"] > 0.1


# --- running ---


def test_samples_are_thinned_and_numbers_shortened() -> None:
    found = performance.thinned({"samples": [0.123456789] * 1000, "rows": [{"n": 1}] * 100, "flag": True, "no": None})
    assert found["samples"] == [0.12346] * len(found["samples"]) and len(found["samples"]) <= performance.KEPT
    assert len(found["rows"]) == 100 and found["flag"] is True and found["no"] is None


def test_a_run_that_fails_costs_itself_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, page = tmp_path / "performance.json", tmp_path / "performance.md"
    performance.save(saved, {"runs": dict(BOTH)})
    told = {"comparison": "import sys; print('no torch here', file=sys.stderr); sys.exit(4)",
            "harness": "import json, sys; json.dump({'rows': []}, open(sys.argv[-1], 'w')); sys.exit(1)"}  # fmt: skip
    monkeypatch.setattr(performance, "UNFINISHED", tmp_path / "unfinished.json")
    monkeypatch.setattr(performance, "command", lambda text: [sys.executable, "-c", told[text.split(" ")[-1]]])
    options = ["--only", "comparison,harness", "--json", str(saved), "-o", str(page)]
    assert performance.main(options) == 1 and "no result of comparison" in capsys.readouterr().out
    found = json.loads(saved.read_text())["runs"]
    assert set(found) == {*BOTH, "comparison", "harness"} and found["harness"]["result"] == {"rows": []}
    assert found["comparison"]["said"] == ["no torch here"] and "result" not in found["comparison"]
    assert "comparison: no result: no torch here" in page.read_text(encoding="utf-8")
    assert found["6:32000, 2 threads"] == BOTH["6:32000, 2 threads"], "what was not asked for stays"
    with pytest.raises(SystemExit):
        performance.main(["--only", "opps"])


def test_the_reason_is_the_line_that_tells_it() -> None:
    assert performance.reasons("a\ncpu tgemv  ERROR too fast\nb\n", "c") == ["cpu tgemv ERROR too fast"]
    assert performance.reasons("", "1\n2\n\n3\n4") == ["2", "3", "4"]


def test_a_run_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "command", lambda _: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(performance, "LIMIT_S", 0.5)
    record = performance.execute("kparity bench")
    assert record["code"] is None and "timed out" in record["said"][0] and "result" not in record


@pytest.mark.parametrize(
    ("taken", "counted"), [((0.0, 0.5), 0), ((0.3, 0.01), 1), ((0.3, 0.1, 0.2), 1), ((0.1, None, 0.2), 0)]
)
def test_a_run_that_the_host_disturbs_is_repeated_and_the_calmest_counts(
    monkeypatch: pytest.MonkeyPatch, taken: tuple[float | None, ...], counted: int
) -> None:
    records: list[dict[str, Any]] = []

    def execute(text: str) -> dict[str, Any]:
        stolen = taken[len(records)]
        records.append({"stolen": 1.0} if stolen is None else {"stolen": stolen, "result": len(records)})
        return records[-1]

    monkeypatch.setattr(performance, "execute", execute)
    found = performance.calm("depth")
    assert found == {**records[counted], "tries": len(records)}
    assert len(records) == (1 if taken[0] == 0.0 else len(taken))


def test_the_time_that_the_host_takes_is_told() -> None:
    taken, ticks = performance.stolen()
    assert 0 <= taken <= ticks and (ticks > 0) == Path("/proc/stat").exists()
    text = performance.page({"runs": {"depth": run(20.0) | {"stolen": 0.031, "tries": 3}}})
    assert "3.1 % in the worst (depth); repeated for more than 2 %: 2 times" in text


def test_a_receipt_is_verified_and_a_forged_one_is_refused() -> None:
    from tests.made_receipts import receipt

    right = performance.result(receipt("cpu"))
    assert right["verify"] == [] and right["verify_gpu"] and right["result"]["runs"]
    forged = receipt("cpu")
    forged["predicate"]["runs"][0]["measurements"][0]["tokens_per_s"] *= 2
    assert "RCPT-DIGEST" in performance.result(forged)["verify"]
