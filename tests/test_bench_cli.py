"""``kparity bench`` as it is typed: what is measured, what is refused, what is said, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kparity.cli.bench import bench
from kparity.cli.schema import schema_of
from tests.cli import TAG, run

NO_CUDA = {"CUDA_VISIBLE_DEVICES": ""}
QUICK = ("--pp", "32", "--tg", "0", "--seconds", "0.5")


def test_cpu_is_measured_verified_and_written_down(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    done = run(
        "bench", "--backends", "cpu", "--pp", "32,600", "--tg", "0,512", "--seconds", "1", "--receipt", str(path)
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "600 tokens exceed the model's context of 512" in " ".join(done.stdout.split())
    assert "PASS" in done.stdout and "the same bits" in done.stdout and "Backend: cpu" in done.stderr
    document = json.loads(path.read_text())
    jsonschema.validate(document, schema_of("receipt"))
    found = document["predicate"]
    (only,) = found["runs"]
    assert [row["name"] for row in only["measurements"]] == ["pp32", "tg@0"]
    assert [each["name"] for each in only["skipped"]] == ["pp600", "tg@512"]
    assert only["parity"]["verdict"] == "PASS" and len(only["parity"]["gates"]) > 10
    assert only["timed_output"]["passed"] and only["timed_output"]["cosine"] > 0.99
    assert only["determinism"]["identical"] and only["determinism"]["repeats"] >= 5
    assert found["serving"] == "cpu" and found["fallback"][0]["status"] == "accepted"
    assert all(kernel["dispatches"] > 0 for kernel in only["kernels"])
    assert {each["name"] for each in document["subject"]} == {"embedded.gguf", *(k["id"] for k in only["kernels"])}
    verified = run("receipt", "verify", str(path))
    assert verified.returncode == 0, verified.stdout
    refused = run("receipt", "verify", "--require-gpu-kernels", str(path))
    assert refused.returncode == 1 and "RCPT-" in refused.stdout


def test_single_ops_are_measured_and_written_down(tmp_path: Path) -> None:
    path = tmp_path / "ops.json"
    done = run("bench", "--ops", "add and D=1,", "--backends", "cpu,cuda", "--json", str(path), env=NO_CUDA)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())["predicate"]
    jsonschema.validate(json.loads(path.read_text()), schema_of("receipt"))
    assert (
        any(row["op"] == "add" and row["unit_s"] > 0 and row["verified"] for row in found["ops"]) and not found["runs"]
    )
    assert [each["status"] for each in found["fallback"]] == ["accepted", "unavailable"]
    add = next(row for row in found["ops"] if row["op"] == "add")
    assert add["kernel"] in {each["name"] for each in json.loads(path.read_text())["subject"]}
    assert add["dispatches"] >= len(add["device_s"]) * add["units"] > 0
    assert run("receipt", "verify", "--require-parity", str(path)).returncode == 0
    assert "RCPT-NO-GPU-KERNELS" in run("receipt", "verify", "--require-gpu-kernels", str(path)).stdout
    assert run("bench", "--ops", "add and D=1,", "--backends", "cuda", env=NO_CUDA).returncode == 3
    assert run("bench", "--ops", "no-such-op", "--backends", "cpu").returncode == 2


@pytest.mark.parametrize(
    ("given", "ops", "wanted"),
    [(None, None, 30.0), (None, "add", 3.0), (7.0, None, 7.0), (7.0, "add", 7.0)],
)
def test_the_sampling_time_reaches_what_samples(
    monkeypatch: pytest.MonkeyPatch, given: float | None, ops: str | None, wanted: float
) -> None:
    class Reached(Exception):
        """What the request says."""

    def stop(request: Any, *_: Any) -> None:
        raise Reached(request.seconds)

    monkeypatch.setattr("kparity.bench.ops.run", stop)
    monkeypatch.setattr("kparity.bench.endtoend.EndToEndRun.__init__", lambda self, request, log: stop(request))
    arguments = ["--backends", "cpu", "--no-parity", *(["--ops", ops] if ops else [])]
    arguments += ["--seconds", str(given)] if given else []
    with pytest.raises(Reached) as told:
        bench.main(arguments, standalone_mode=False)
    assert told.value.args == (wanted,)


def test_a_rejected_backend_is_not_timed() -> None:
    done = run("bench", "--backends", "liar-interleaved,cpu", *QUICK, "--json", "-", liars=True)
    found = json.loads(done.stdout)["predicate"]
    assert f"[{TAG}] liar-interleaved path rejected" in done.stderr
    assert [each["backend"] for each in found["runs"]] == ["cpu"] and found["serving"] == "cpu"
    assert [each["status"] for each in found["fallback"]] == ["rejected", "accepted"]
    assert done.returncode == 1, "a backend ran and failed a gate"


def test_without_parity_every_number_says_so_and_wrong_output_is_still_found() -> None:
    done = run("bench", "--backends", "liar-interleaved,cpu", *QUICK, "--no-parity", liars=True)
    assert done.returncode == 1
    assert done.stdout.count("INVALID-CORRECTNESS") == 4 and "PASS" not in done.stdout
    assert "liar-interleaved: the timed output is wrong" in done.stderr
    right = run("bench", "--backends", "cpu", *QUICK, "--no-parity")
    assert right.returncode == 0 and "INVALID-CORRECTNESS" in right.stdout


@pytest.mark.parametrize(
    ("liar", "words"),
    [
        ("changed", "the timed output is wrong"),  # right in its probe, wrong afterwards
        ("late", "gave other bits"),  # NaN after a while; found by --no-parity, which lets it come that far
    ],
)
def test_a_backend_that_turns_wrong_while_it_is_timed(liar: str, words: str) -> None:
    more = ("--no-parity",) if liar == "late" else ()
    done = run("bench", "--backends", f"liar-{liar}", *QUICK, *more, liars=True)
    assert done.returncode == 1 and words in done.stderr, done.stderr


@pytest.mark.parametrize(("liar", "words"), [("crash", "crashed (SIGSEGV)"), ("exit", "vendor library: giving up")])
def test_a_backend_that_takes_its_process_down_costs_a_row(liar: str, words: str) -> None:
    done = run("bench", "--backends", f"liar-{liar},cpu", *QUICK, "--no-parity", "--json", "-", liars=True)
    found = json.loads(done.stdout)["predicate"]
    assert done.returncode == 1 and words in found["fallback"][0]["reason"], done.stderr
    assert [each["backend"] for each in found["runs"]] == ["cpu"] and found["runs"][0]["measurements"]


def test_nothing_measured_is_inconclusive_and_the_document_goes_to_stdout_alone() -> None:
    done = run("bench", "--backends", "cpu", "--require-gpu", *QUICK, "--tg", "-", "--json", "-")
    assert done.returncode == 3 and "KP-NOT-GPU" in done.stderr and json.loads(done.stdout)["predicate"]["runs"] == []
    done = run("bench", "--backends", "cpu", "--pp", "600", "--tg", "-")
    assert done.returncode == 3 and "exceed the model's context" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backends", "cpuu"), "did you mean 'cpu'"),
        (("--ops", "--backends", "cpuu"), "did you mean 'cpu'"),  # --ops without an expression
        (("--model", "x.gguf", "--shape", "tiny"), "exclude each other"),
        (("--model", "no-such.gguf"), "no-such.gguf"),
        (("--shape", "2b-5t"), "did you mean '2b-4t'"),
        (("--pp", "32,x"), "no list of numbers"),
        (("--pp", "0"), "below 1"),
        (("--pp", "-", "--tg", "-"), "nothing to measure"),
        (("--no-parity", "--require-gpu"), "exclude each other"),
        (("--ops", "add", "--nonce", "n"), "draws nothing from a nonce"),
        (("--baseline", "torch"), "for single ops"),
        (("--baseline-file", "f16.gguf"), "give that"),
        (("--ops", "add", "--shape", "tiny"), "leave --model and --shape out"),
        (("--isa", "avx1024"), "expected one of"),
        (("--seconds", "0"), "--seconds"),
        (("--receipt", "/no/such/folder/r.json"), "is not a folder"),
        (("--baseline", "vllm"), "llama.cpp"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    done = run("bench", "--backends", "cpu", *arguments) if "--backends" not in arguments else run("bench", *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
