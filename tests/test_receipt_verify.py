"""Verifying receipts: right ones pass, every leaf is covered by the digest, demands are kept, bad files are told."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity import contracts
from kparity.errors import WrongInput
from kparity.host import files
from kparity.receipts import document
from kparity.receipts.findings import Finding
from kparity.receipts.kernel_ids import dialect_of, is_gpu_kernel, sha256_of
from kparity.receipts.rules.identity import form
from kparity.receipts.statement import redigested, write
from kparity.receipts.verify import replays as replayed
from kparity.receipts.verify import verify
from tests.edits import at, both, change, drop, put
from tests.forging import COMMAND, commanded
from tests.made_receipts import MEASURES, NOW, UNCHECKED, build, edited, ops_receipt, probe_receipt, receipt, subject

RIGHT = [("cpu",), ("cuda",), ("hip",), ("cpu", "wgpu"), ("cuda", "hip", "cpu"), ("wgpu",)]


def codes(found: Any) -> list[str]:
    return [finding.code for finding in found]


def replays(given: list[tuple[str, dict[str, Any]]]) -> dict[str, list[Finding]]:
    statements = [(name, form(statement)[0]) for name, statement in given]
    return replayed([(name, statement) for name, statement in statements if statement])


@pytest.mark.parametrize("backends", RIGHT, ids="+".join)
def test_right_receipts_are_not_refused(backends: tuple[str, ...]) -> None:
    for salt in "abcde":
        assert verify(receipt(*backends, salt=salt), now=NOW) == []
        assert verify(receipt(*backends, salt=salt), now=NOW, require_parity=True) == []
        named = put("request.command", COMMAND.replace("--backends cuda,cpu", "-b " + " -b ".join(backends)).split())
        again = commanded("--seed 1", "--seed 9 --seed=1")  # the last one counts
        if "cpu" in backends:
            assert verify(edited(named, *backends), now=NOW) == []
        if backends == ("cuda", "cpu"):
            assert verify(edited(again, *backends), now=NOW) == []
    gpu = all(name in ("cuda", "hip", "cpu") for name in backends) and backends[0] != "cpu"
    assert (verify(receipt(*backends), now=NOW, require_gpu_kernels=True) == []) is gpu


@pytest.mark.parametrize("name", ["модель v2.gguf", "模型-2B.gguf", "Bücher.gguf", "bıçak.gguf", "ñandú_1.58.gguf"])
def test_names_of_any_one_script_are_not_refused(name: str) -> None:
    device = put("runs.0.device.device", "NVIDIA® GeForce™ 显卡 RTX 4090")
    assert verify(edited(both(put("model.name", name), device), "cuda"), now=NOW)[1:] == [], "but for the subject"


@pytest.mark.parametrize("name", MEASURES)
def test_a_pass_without_one_of_its_measures_is_refused(name: str) -> None:
    found = verify(edited(drop(f"runs.0.parity.gates.{MEASURES.index(name)}"), "cpu"), now=NOW)
    assert codes(found) == ["RCPT-GATES-MISSING"] and name in found[0].why


@pytest.mark.parametrize("depth", ["bos", "full"])
@pytest.mark.parametrize("nonce", ["", "a word of ours"])
def test_a_right_receipt_of_a_probe_is_not_refused(nonce: str, depth: str) -> None:
    made = probe_receipt("cuda", "cpu", nonce=nonce, depth=depth)
    assert verify(made, now=NOW) == [] and verify(made, now=NOW, nonce=nonce) == []
    assert codes(verify(made, now=NOW, nonce="another")) == ["RCPT-NONCE"]


@pytest.mark.parametrize("name", ["cpu", "cuda", "wgpu"])
def test_a_right_receipt_of_single_ops_is_not_refused(name: str) -> None:
    made = ops_receipt(name)
    assert verify(made, now=NOW, require_parity=True) == []
    assert (verify(made, now=NOW, require_gpu_kernels=True) == []) is (name == "cuda")


def test_neither_a_fallback_with_its_reason_nor_a_software_device_is_a_gpu() -> None:
    made = receipt("cpu", requested="cuda,wgpu,cpu", rejected=("wgpu",))
    assert verify(made, now=NOW) == []
    found = verify(made, now=NOW, require_gpu_kernels=True)
    assert codes(found) == ["RCPT-FALLBACK-ONLY", "RCPT-NO-GPU-KERNELS"]
    assert "cuda, wgpu asked for, cpu serves" in str(found[0])
    found = verify(receipt("cpu", "wgpu"), now=NOW, require_gpu_kernels=True)
    assert codes(found) == ["RCPT-NOT-A-GPU", "RCPT-FALLBACK-ONLY", "RCPT-NO-GPU-KERNELS"]
    assert "llvmpipe" in found[0].why and found[0].where == "/predicate/runs/1/device/kind"


def test_a_right_receipt_from_a_file_is_not_refused(tmp_path: Path) -> None:
    write(tmp_path / "r.json", receipt("cpu"))
    assert verify(document.read(tmp_path / "r.json"), now=NOW) == []


def test_a_slow_pass_of_the_memory_makes_no_step_too_fast() -> None:
    slow = put("runs.0.bandwidth.samples_s.3", 5 * at(receipt("cuda"), "predicate.runs.0.bandwidth.samples_s.3"))
    assert verify(edited(slow, "cuda"), now=NOW) == []


def test_a_kernel_has_one_text_in_all_runs() -> None:
    made = receipt("cuda", "hip")
    theirs = made["predicate"]["runs"][1]["kernels"][0]
    theirs["id"] = made["predicate"]["runs"][0]["kernels"][0]["id"]
    found = verify(redigested({**made, "subject": subject(made["predicate"])}), now=NOW)
    assert f"RCPT-KERNEL-ID /predicate/runs/1/kernels/0/id: {theirs['id']} has another text in another run" in map(
        str, found
    )


@pytest.mark.parametrize("asked", [True, False, None])
@pytest.mark.parametrize("accepted", [True, False])
def test_claims_are_trusted_where_the_run_and_the_verifier_both_say_so(asked: bool | None, accepted: bool) -> None:
    told = both(put("runs.0.proof.device", "not verified"), put("request.options.trust_claims", asked))
    made = edited(told, "cuda", "cpu")
    assert verify(made, now=NOW) == [] == verify(receipt("cuda"), now=NOW, require_gpu_kernels=True)
    found = verify(made, now=NOW, require_gpu_kernels=True, trust_claims=accepted)
    refused = [] if asked and accepted else ["RCPT-NOT-VERIFIED /predicate/runs/0/proof/device"]
    assert [str(each).partition(": ")[0] for each in found] == refused


def test_a_speed_without_parity_is_labelled_or_refused() -> None:
    unknown = change("runs.0.timed_output", checked=False, cosine=None, limit=None, passed=False)
    asked = put("request.options.no_parity", True)
    labelled = edited(both(put("runs.0.parity", UNCHECKED), unknown, asked), "cpu")
    assert verify(labelled, now=NOW) == []
    assert codes(verify(labelled, now=NOW, require_parity=True)) == ["RCPT-PARITY-REQUIRED"] * 2
    failed = put("runs.0.parity", {"verdict": "FAIL", "gates": [], "reason": "cosine 0.7"})
    assert "RCPT-PARITY" in codes(verify(edited(both(failed, unknown), "cpu"), now=NOW))


@pytest.mark.parametrize(
    ("kernel", "dialect", "gpu"),
    [
        ("tgemv_cuda_dp4a", "cuda", True), ("rope_wgsl_neox", "wgsl", True), ("tgemv_hip_dp4a_wrow", "hip", True),
        ("norm_quant_opencl_none_token", "opencl", True), ("rope_torch_neox", "torch", True),
        ("tgemv_avx512vnni_dp4a", "avx512vnni", False), ("add_numpy_generic", "numpy", False),
        ("gemm_cpu_x", "cpu", False), ("gemm_cpu_cuda", "", False), ("tgemv_avx2_cuda", "avx2", False),
        ("cuda_avx2_dp4a", "", False), ("tgemv_cuda", "", False), ("mine_cuda_fast", "cuda", True),
        ("tgemv", "", False),
    ],
)  # fmt: skip
def test_a_cpu_kernel_never_matches_a_gpu(kernel: str, dialect: str, gpu: bool) -> None:
    assert dialect_of(kernel) == dialect
    assert is_gpu_kernel(kernel) is gpu


def test_kernels_of_one_text_share_its_digest_and_no_other() -> None:
    ids = ("tgemv_cuda_dp4a", "tgemv_hip_dp4a", "tgemv_opencl_dp4a", "tgemv_wgsl_dp4a", "tgemv_torch_dp4a",
           "tgemv_numpy_dp4a", "tgemv_avx2_dp4a", "rope_cuda_neox")  # fmt: skip
    assert len({sha256_of(each) for each in ids}) == len(ids)
    assert sha256_of("tgemv_cuda_dp4a") == sha256_of("tgemv_cuda_dp4a_wrow")
    with pytest.raises(WrongInput, match="gemm_cpu_x"):
        sha256_of("gemm_cpu_x")


def test_another_version_of_the_contract_with_the_same_limits_is_known() -> None:
    major = contracts.load(contracts.PROBE).version.partition(".")[0]
    same, other = (put("contract.version", version) for version in (f"{major}.98.99", f"{major}8.0.0"))
    assert verify(edited(same, "cpu"), now=NOW, require_parity=True) == []
    low = put("runs.0.parity.gates.0.value", 0.72)
    assert codes(verify(edited(both(same, low), "cpu"), now=NOW)) == ["RCPT-GATE"], "its gates are held all the same"
    assert codes(verify(edited(both(other, low), "cpu"), now=NOW)) == ["RCPT-CONTRACT"]


def test_a_rejected_backend_is_on_record_as_it_was() -> None:
    made = probe_receipt("cpu", "cuda")
    run = made["predicate"]["runs"][1]
    run["device"].update(device="llvmpipe", driver="", uuid="")
    run["parity"] = {"verdict": "FAIL", "gates": [], "reason": "KP-FALSE-GPU: claims to be a GPU"}
    run["kernels"] = []
    told = {"status": "rejected", "code": "KP-FALSE-GPU", "reason": "claims to be a GPU"}
    made["predicate"]["fallback"][1].update(told)
    probe = made["predicate"]
    rejected = build(probe)
    assert verify(rejected, now=NOW, require_parity=True) == []
    assert codes(verify(rejected, now=NOW, require_gpu_kernels=True)) == ["RCPT-FALLBACK-ONLY", "RCPT-NO-GPU-KERNELS"]
    alone = build({**probe, "runs": probe["runs"][1:], "serving": None, "fallback": probe["fallback"][1:],
                   "request": {**probe["request"], "backends": ["cuda"]}})  # fmt: skip
    assert codes(verify(alone, now=NOW, require_parity=True)) == ["RCPT-PARITY-REQUIRED"]


# --- the digest ---

WHOLE = receipt("cuda", "cpu")


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Paths of everything that holds nothing else."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [leaf for key, item in entries for leaf in leaves(item, f"{path}.{key}")]
    yield from below or [path.lstrip(".")]


LEAVES = [path for path in leaves(WHOLE) if path != "predicate.sha256"]


def other(value: Any) -> Any:
    """Another value, of the same type where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value} " if isinstance(value, str) else "something"


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(LEAVES))
def test_any_changed_leaf_is_refused(path: str) -> None:
    changed = copy.deepcopy(WHOLE)
    put(path, other(at(WHOLE, path)))(changed)
    assert document.digest(changed) != WHOLE["predicate"]["sha256"]
    found = codes(verify(changed, now=NOW))
    assert "RCPT-DIGEST" in found or "RCPT-SCHEMA" in found


