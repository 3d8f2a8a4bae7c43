"""A model whose values nobody can compute with: the model is named, and no backend is blamed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kparity.model import load_model, soundness
from kparity.model.writer import tensors

from .cli import run
from .gguf_files import TINY, Spec, altered, entry

NAN, INF = float("nan"), float("inf")
Q, EMBEDDING, HEAD, NORM = "blk.1.attn_q.weight", "token_embd.weight", "output.weight", "blk.1.ffn_norm.weight"


def changed(folder: Path, name: str, at: int, value: float, dtype: str, spec: Spec = TINY) -> Path:
    """A model with a value at a byte of a tensor."""
    old = next(each for each in tensors(spec) if each.name == name)
    raw = bytearray(b"".join(old.make()))
    data = np.array(value, dtype).tobytes()
    raw[at : at + len(data)] = data
    return altered(folder, spec, tensors={name: entry(name, old.shape, old.type_id, bytes(raw))})


@pytest.mark.parametrize(
    ("kind", "name", "at", "value", "dtype", "says"),
    [
        ("tq2_0", Q, 66 * 3 + 64, NAN, "<f2", "1 scales NaN, infinite or negative, the first in row 3"),
        ("tq1_0", Q, 54 * 7 + 52, INF, "<f2", "the first in row 7"),
        ("tq2_0", Q, 66 * 255 + 64, -1.0, "<f2", "the first in row 255"),
        ("i2_s", Q, 256 * 64, INF, "<f4", "1 scales"),
        ("tq2_0", EMBEDDING, 0, NAN, "<f2", "1 values NaN or infinite, the first in row 0"),
        ("tq2_0", EMBEDDING, 512 * 299 + 510, -INF, "<f2", "the first in row 299"),
        ("tq2_0", HEAD, 512 * 17, NAN, "<f2", "the first in row 17"),
        ("tq2_0", NORM, 4, INF, "<f4", "the first in row 0"),
    ],
)
def test_a_value_that_is_not_finite_is_the_models_fault(
    tmp_path: Path, kind: str, name: str, at: int, value: float, dtype: str, says: str
) -> None:
    path = changed(tmp_path, name, at, value, dtype, replace(TINY, type=kind, untied=True))
    (fault,) = soundness.faults(load_model(path))
    assert (fault.tensor, fault.fatal) == (name, True) and says in fault.reason
    report = json.loads(run("model", "inspect", str(path), "--json").stdout)
    assert report["suspect"] == [name]
    shown = run("model", "inspect", str(path)).stdout
    assert "1 SUSPECT" in shown and name in shown


@pytest.mark.parametrize("command", [("probe",), ("run", "--prompt", "the"), ("bench",), ("bench", "--no-parity")])
def test_the_model_is_refused_and_no_backend_is_blamed(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = changed(tmp_path, EMBEDDING, 512 * 299, NAN, "<f2")
    done = run(*command, "--backends", "numpy,cpu", "--model", str(path))
    assert done.returncode == 2 and "rejected" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert f"{path}: tensor {EMBEDDING}: 1 values NaN or infinite, the first in row 299" in line


@pytest.mark.parametrize(
    ("kind", "name", "at", "value", "dtype", "row"),
    [("tq2_0", Q, 66 * 9 + 64, 2e4, "<f2", 9), ("i2_s", Q, 256 * 64, 1e30, "<f4", 0),
     ("tq2_0", NORM, 4, -1e9, "<f4", 0), ("tq2_0", HEAD, 512 * 17, 6e4, "<f2", 17)],
)  # fmt: skip
def test_a_finite_value_that_no_model_has_is_suspect(
    tmp_path: Path, kind: str, name: str, at: int, value: float, dtype: str, row: int
) -> None:
    path = changed(tmp_path, name, at, value, dtype, replace(TINY, type=kind, untied=True))
    fault = soundness.Fault(name, f"a value of 16384 or more, the first in row {row}", False)
    assert soundness.faults(load_model(path)) == [fault]
    assert json.loads(run("model", "inspect", str(path), "--json").stdout)["suspect"] == [name]


def test_what_only_the_reference_notices_is_the_models_fault_too(tmp_path: Path) -> None:
    path = changed(tmp_path, Q, 2, 255, "u1")  # a code that is no ternary weight
    done = run("probe", "--backends", "numpy,cpu", "--model", str(path))
    assert done.returncode == 2 and "rejected" not in done.stderr
    assert f"tensor {Q}: code 3 at row 0, column 2 is not a ternary weight" in done.stderr


@pytest.mark.parametrize("zeros", [True, False])
def test_a_model_that_gives_nothing_to_compare_is_the_models_fault(tmp_path: Path, zeros: bool) -> None:
    """BOS has an embedding of zeros; the product of two scales is beyond f32 where activations meet it."""
    if zeros:
        path = changed(tmp_path, EMBEDDING, 0, 0.0, "(256,)<f2")
    else:
        huge = entry("blk.0.attn_q.scale", (1,), 0, np.float32(3e38).tobytes())
        path = altered(tmp_path, tensors={huge.name: huge})
    done = run("probe", "--backends", "numpy,cpu", "--model", str(path))
    assert done.returncode == 2 and "rejected" not in done.stderr
    which = "no single value" if zeros else "tensor blk.0.attn_q.scale has a value of 16384 or more, the first in row 0"
    assert f"its logits are not finite, or all zero, by the plain pass too: {which}" in done.stderr


def test_scales_that_are_all_zero_are_suspect(tmp_path: Path) -> None:
    silent = {
        each.name: entry(each.name, each.shape, each.type_id, bytes([0x55] * 64 + [0, 0]) * (each.n_bytes // 66))
        for each in tensors(TINY) if each.type_id == 35
    }  # fmt: skip
    (one,) = soundness.faults(load_model(altered(tmp_path, tensors={Q: silent[Q]})))
    assert one == soundness.Fault(Q, "all scales zero", False)
    assert any(each.fatal for each in soundness.faults(load_model(altered(tmp_path, tensors=silent))))
