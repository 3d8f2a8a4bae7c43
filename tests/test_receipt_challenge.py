"""Receipts of this machine: they verify, follow from their nonce, and are computed again; the in-toto test result."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kparity.gates import challenge
from kparity.model import load_model, writer
from kparity.ops.spec import Array
from kparity.receipts.results import ResultStatement
from kparity.receipts.statement import redigested
from tests.cli import run
from tests.made_receipts import edited, number, receipt

BENCH = ("bench", "--backends", "cpu,numpy", "--pp", "32", "--tg", "0", "--seconds", "1")
KINDS = {
    "bench": (*BENCH, "--nonce", "a word of ours"),
    "probe": ("probe", "--backends", "cpu", "--nonce", "a word of ours"),
    "text": ("probe", "--backends", "cpu,numpy"),
    "ops": ("bench", "--backends", "cpu", "--ops", "add[D=2560,M=1]", "--seconds", "0.05"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A receipt of each kind."""
    found = tmp_path_factory.mktemp("receipts")
    for name, command in KINDS.items():
        done = run(*command, "--receipt", str(found / f"{name}.json"))
        assert done.returncode == 0, done.stderr
    return found


def embedded() -> str:
    return str(load_model(None).path)


def test_what_a_nonce_draws_is_what_the_documentation_says() -> None:
    for nonce, seed in (("", 0), ("a word of ours", 3)):
        wanted = [number(nonce, "tokens", seed, at, below=1536) for at in range(40)]
        assert challenge.drawn(nonce, "tokens", seed, 40, 1536) == wanted
    assert challenge.positions("a", 1, 72) != challenge.positions("b", 1, 72)


def test_receipts_of_every_kind_pass_with_their_nonce_and_no_other(folder: Path) -> None:
    assert run("receipt", "verify", *(f"{folder}/{name}.json" for name in KINDS)).returncode == 0
    drawn = [f"{folder}/{name}.json" for name in ("bench", "probe")]
    assert run("receipt", "verify", *drawn, "--nonce", "a word of ours").returncode == 0
    other = run("receipt", "verify", *drawn, "--nonce", "another")
    assert other.returncode == 1 and other.stdout.count("RCPT-NONCE") == 2


@pytest.mark.parametrize("name", ["bench", "probe", "text"])
def test_logits_are_computed_again_elsewhere(name: str, folder: Path) -> None:
    path = f"{folder}/{name}.json"
    done = run("receipt", "recompute", path, "--model", embedded(), "-b", "numpy")
    assert done.returncode == 0 and "proved: model, tokens, output; self-reported: speed" in done.stdout, done.stderr
    other = run("receipt", "recompute", path, "--model", __file__)
    assert other.returncode == 2 and "Traceback" not in other.stderr


def test_logits_of_another_model_are_refused(folder: Path) -> None:
    lie = json.loads((folder / "probe.json").read_text())
    for each in lie["predicate"]["runs"][0]["logits"]:
        each["values"] = each["values"][::-1]
        each["argmax"] = 0 if 0 not in each["entries"] else 1
    (folder / "lie").write_text(json.dumps(redigested(lie)))
    assert run("receipt", "verify", f"{folder}/lie").returncode == 0, "no rule can see it"
    done = run("receipt", "recompute", f"{folder}/lie", "--model", embedded())
    assert done.returncode == 1 and "cpu: refused" in done.stdout and "proved" not in done.stdout


@pytest.mark.parametrize("change", ["larger", "shifted", "another nonce"])
def test_a_model_of_the_same_shape_is_refused(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = writer.random_ternary

    def changed(spec: writer.Spec, name: str, rows: int, k: int, gain: float) -> tuple[Array, Array]:
        weights, scales = made(spec, name, rows, k, gain)
        if change == "larger" and name == "blk.1.ffn_down.weight":
            scales = np.float32(np.float16(scales * 1.1))
        return np.roll(weights, 1, 0) if change == "shifted" and name == "blk.1.ffn_up.weight" else weights, scales

    right, other, told = (tmp_path / name for name in ("right.gguf", "other.gguf", "told.json"))
    writer.write(right, writer.TINY)
    monkeypatch.setattr(writer, "random_ternary", changed)
    writer.write(other, writer.TINY)
    assert run("probe", "-b", "cpu", "--model", str(other), "--nonce", "n", "--receipt", str(told)).returncode == 0
    lie = json.loads(told.read_text())
    with closing(load_model(str(right))) as model:
        lie["predicate"]["model"].update(name="right.gguf", sha256=model.sha256)
    lie["subject"][0] = {"name": "right.gguf", "digest": {"sha256": lie["predicate"]["model"]["sha256"]}}
    lie["predicate"]["request"]["command"][-5] = "right.gguf"
    if change == "another nonce":
        lie["predicate"]["nonce"] = lie["predicate"]["request"]["command"][-3] = "m"
    told.write_text(json.dumps(redigested(lie)))
    assert (run("receipt", "verify", str(told)).returncode == 0) is (change != "another nonce")
    done = run("receipt", "recompute", str(told), "--model", str(right), "-b", "numpy")
    assert done.returncode == 1 and "proved" not in done.stdout, done.stdout


def test_single_ops_name_no_model(folder: Path) -> None:
    statement = json.loads((folder / "ops.json").read_text())
    assert statement["predicate"]["model"] is None
    assert all("gguf" not in each["name"] for each in statement["subject"])


def test_a_nonce_is_printable_and_short() -> None:
    for nonce in ("x" * 129, "a\nb", "a\u202eb"):
        done = run("probe", "--backends", "cpu", "--nonce", nonce)
        assert done.returncode == 2 and "128 printable" in done.stderr


def test_the_test_result_has_the_form_and_the_verdicts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    assert run("receipt", "test-result", f"{folder}/text.json", str(out)).returncode == 0
    told = json.loads(out.read_text())
    msgspec.convert(told, ResultStatement)
    source = json.loads((folder / "text.json").read_text())
    assert told["subject"] == source["subject"] and told["predicate"]["result"] == "PASSED"
    gates = sum(len(each["parity"]["gates"]) for each in source["predicate"]["runs"])
    assert len(told["predicate"]["passedTests"]) == gates + 1 and told["predicate"]["failedTests"] == []
    (tmp_path / "lie.json").write_text(json.dumps(edited(lambda made: made["runs"][0]["logits"].clear(), "cpu")))
    lie = json.loads(run("receipt", "test-result", f"{tmp_path}/lie.json").stdout)["predicate"]
    assert lie["result"] == "FAILED" and lie["failedTests"] == ["receipt"]
    absent = tmp_path / "absent.json"
    absent.write_text(json.dumps(receipt("cpu", requested="cuda,cpu")))
    told = json.loads(run("receipt", "test-result", str(absent)).stdout)["predicate"]
    assert told["result"] == "WARNED" and told["warnedTests"] == ["cuda/dispatch"]
    pytest.importorskip("cryptography", reason="the extra sign is not installed")
    run("receipt", "keygen", f"{tmp_path}/k.pem")
    assert run("receipt", "sign", str(out), "--key", f"{tmp_path}/k.pem", "--output", f"{tmp_path}/s").returncode == 0
    (tmp_path / "odd").write_text(json.dumps({**json.loads(out.read_text()), "subject": []}))
    odd = run("receipt", "sign", f"{tmp_path}/odd", "--key", f"{tmp_path}/k.pem")
    assert odd.returncode == 2 and "Traceback" not in odd.stderr
