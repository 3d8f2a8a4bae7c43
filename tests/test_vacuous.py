"""What could not have failed proves nothing: models that show no error of a backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kparity import contracts
from kparity.gates import reference, vacuous
from kparity.model import load_model
from kparity.model.writer import TINY, Spec, tensors

from .cli import TAG, run
from .gguf_files import altered, entry

Change = Callable[[np.ndarray], None]


def zeros(array: np.ndarray) -> None:
    array[:] = 0


def most(array: np.ndarray) -> None:
    array[len(array) // 3 :] = 0


def alike(array: np.ndarray) -> None:
    array[:] = array[0]


LAYERS = range(TINY.layers)
UNTIED = Spec(**{**vars(TINY), "untied": True})
SILENT: dict[str, tuple[list[str], Change]] = {
    "layers": ([f"blk.{at}.{name}_sub_norm.weight" for at in LAYERS for name in ("attn", "ffn")], zeros),
    "without cache": ([f"blk.{at}.attn_sub_norm.weight" for at in LAYERS], zeros),
    "without RoPE": ([f"blk.{at}.attn_k.weight" for at in LAYERS], zeros),
    "without feed-forward": ([f"blk.{at}.ffn_norm.weight" for at in LAYERS], zeros),
    "not zero": (["output.weight"], most),
    "differ by": (["output.weight"], alike),
    "embedding": (["token_embd.weight"], alike),
}
"""What is said, or a name → the tensors that are changed, and how."""


def silent(folder: Path, names: list[str], change: Change) -> Path:
    """A model some of whose tensors are changed; of a ternary tensor every scale is."""
    given, made = {each.name: each for each in tensors(UNTIED)}, {}
    for name in names:
        old, raw = given[name], bytearray(b"".join(given[name].make()))
        if "_k." in name:
            change(np.frombuffer(raw, np.uint8).reshape(-1, 66)[:, 64:])
        else:
            shape = old.shape[::-1]
            change(np.frombuffer(raw, np.float32 if len(shape) == 1 else np.float16).reshape(shape))
        made[name] = entry(name, old.shape, old.type_id, bytes(raw))
    return altered(folder, UNTIED, tensors=made)


@pytest.mark.parametrize("says", SILENT)
def test_a_model_that_shows_nothing_is_mistrusted(says: str, tmp_path: Path) -> None:
    path = silent(tmp_path, *SILENT[says])
    receipt = tmp_path / "receipt.json"
    done = run("probe", "-b", "cpu", "--model", str(path), "--json", "--receipt", str(receipt))
    (row,) = json.loads(done.stdout)["rows"]
    assert (done.returncode, row["status"], row["code"]) == (3, "mistrusted", "KP-VACUOUS"), done.stderr
    verdicts = {gate["name"]: gate["verdict"] for gate in row["gates"]}
    compare = ("BOS", "positions", "prefill", "replay", "reset", "decode", "turns", "depth")
    assert {name for name, verdict in verdicts.items() if verdict == "MISTRUSTED"} == {*compare}
    assert verdicts["exact"] == verdicts["kernels"] == "PASS"
    wanted = {"layers": "without cache", "embedding": "without cache"}.get(says, says)
    assert wanted in row["reason"] and f"[{TAG}] cpu path rejected, refusing" in done.stderr
    verified = run("receipt", "verify", "--require-parity", str(receipt))
    assert verified.returncode == 1 and "RCPT-PARITY-REQUIRED" in verified.stdout
    assert run("receipt", "verify", str(receipt)).returncode == 0


def test_what_a_few_positions_do_not_tell_all_of_them_do() -> None:
    with closing(load_model(None)) as model:
        tokens = reference.probe_tokens(model, 72, "n21")
        compute = partial(reference.compute, model, tokens, act="token", kv="f32")
        few, contract = compute(controlled=8), contracts.load(contracts.PROBE)
        assert vacuous.doubts(few, contract) == ["a pass without RoPE is taken for right"]
        found = vacuous.controlled(compute, contract)
    assert {len(each) for each in found.controls.values()} == {72} and not vacuous.doubts(found, contract)


def test_a_probe_of_the_first_token_alone_is_inconclusive(tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    done = run("probe", "-b", "cpu,numpy", "--depth", "bos", "--receipt", str(receipt))
    assert done.returncode == 3 and "INCONCLUSIVE" in done.stdout and "accepted" not in done.stdout
    verified = run("receipt", "verify", "--require-parity", str(receipt))
    assert verified.returncode == 1 and "RCPT-PARITY-REQUIRED" in verified.stdout
