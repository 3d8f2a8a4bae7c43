"""The script for a GPU host: it runs through where there is no GPU, and its table names what failed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kparity.device import registry
from kparity.receipts.record import Skipped, Statement, Tried
from tests.conftest import needing
from tests.made_receipts import ops_receipt, receipt

BENCH = Path(__file__).resolve().parent.parent / "bench"
PARTS = (1, 2, 3)


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module bench/summary.py."""
    monkeypatch.syspath_prepend(str(BENCH))
    return import_module("summary")


def test_the_table_shows_speed_with_its_parity(summary: Any) -> None:
    predicate = msgspec.convert(receipt("cuda"), Statement).predicate
    run, lost = predicate.runs[0], {"status": "unavailable", "code": "KP-HIP-NODRIVER", "reason": "no driver"}
    predicate.fallback.append(Tried(backend="hip", **lost))
    run.skipped.append(Skipped(name="tg@2048", reason="too long"))
    add, big, tgemv = predicate.ops = msgspec.convert(ops_receipt("cuda"), Statement).predicate.ops
    add.unit_s, add.gb_per_s, big.unsupported, tgemv.errors = 2e-6, 5.0, "too large", ["output wrong"]
    rows = {name: (result, text) for name, result, text in summary.receipt("r", predicate)}
    speed = run.measurements[0]
    assert rows["r hip"] == ("absent", "[KP-HIP-NODRIVER] no driver")
    assert rows["r cuda"] == ("pass", f"{run.device.device}, timed output: cosine 0.999910")
    assert rows[f"r cuda {speed.name}"][1].startswith(f"{speed.rates[0]:.1f} tokens/s ({speed.rates[1]:.1f} … ")
    assert rows[f"r cuda {speed.name}"][1].endswith(f"{100 * (speed.of_bandwidth or 0):.1f} % of bandwidth")
    assert rows["r cuda tg@2048"] == ("skipped", "too long")
    assert rows[f"r {add.name}"] == ("pass", "2.00 µs, 5.0 GB/s") and rows[f"r {big.name}"] == ("absent", "too large")
    assert rows[f"r {tgemv.name}"][0] == "FAIL" and rows[f"r {tgemv.name}"][1].startswith("output wrong")
    run.errors = ["gave other bits"]
    assert next(row for row in summary.receipt("r", predicate) if row[0] == "r cuda")[1] == "FAIL"
    run.errors, run.parity.verdict = [], "INVALID-CORRECTNESS"
    assert next(row for row in summary.receipt("r", predicate) if row[0] == "r cuda")[1] == "FAIL"


def test_what_is_measured_stands_beside_what_was_predicted(summary: Any) -> None:
    predicate = msgspec.convert(receipt("cuda"), Statement).predicate
    run = predicate.runs[0]
    row = next(each for each in run.measurements if each.name.startswith("tg@"))
    row.name = "tg@2048"
    for device, said in (("NVIDIA H100 80GB HBM3", True), ("NVIDIA H200", False)):
        run.device = msgspec.structs.replace(run.device, device=device)
        text = dict((name, text) for name, _, text in summary.receipt("r", predicate))["r cuda tg@2048"]
        assert bool(re.search(r", predicted \d{3,4}\.\d\d tokens/s$", text)) == said, text
    for case in ("norm_quant[D=6912,M=1,mode=token,pre=relu2]", "tgemv[K=2560,M=32,N=13824,ascale=token]"):
        assert summary.shape_of(case) in summary.predicted()


