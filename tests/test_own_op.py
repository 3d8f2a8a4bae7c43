"""Bring your own op: a package with the entry-point group ``kparity.ops`` is checked as the built-in ops are."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kparity import ops
from kparity.check.core import check_case
from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.errors import CompileFailed, UnknownName, WrongInput
from kparity.ops import assemble
from kparity.testing import assert_parity
from tests.cli import run
from tests.conftest import needing

OWN = Path(__file__).parent / "own_ops"
PACKAGE = "kparity_own_ops"


def forget() -> None:
    """Entry points are read once per process."""
    ops.targets.cache_clear()
    ops.get.cache_clear()
    assemble._has_text.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, found as an installed one is."""
    shutil.copytree(OWN, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    forget()


@pytest.fixture
def device(name: str) -> Iterator[Backend]:
    with needing(name):
        backend = registry.open_backend(name)
    yield backend
    backend.close()


def entry_points(folder: Path, *lines: str) -> None:
    path = folder / "kparity_own_ops-1.0.dist-info" / "entry_points.txt"
    path.write_text("\n".join(["[kparity.ops]", *lines, ""]), encoding="utf-8")


def test_its_name_is_known_and_the_built_in_ones_stay(folder: Path) -> None:
    assert ops.names() == [*ops.BUILTIN, "leaky", "leaky_wrong", "leaky_alone"]
    assert ops.get("leaky").name == "leaky" and [op.name for op in ops.every()] == list(ops.NAMES)
    with pytest.raises(UnknownName, match="did you mean 'leaky'"):
        ops.get("leeky")
    entry_points(folder, "tgemv = kparity_own_ops:LEAKY")
    forget()
    with pytest.raises(WrongInput, match="'tgemv' is registered twice"):
        ops.names()
    assert type(ops.get("tgemv")).__module__ == "kparity.kernels.tgemv"


@pytest.mark.parametrize("name", ["numpy", "opencl", "wgpu", "torch"])
def test_a_right_op_passes_wherever_it_has_a_text(device: Backend) -> None:
    op = ops.get("leaky")
    for case in op.cases():
        assert device.supports(op, case) is None
        assert {(record.outcome, record.reason) for record in check_case(device, op, case)} == {("PASS", "")}


@pytest.mark.parametrize(("name", "outcome"), [("opencl", "PASS"), ("wgpu", "FAIL"), ("torch", "UNSUPPORTED")])
def test_a_wrong_text_is_rejected_and_a_right_one_beside_it_is_not(device: Backend, outcome: str) -> None:
    op = ops.get("leaky_wrong")
    records = check_case(device, op, op.case(N=1000))
    assert [record.outcome for record in records] == [outcome], records


@pytest.mark.parametrize("name", ["opencl", "wgpu", "torch", "cpu"])
def test_a_dialect_without_a_text_is_unsupported_with_the_reason(device: Backend, name: str) -> None:
    op = ops.get("leaky_alone")
    (record,) = check_case(device, op, op.case(N=5))
    reason = f"leaky_alone is an op of {PACKAGE}" if name == "cpu" else "leaky_alone has no "
    assert record.outcome == "UNSUPPORTED" and record.reason.startswith(reason)


def test_every_built_in_op_has_every_text() -> None:
    for op in ops.every():
        for dialect in ("gpu", "wgsl", "torch", "native", "numpy"):
            assert assemble.missing_text(op, dialect) is None


@pytest.mark.parametrize("name", ["wgpu"])
def test_a_compile_error_names_the_file_of_the_package(device: Backend, folder: Path) -> None:
    text = folder / PACKAGE / "leaky" / "leaky.wgsl"
    text.write_text(text.read_text().replace("select(", "selected("), encoding="utf-8")
    op = ops.get("leaky")
    with pytest.raises(CompileFailed, match=rf"^{PACKAGE}/leaky/leaky\.wgsl:13: "):
        device.build(op, op.case(N=5))


def test_assert_parity_takes_it() -> None:
    op = ops.get("leaky")
    x = op.inputs(op.case(N=64), np.random.default_rng(0))
    right = op.reference(op.case(N=64), x)[0].astype("float32")
    assert_parity(right, op="leaky", case={"N": 64}, inputs=x)
    with pytest.raises(AssertionError):
        assert_parity(right.clip(0), op="leaky", case={"N": 64}, inputs=x)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("other = kparity_own_ops:LEAKY", "calls itself 'leaky'"),
        ("leaky = kparity_own_ops:Leaky", "not an instance"),
        ("leaky = kparity_own_ops:NOTHING", "cannot be imported"),
        ("leaky = kparity_own_nothing:OP", "cannot be imported"),
    ],
)
def test_a_bad_entry_point_is_one_sentence(line: str, sentence: str, folder: Path) -> None:
    entry_points(folder, line)
    with pytest.raises(WrongInput, match=sentence):
        ops.get(line.split(" ")[0])


def test_the_command_checks_it() -> None:
    for backend in ("opencl", "wgpu"):
        with needing(backend):
            registry.open_backend(backend).close()
    done = run("check", "-o", "leaky,leaky_wrong", "-b", "numpy,opencl,wgpu", env={"PYTHONPATH": str(OWN)})
    text = done.stdout + done.stderr
    assert done.returncode == 1 and "leaky_wrong[" in text and "leaky[" not in text, text
