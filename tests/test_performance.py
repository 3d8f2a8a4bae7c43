"""docs/performance.md follows from what was saved: targets are met or missed by right outputs alone, and a run that
fails costs itself.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kparity.bench import shapes
from kparity.bench.ops.cases import plan
from kparity.cli.bench import bench as command

pytest.importorskip("jinja2", reason="the extra reports is not installed")
from tools import performance

ROOT = Path(__file__).resolve().parent.parent
SAVED = json.loads(performance.SAVED.read_text(encoding="utf-8"))
Runs = dict[str, Any]


def claims(runs: Runs, section: str) -> dict[str, list[str]]:
    """Verdicts by target."""
    found = dict[str, list[str]]()
    for claim in performance.claims(performance.Results({"runs": runs}))[section]:
        found.setdefault(claim.target, []).append(claim.verdict)
    return found


BOTH = {name: SAVED["runs"][name] for name in ("6:32000, 2 threads", "6:32000, 1 thread")}


# --- what is committed ---


def test_the_page_is_what_the_committed_results_give() -> None:
    assert SAVED["schema"] == performance.SCHEMA and performance.SAVED.stat().st_size < 1_000_000
    assert set(SAVED["runs"]) == set(performance.FACTS["runs"])
    page = performance.PAGE.read_text(encoding="utf-8")
    assert performance.page(SAVED) == page, "run python -m tools.performance --render"


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
            cases = [case for case, _ in plan(options["ops_expression"]) if case.op == "tgemv"]
            served = {(case["N"], case["K"]) for case in cases}
            assert served == set(performance.GEMVS)


# --- targets ---


def test_a_target_is_met_missed_or_not_measured() -> None:
    found = claims(BOTH, "decode")
    assert found["decode_ratio_6"] == ["met"] and found["decode_ratio_24"] == ["not measured"]
    ratio("6:32000, 1 thread")(slower := copy.deepcopy(BOTH), 1.2)
    assert claims(slower, "decode")["decode_ratio_6"] == ["**missed**"], "one of two is enough"
    assert claims({"6:32000, 2 threads": slower["6:32000, 2 threads"]}, "decode")["decode_ratio_6"] == ["not measured"]


@pytest.mark.parametrize(
    "change", [{"parity": "FAIL"}, {"parity": "INVALID-CORRECTNESS"}, {"errors": ["the timed output is wrong"]}, {}]
)
def test_a_number_without_proof_does_not_count(change: dict[str, Any]) -> None:
    engine = (wrong := copy.deepcopy(BOTH))["6:32000, 2 threads"]["result"]["runs"][0]
    told = f"{1 / engine['measurements'][0]['unit_s']:.1f} ("
    engine.update(change)
    engine["measurements"][0]["errors"] = [] if change else ["faster than the roofline floor"]
    assert claims(wrong, "decode")["decode_ratio_6"] == ["not measured"]
    assert told not in performance.page({"runs": wrong}) and told in performance.page({"runs": BOTH})
    one(ops := copy.deepcopy(SAVED["runs"]), "act_quant")["errors"] = ["output wrong"]
    assert claims(ops, "ops")["act_quant_us"] == ["not measured", "met"]


def cell(runs: Runs, run: str, part: str, /, **wanted: str) -> dict[str, Any]:
    """A row of the first engine or baseline of a run, or of a list of the run itself."""
    found = runs[run]["result"]
    rows = found[part] if part in ("ops", "rows") else found[part.split(".")[0]][0][part.split(".")[1]]
    return next(row for row in rows if all(text in str(row[key]) for key, text in wanted.items()))


def one(runs: Runs, op: str, state: str = "hot") -> dict[str, Any]:
    return cell(runs, "ops, 2 threads", "ops", op=op, state=state, case="K=2560,M=1" if op == "act_quant" else "N=2560")


def hot_ratio(runs: Runs, x: float) -> None:
    one(runs, "mul_mat_TQ2_0")["unit_s"] = x * (one(runs, "tgemv")["unit_s"] + one(runs, "act_quant")["unit_s"])


def scaled(runs: Runs, x: float) -> None:
    slow = cell(runs, "24:512, 1 thread", "runs.measurements")["unit_s"]
    cell(runs, "24:512, 2 threads", "runs.measurements")["unit_s"] = slow / x


def deepened(runs: Runs, x: float) -> None:
    for part, added in (("runs", 1.0), ("baselines", x)):
        ends = [cell(runs, "depth", f"{part}.measurements", name=f"tg@{n}") for n in (0, 2048)]
        ends[1]["ms_per_token"]["p50"] = ends[0]["ms_per_token"]["p50"] + added


def prefilled(runs: Runs, x: float) -> None:
    f16 = next(each for each in runs["prefill"]["result"]["baselines"] if "-f16-" in each["name"])
    f16["ratios"][0]["ratio"] = x


def times(name: str, scale: float = 1.0, key: str = "unit_s") -> Callable[[Runs, float], None]:
    return lambda runs, x: cell(runs, "harness", "rows", name=name).update({key: x * scale})


def ratio(name: str) -> Callable[[Runs, float], None]:
    return lambda runs, x: cell(runs, name, "baselines.ratios").update(ratio=x)


PLACES: dict[str, Callable[[Runs, float], None]] = {
    "tgemv_cold_share": lambda runs, x: one(runs, "tgemv", "cold").update(of_bandwidth=x),
    "tgemv_hot_ratio": hot_ratio, "act_quant_us": lambda runs, x: one(runs, "act_quant").update(unit_s=x * 1e-6),
    "decode_ratio_6": ratio("6:32000, 1 thread"), "decode_ratio_24": ratio("24:512, 2 threads"),
    "decode_ratio_30": ratio("30:128256, 1 thread"), "avx2_ratio": ratio("24:512, AVX2"),
    "decode_share": lambda runs, x: cell(runs, "24:512, 1 thread", "runs.measurements").update(of_bandwidth=x),
    "scaling": scaled, "prefill_ratio": ratio("prefill"), "prefill_f16_ratio": prefilled, "attention_ratio": deepened,
    "comparison_share": lambda runs, x: runs["comparison"]["result"]["share_of_read"].update({"one pass, amx": [x]}),
    "help_ms": times("kparity --help", 1e-3), "probe_s": times("backends cpu, full"),
    "repack_gb_per_s": times("TQ1_0, 1 thread", key="gb_per_s"),
}  # fmt: skip


@pytest.mark.parametrize("target", performance.FACTS["targets"])
def test_every_target_is_missed_just_beyond_its_limit(target: str) -> None:
    runs, limit = SAVED["runs"], performance.FACTS["targets"][target]
    better = 1.001 if limit["rule"] == "at least" else 0.999
    for x, verdict in ((limit["value"] * better, "met"), (limit["value"] / better, "**missed**")):
        PLACES[target](changed := copy.deepcopy(runs), x)
        found = [claim for each in performance.claims(performance.Results({"runs": changed})).values() for claim in each
                 if claim.target == target and pytest.approx(x) in claim.values.values()]  # fmt: skip
        assert len(found) == 1, "the number that was changed is the number that is judged"
        assert performance.Claim(target, {"": x}).verdict == verdict and found[0].verdict in (verdict, "**missed**")


# --- the page ---


def test_a_missed_target_is_shown_with_its_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(performance.FACTS, "remarks", {"decode_ratio_6": "Because of x."})
    assert "Because of x." not in performance.page({"runs": BOTH})
    ratio("6:32000, 1 thread")(slower := copy.deepcopy(BOTH), 1.2)
    text = performance.page({"runs": slower})
    assert text.count("1 thread 1.20 × | **missed** |") == 2, "in the summary and in its section"
    assert "Because of x." in text and re.search(r"\d met, 1 missed, \d+ not measured", text)


def test_a_refused_receipt_and_a_run_without_result_are_told() -> None:
    (refused := copy.deepcopy(BOTH))["6:32000, 2 threads"]["verify"] = ["RCPT-FLOOR"]
    del refused["6:32000, 1 thread"]["result"]
    refused["6:32000, 1 thread"] |= {"code": 2, "said": ["kparity: no such shape"]}
    text = performance.page({"runs": refused})
    assert "6:32000, 2 threads: RCPT-FLOOR" in text and "all verified" not in text
    assert "6:32000, 1 thread: no result: kparity: no such shape" in text
    empty = performance.page({"runs": {}})
    assert "Nothing was measured." in empty and empty.count("Not measured yet.") == len(performance.FACTS["sections"])


# --- running ---


def test_samples_are_thinned_and_the_reason_is_the_line_that_tells_it() -> None:
    assert performance.reasons("a\ncpu tgemv  ERROR too fast\nb\n", "c") == ["cpu tgemv ERROR too fast"]
    assert performance.reasons("", "1\n2\n\n3\n4") == ["2", "3", "4"]
    found = performance.thinned({"samples": [0.123456789] * 1000, "rows": [{"n": 1}] * 100, "flag": True, "no": None})
    assert found["samples"] == [0.12346] * len(found["samples"]) and len(found["samples"]) <= performance.KEPT
    assert len(found["rows"]) == 100 and found["flag"] is True and found["no"] is None


def test_a_run_that_fails_costs_itself_and_the_others_stay(monkeypatch, tmp_path: Path, capsys) -> None:
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


def test_a_run_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "command", lambda _: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(performance, "LIMIT_S", 0.5)
    record = performance.execute("kparity bench")
    assert record["code"] is None and "timed out" in record["said"][0] and "result" not in record


def test_a_run_that_the_host_disturbs_is_repeated_and_the_calmest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for taken, tries, counted in (
        ((0.0, 0.5), 1, 0), ((0.3, 0.01), 2, 1), ((0.3, 0.1, 0.2), 3, 1), ((0.1, None, 0.2), 3, 0),
    ):  # fmt: skip
        records = [{"stolen": 1.0} if x is None else {"stolen": x, "result": at} for at, x in enumerate(taken)]
        runs = iter(records)
        monkeypatch.setattr(performance, "execute", lambda text, runs=runs: next(runs))
        assert performance.calm("depth") == {**records[counted], "tries": tries}
    stolen, ticks = performance.stolen()
    assert 0 <= stolen <= ticks and (ticks > 0) == Path("/proc/stat").exists()
    text = performance.page({"runs": {"depth": SAVED["runs"]["depth"] | {"stolen": 0.031, "tries": 3}}})
    assert "3.1 % in the worst (depth); repeated for more than 2 %: 2 times" in text


def test_a_receipt_is_verified_and_a_forged_one_is_refused() -> None:
    from tests.made_receipts import receipt

    right = performance.result(receipt("cpu"))
    assert right["verify"] == [] and right["verify_gpu"] and right["result"]["runs"]
    rows = right["result"]["runs"][0]["measurements"]
    left_out = [{name: value for name, value in row.items() if value != []} for row in rows]  # as kparity bench does
    right["result"]["runs"][0]["measurements"] = left_out
    assert performance.Results({"runs": {"x": right}}).row("x")["unit_s"] == rows[1]["unit_s"]
    assert "cpu" in performance.page({"runs": {"backends": SAVED["runs"]["backends"] | right}})
    forged = receipt("cpu")
    forged["predicate"]["runs"][0]["measurements"][0]["unit_s"] /= 2
    assert "RCPT-DIGEST" in performance.result(forged)["verify"]