def test_the_summary_names_what_failed(summary: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "steps.tsv"
    notes.write_text(
        "build\trequired\t0\t12\ta.log\nprobe\trequired\t3\t1\t\nncu\toptional\t77\t0\t\nops\toptional\t124\t9\t\n"
    )
    (tmp_path / "a.log").write_text("x\n\x1b[32m12 passed\x1b[0m, 3 skipped in 1 s\nbye\n")
    (tmp_path / "ncu.log").write_text(
        '==PROF== Connected\ntgemv: right\n"ID","Kernel Name","Grid Size","Metric Name","Metric Unit","Metric Value"\n'
        '"0","tgemv","(320, 1, 1)","gpu__time_duration.sum","us","3.1"\n'
        '"0","tgemv","(320, 1, 1)","launch__registers_per_thread","register/thread","40"\n'
    )
    (tmp_path / "bad.json").write_text('{"predicate": {"sha256": "0", "fallback": [], "runs": []}}')
    (tmp_path / "cut.json").write_text('{"result": ')
    assert summary.main([str(tmp_path), "--steps", str(notes), "--write", str(tmp_path / "summary.json")]) == 1
    printed = capsys.readouterr().out
    assert "ncu tgemv (320,1,1)" in printed and "time 3.1 us, registers 40" in printed
    for part in ("12 passed, 3 skipped", "FAIL (3)", "absent", "TIMEOUT", "digest does not fit", "that can be read",
                 "required steps failed: probe"):  # fmt: skip
        assert part in printed
    assert json.loads((tmp_path / "summary.json").read_text())["failed"] == ["probe"]
    notes.write_text("")
    assert summary.main([str(tmp_path), "--steps", str(notes)]) == 1, "nothing that ran is no success"


def test_a_look_at_the_device_and_a_changed_kernel_are_rows(summary: Any, tmp_path: Path) -> None:
    kernel = {"case": "add[D=1]", "entry": "add", "registers": 9, "shared": 0, "lanes": 64}
    look = {"schema": "kparity-first-look-v1", "rates": [
        {"name": "mma_rate", "unit": "bytes", "per_s": 2e9, "right": False}], "resources": [
        {**kernel, "local": 0, "receipt": {"registers": 8, "shared": 0, "lanes": 96}},
        {**kernel, "local": 16}]}  # fmt: skip
    row = {"variant": "v", "today_s": 2e-6, "changed_s": 1e-6, "ratio": 2.0, "spread": 1.1, "errors": []}
    varied = {"schema": "kparity-variants-v1", "rows": [
        {**row, "what": "a"}, {**row, "what": "b", "errors": ["other bits"]},
        {"variant": "v", "what": "c", "unsupported": "too large"}]}  # fmt: skip
    for name, document in (("look", look), ("varied", varied)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert list(summary.documents(tmp_path)) == [
        ("varied v a", "pass", "2.00 µs today, 1.00 changed, 2.000 × as fast (runs of one side within 1.100)"),
        ("varied v b", "FAIL", "other bits"), ("varied v c", "absent", "too large"),
        ("look mma_rate", "FAIL", "2e+09 bytes/s"),
        ("look add[D=1] add", "pass", "registers 9 (compilers: 8), shared 0 (compilers: 0), lanes 64 (compilers: 96)"),
        ("look add[D=1] add", "FAIL", "spills 16 B"),
    ]  # fmt: skip


def test_the_loops_of_the_rates_compute_what_their_twins_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    look = import_module("first_look")
    with needing("cuda-ptx"):
        registry.open_backend("cuda-ptx").close()
    assert look.main(["--backend", "cuda-ptx", "--rounds", "2", "--json", str(tmp_path / "look.json")]) == 0
    found = json.loads((tmp_path / "look.json").read_text())
    assert [row["name"] for row in found["rates"] if row["right"]] == ["dp4a_rate", "mma_rate", "shared_rate"]
    monkeypatch.setitem(look.RATES, "mma_rate", (look.dp4a, *look.RATES["mma_rate"][1:]))
    assert look.main(["--backend", "cuda-ptx", "--rounds", "2"]) == 1, "a wrong output is no rate"
    assert look.main(["--backend", "cpu"]) == 3, "no CUDA device"


@pytest.mark.parametrize("arguments", [[], ["--part", "4", "out"], ["--part"], ["--slow", "out"]])
def test_another_part_is_refused(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", BENCH / "on_gpu.sh", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_gpu_host_script_runs_through(tmp_path: Path) -> None:
    """Without a GPU: what needs one fails or is said to be absent, and everything else passes."""
    venv, out = tmp_path / "venv", tmp_path / "out"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python3.*")) / "site-packages"
    here = [path for path in sys.path if path.endswith("site-packages")]  # without this checkout's editable install
    (site / "dependencies.pth").write_text("\n".join(here) + "\n")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "KPARITY"))}
    env |= {"PYTHON": str(venv / "bin" / "python"), "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)}
    command = ["bash", BENCH / "on_gpu.sh", "--smoke", out]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, check=False)
    files = {path.name for path in out.iterdir()}
    numbered = {f"{name}_{part}" for name, part in product(("summary", "logs"), PARTS)}
    assert {name.partition(".")[0] for name in files} == numbered | {
        "probe_cuda", "probe_all", "ops_others", "decode_others", "ops_cuda", "decode_cuda", "variants",
    }, done.stdout + done.stderr  # fmt: skip
    summaries = [json.loads((out / f"summary_{part}.json").read_text()) for part in PARTS]
    results = {each["step"]: each["result"] for summary in summaries for each in summary["steps"]}
    assert results["build"] == results["preflight"] == "pass", done.stdout
    assert done.returncode == 1 and "required steps failed" in done.stdout
    failed = [set(summary["failed"]) for summary in summaries]
    assert failed == [{"op-parity-cuda", "probe-cuda"}, {"bench-ops", "bench-decode"}, set()], done.stdout
    for step in ("variants", "op-parity-opencl", "probe-all", "bench-ops-others", "bench-decode-others"):
        assert results[step] == "pass", done.stdout
    assert all(len(summary["revision"]["commit"]) == 40 for summary in summaries)
    with tarfile.open(out / "logs_1.tar.gz") as logs:
        assert "logs/build.log" in logs.getnames()
    with tarfile.open(out / "logs_3.tar.gz") as logs:
        built = logs.extractfile("logs/build.log")
        assert built is not None and built.read() == b"built before\n"
    assert not list(tmp_path.glob("kparity-gpu.*")), "the work folder is removed"