ODD = [10**400, 5e-324, 2**63 - 1, None, "\ud800", {"a": [1]}]


def test_an_odd_value_anywhere_is_told_in_one_sentence() -> None:
    alike = {re.sub(r"\.\d+(?=\.|$)", "", path): path for path in LEAVES}
    for path, value in itertools.product(alike.values(), ODD):
        if at(WHOLE, path) != value:
            changed = copy.deepcopy(WHOLE)
            put(path, value)(changed)
            found = verify(changed, now=NOW, require_gpu_kernels=True)
            assert {"RCPT-DIGEST", "RCPT-SCHEMA"} & {*codes(found)}, (path, value)
            assert all("\n" not in str(finding) for finding in found)


def test_the_digest_does_not_depend_on_order_or_spacing(tmp_path: Path) -> None:
    backwards = json.loads(json.dumps(WHOLE), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    path = tmp_path / "r.json"
    path.write_text(json.dumps(backwards, indent=7))
    assert verify(document.read(path), now=NOW) == []


# --- demands ---


def test_model_commit_and_age_are_demanded(tmp_path: Path) -> None:
    model, made = tmp_path / "made.gguf", receipt("cpu")
    model.write_bytes(b"a model made for the tests")
    assert verify(made, model=model, commit="0123456", max_age_days=1, now=NOW) == []
    model.write_bytes(b"another")
    assert codes(verify(made, model=model, now=NOW)) == ["RCPT-MODEL"]
    assert codes(verify(made, commit="fedcba", now=NOW)) == ["RCPT-COMMIT"]
    assert codes(verify(made, max_age_days=1, now=NOW + timedelta(days=2))) == ["RCPT-AGE"]
    with pytest.raises(WrongInput, match="cannot be read"):
        verify(made, model=tmp_path / "none.gguf", now=NOW)


def test_a_commit_with_changes_is_not_that_commit() -> None:
    dirty = edited(change("harness", dirty=True, changed=["kernels/tgemv/tgemv.h"]), "cpu")
    assert verify(dirty, now=NOW) == []
    assert codes(verify(dirty, commit="0123456", now=NOW)) == ["RCPT-COMMIT"]


def test_a_receipt_is_used_once() -> None:
    first, second = receipt("cpu", salt="1"), receipt("cpu", salt="2")
    assert replays([("a", first), ("b", second)]) == {}
    assert set(codes(replays([("a", first), ("b", first)])["b"])) == {"RCPT-REPLAYED"}
    taken = copy.deepcopy(second)
    measurement = first["predicate"]["runs"][0]["measurements"][1]
    taken["predicate"]["runs"][0]["measurements"][1] = measurement
    found = replays([("a", first), ("b", redigested(taken))])
    assert [finding.where for finding in found["b"]] == ["/predicate/runs/0/measurements/1/samples_s"]


# --- files ---

BROKEN = {
    "truncated": json.dumps(WHOLE)[:-200],
    "empty": "",
    "no JSON": "tokens/s: 9000",
    "no object": "[1, 2]",
    "NaN": json.dumps(WHOLE).replace('"reason": null', '"reason": NaN', 1),
    "infinite": '{"tokens_per_s": 1e999}',
    "a key twice": '{"predicateType": 1, "predicateType": 2}',
    "deep": "[" * 100_000,
    "long number": '{"a": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_receipt_is_told_in_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(BROKEN[name])
    with pytest.raises(WrongInput, match=r"r\.json is not a receipt") as told:
        document.read(path)
    assert "\n" not in str(told.value)


def test_huge_binary_and_missing_files_are_told(tmp_path: Path) -> None:
    huge, binary = tmp_path / "huge.json", tmp_path / "binary.json"
    huge.touch()
    os.truncate(huge, files.LARGEST + 1)
    binary.write_bytes(b"\xff\xfe\x00")
    for path, said in ((huge, "at most"), (binary, "not a receipt"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(WrongInput, match=said):
            document.read(path)


def test_nothing_that_is_not_finite_is_written(tmp_path: Path) -> None:
    predicate = {**WHOLE["predicate"], "seeds": {"a": float("nan")}}
    with pytest.raises(WrongInput, match="not finite"):
        build(predicate)
    with pytest.raises(WrongInput, match="is not a folder; create it first"):
        write(tmp_path / "none" / "r.json", WHOLE)
    assert list(tmp_path.iterdir()) == []


def test_a_write_replaces_the_whole_file_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    write(path, WHOLE)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WrongInput, match="No space left"):
        write(path, {"other": 1})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
