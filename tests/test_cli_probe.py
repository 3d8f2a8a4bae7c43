"""The command that everybody types first, end to end: exit codes, lines, JSON, receipt, cache."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner

from kparity.cli.explain import explain
from kparity.cli.schema import schema_of
from kparity.device.adapter import DeviceInfo
from kparity.gates import table
from kparity.gates.table import GATES
from kparity.gates.verdict import Gate, Measure, Row
from kparity.probe import cache
from kparity.probe.document import Document
from kparity.probe.messages import Request
from kparity.probe.runner import Found
from kparity.receipts import document as receipts
from kparity.receipts.statement import redigested
from kparity.receipts.verify import verify
from tests.cli import LOADED, run
from tests.gguf_files import Spec, write

ROOT = Path(__file__).resolve().parent.parent
NO_NVIDIA = pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="this host has an NVIDIA device")


def test_cpu_alone_passes_and_prints_every_number_with_its_threshold() -> None:
    done = run("probe", "--backends", "cpu", "-v", "--timings")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if line.startswith("Backend: cpu (")]
    for text in (*(gate.name for gate in GATES), "≥ 0.99 bos_cosine", "≤ 0 exact_mismatches", "accepted"):
        assert text in done.stdout
    for stage in ("open", "reference", "upload", "compile", "positions", "process"):
        assert f"\n {stage} " in done.stdout or f"\n{stage} " in done.stdout, "--timings"


@NO_NVIDIA
def test_require_refuses_and_never_downgrades() -> None:
    for option, why in (("--require", "it was required"), ("--backends", "no other backend was named")):
        done = run("probe", option, "cuda")
        assert done.returncode == 3
        assert f"cuda path rejected, refusing, {why}: [KP-CUDA-" in done.stderr
        assert "Backend:" not in done.stderr


@pytest.mark.parametrize("name", ["wgpu", "opencl", "torch"])
def test_require_gpu_refuses_cpu_and_software_devices(name: str) -> None:
    done = run("probe", "--backends", f"{name},cpu", "--require-gpu", "--json")
    document = json.loads(done.stdout)
    rows = {row["backend"]: row for row in document["rows"]}
    assert rows["cpu"]["code"] == "KP-NOT-GPU"
    if rows[name]["device"] is None:
        pytest.skip(f"{name} is not here: {rows[name]['reason']}")
    if rows[name]["device"]["kind"] == "gpu":
        pytest.skip(f"{name} has a GPU here")
    assert rows[name]["code"] == "KP-NOT-GPU"
    assert done.returncode == 3 and document["serving"] is None
    assert "attempting fallback: [KP-NOT-GPU]" in done.stderr and "Backend:" not in done.stderr


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["tq2_0", "tq1_0", "i2_s"])
def test_the_shape_of_the_2b_model_is_probed(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "2b.gguf", Spec(type=kind, layers=4, vocab=4096))
    done = run("probe", "--backends", "cpu", "--model", str(path), "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["rows"][0]
    assert [gate["verdict"] for gate in row["gates"]] == ["PASS"] * len(GATES) and row["positions"] == 72


def test_json_and_receipt_follow_their_schema(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "receipt.json"
    path.parent.mkdir()
    done = run("probe", "--backends", "cpu,numpy", "--json", "--receipt", str(path))
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema_of("probe"))
    assert document["exit_code"] == done.returncode == 0
    row = document["rows"][0]
    assert sum(row["dispatches"].values()) > 1000 and row["device_step_ms"] > 0
    assert all(kernel.startswith(kernel.split("_")[0]) and "_" in kernel for kernel in row["dispatches"])
    written = receipts.read(path)
    predicate = written["predicate"]
    assert verify(written, require_parity=True) == []
    assert predicate["kind"] == "probe" and predicate["model"]["sha256"] == document["model"]["sha256"]
    assert [each["backend"] for each in predicate["fallback"]] == ["cpu", "numpy"] and predicate["serving"] == "cpu"
    for told, found in zip(predicate["runs"], document["rows"], strict=True):
        assert {each["id"]: each["dispatches"] for each in told["kernels"]} == found["dispatches"]
        assert told["device"] == found["device"]
        measured = [measure for gate in found["gates"] for measure in gate["measures"]]
        assert [(each["name"], each["limit"]) for each in told["parity"]["gates"]] == [
            (each["threshold"], each["limit"]) for each in measured
        ]
    assert list(path.parent.iterdir()) == [path]


def test_run_streams_words_and_leaves_a_receipt_of_what_serves(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    prompt = ("--prompt", "And the LORD said", "--max-tokens", "12")
    done = run("run", "--backends", "hip,cpu,numpy", *prompt, "--receipt", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("And the LORD said") and len(done.stdout) > len("And the LORD said\n") + 10
    assert done.stderr.splitlines()[-1].startswith("Backend: cpu (")
    written = receipts.read(path)
    assert verify(written, require_parity=True) == []
    assert [finding.code for finding in verify(written, require_gpu_kernels=True)] == [
        "RCPT-FALLBACK-ONLY", "RCPT-NO-GPU-KERNELS",
    ]  # fmt: skip
    tried = written["predicate"]["fallback"]
    assert [(each["backend"], each["status"]) for each in tried] == [("hip", "unavailable"), ("cpu", "accepted")]
    assert tried[0]["code"].startswith("KP-HIP-")
    assert written["predicate"]["request"]["command"][:2] == ["kparity", "run"]
    (cpu,) = written["predicate"]["runs"]
    assert cpu["canary"]["every"] >= 256 and cpu["canary"] == {
        **cpu["canary"],
        "checks": 1,
        "trips": 0,
        "doubtful": None,
    }


def test_how_often_and_how_long_is_told_and_verified(tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    done = run("probe", "-b", "cpu", "--repeat", "6", "--soak", "0.1m", "--json", "--receipt", str(path))
    assert done.returncode == 0, done.stderr
    asked, written = json.loads(done.stdout)["request"], receipts.read(path)
    assert asked == {**asked, "depth": "soak", "repeat": 6, "soak": 6.0}
    assert verify(written, require_parity=True) == []
    options = written["predicate"]["request"]["options"]
    assert (options["repeat"], options["soak"]) == (6, 6.0)
    for name, value in (("repeat", 5), ("soak", 600.0), ("depth", "full")):
        other = {**written["predicate"]["request"], "options": {**options, name: value}}
        forged = redigested({**written, "predicate": {**written["predicate"], "request": other}})
        assert "RCPT-REQUEST" in [finding.code for finding in verify(forged)], name


def test_an_acceptance_without_gates_is_refused() -> None:
    document = json.loads(run("probe", "--backends", "cuda,wgpu,cpu", "--no-gpu", "--depth", "bos", "--json").stdout)
    assert [row["backend"] for row in document["rows"]] == ["cpu"], "--no-gpu leaves the CPU"
    document["rows"][0]["gates"] = []
    with pytest.raises(msgspec.ValidationError, match="accepted without gates"):
        msgspec.convert(document, Document)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("probe", "--backends", "cdua"), "unknown backend 'cdua': did you mean 'cuda'?"),
        (("probe", "--backends", ""), "empty"),
        (("probe", "--backends", "cpu,cpu"), "named twice"),
        (("probe", "--require", "cpu", "--backends", "cpu"), "exclude each other"),
        (("probe", "--model", "no-such-file.gguf"), "no-such-file.gguf"),
        (("probe", "--receipt", "no/such/folder/r.json", "--backends", "cpu", "--depth", "bos"), "cannot be written"),
        (("explain", "KP-CUDA-NODRIVR"), "did you mean 'KP-CUDA-NODRIVER'?"),
        (("prbe",), "did you mean 'probe'?"),
        (("probe", "--positions", "0"), "positions"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], sentence: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("kparity:")]
    assert len(said) <= 1


@pytest.mark.parametrize("command", [("probe", "--model"), ("model", "inspect"), ("run", "--prompt", "x", "--model")])
@pytest.mark.parametrize("damage", ["truncated", "magic", "empty"])
def test_a_damaged_file_is_one_sentence_and_exit_code_2(command: tuple[str, ...], damage: str, tmp_path: Path) -> None:
    good = resources.files("kparity").joinpath("data/embedded.gguf").read_bytes()
    bad = {"truncated": good[:100_000], "magic": b"GGML" + good[4:], "empty": b""}[damage]
    (tmp_path / "bad.gguf").write_bytes(bad)
    done = run(*command, str(tmp_path / "bad.gguf"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("kparity: ") and "bad.gguf" in done.stderr


def test_too_few_positions_are_no_pass() -> None:
    done = run("probe", "--backends", "cpu", "--positions", "20")
    assert done.returncode == 3
    assert "20 positions were probed, the contract asks for 64" in done.stderr


def test_a_cached_verdict_is_quick_and_any_key_misses(tmp_path: Path) -> None:
    first, again = cached(tmp_path), cached(tmp_path)
    assert not first["cached"] and again["cached"] and again["gates"] == first["gates"]
    for change in ({"CUDA_VISIBLE_DEVICES": "7"}, {"KPARITY_THREADS": "1"}):
        assert not cached(tmp_path, **change)["cached"], change
    assert not cached(tmp_path, "--depth", "bos")["cached"]
    for entry in entries(tmp_path):
        entry.write_text("{")
    assert not cached(tmp_path)["cached"]


def test_a_cached_answer_takes_little_process_time(tmp_path: Path) -> None:
    """0.52 s where a probe takes 1.3; an import of torch would be 2 s more."""
    env = {"XDG_CACHE_HOME": str(tmp_path)}

    def spent(*options: str) -> float:
        before = os.times()
        assert run("probe", "--backends", "cpu", *options, env=env).returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    whole = min(spent(), spent())
    spent("--cached")
    cached = min(spent("--cached") for _ in range(5))
    assert cached < 0.6 * whole, (cached, whole)


def test_the_page_has_the_table_of_gates() -> None:
    assert table.markdown() in (ROOT / "docs/gates.md").read_text("utf-8"), "print(kparity.gates.table.markdown())"


def test_every_measure_is_explained() -> None:
    for gate in table.GATES:
        for name in gate.thresholds:
            done = CliRunner().invoke(explain, [name])
            assert done.exit_code == 0 and f"gate:  {gate.name}: " in done.output and "basis: " in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("floor_sigma_ratio", "floor_sigma_ratio ≤ 2 (ladder-v1"), ("Sigma ratio", "floor_sigma_ratio ≤ 2 (ladder-v1"),
        ("NEAR-TIE", "near_tie (ladder-v1"), ("EXACT-TIE", "near_tie (ladder-v1"), ("floor", "formula:    limit(m, s)"),
        ("local_excess", "local_excess ≤ 4 (trace-parity-v1"), ("ffn_gate", "means:   the gate, before its activation"),
        ("positions_cosine", "positions_cosine ≥ 0.999 (ladder-v1"),
    ],
)  # fmt: skip
def test_terms_of_ladder_and_traces_are_explained_by_their_contract(words: str, told: str) -> None:
    done = CliRunner().invoke(explain, [words], env={"COLUMNS": "0"})
    assert done.exit_code == 0 and told in done.output, done.output


def entries(folder: Path) -> list[Path]:
    """The remembered verdicts of a cache."""
    return sorted((folder / "kparity" / "verdicts").glob("*.json"))


def cached(folder: Path, *more: str, **env: str) -> dict:
    """The row of a probe that may answer from a cache."""
    options = ("--backends", "cpu", "--json", "--cached", *more)
    done = run("probe", *options, env={"XDG_CACHE_HOME": str(folder), **env})
    assert done.returncode == (3 if "bos" in more else 0), done.stderr
    return json.loads(done.stdout)["rows"][0]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("find", "replace"),
    [
        (b'"threshold":"bos_cosine","value":', b'"threshold":"bos_cosine","value":-5.0,"old":'),
        (b'"verdict":"PASS"', b'"verdict":"FAIL"'),
        (b'"status":"accepted"', b'"status":"rejected"'),
        (b'"gates":[', b'"gates":7,"old":['),
        (b'"backend":"cpu"', b'"backend":{"a":1}'),
        (b'"label":"', b'"label":"X'),
    ],
)
def test_an_entry_that_somebody_edited_is_a_miss(find: bytes, replace: bytes, tmp_path: Path) -> None:
    assert not cached(tmp_path)["cached"] and cached(tmp_path)["cached"]
    (entry,) = entries(tmp_path)
    assert find in entry.read_bytes()
    entry.write_bytes(entry.read_bytes().replace(find, replace, 1))
    assert not cached(tmp_path)["cached"]


def test_a_verdict_of_other_limits_is_judged_by_those_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is signed and whole, but whose measures the contract does not let pass."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keys = cache.Keys(Request(depth="bos"))
    for value, remembered in ((0.995, True), (-5.0, False)):
        gates = [Gate("open", "PASS"), Gate("BOS", "PASS", [Measure("bos_cosine", value, -9.0, "≥", True)])]
        device = DeviceInfo("cpu", "made", "cpu", "", "", "").as_dict()
        row = Row("cpu", "accepted", gates=gates, depth="bos", device=device, dispatches={"add_cpu_avx2": 1})
        cache.put(keys, Found(row, None, LOADED))
        found = cache.get(keys, "cpu")
        assert (found is not None) == remembered
        assert found is None or found[0].gates[1].measures[0].limit == 0.99


def test_the_cache_is_its_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cached(tmp_path)
    finally:
        os.umask(before)
    folder = tmp_path / "kparity" / "verdicts"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    folder.chmod(0o777)
    assert not cached(tmp_path)["cached"], "others could have written what lies there"
    folder.chmod(0o700)
    assert cached(tmp_path)["cached"]
    assert all(path.suffix in (".json", "") and path.name[0] != "." for path in folder.iterdir())


def test_a_context_that_fills_is_told_and_an_ordinary_end_is_not() -> None:
    short = ("run", "--backend", "cpu", "--depth", "bos", "--beyond-proof", "--prompt", "In the beginning",
             "--context", "12")  # fmt: skip
    full, ended = run(*short), run(*short, "--max-tokens", "2")
    assert full.returncode == ended.returncode == 0 and "stopped" not in ended.stderr
    assert "stopped: the context of 12 positions is full; give --context up to 512" in full.stderr
