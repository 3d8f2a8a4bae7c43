"""Breakages of the harness itself: each test fails where a limit is wider, or a look at something is left out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from kparity import contracts, ops
from kparity.backends.cpu import CpuBackend
from kparity.check import core
from kparity.device.adapter import Launch, Program
from kparity.engine import Engine
from kparity.gates import kernels, reference
from kparity.gates.candidate import Candidate
from kparity.gates.decode import token_verdicts
from kparity.gates.exact import gate_exact
from kparity.model import load_model
from kparity.numerics.compare import judge
from kparity.ops.spec import ErrorBound

from .liars.kparity_liars import DroppedColumn


@pytest.mark.parametrize(("share", "holds"), [(0.99, True), (1.01, False), (1.4, False), (-1.4, False)])
def test_an_element_is_right_up_to_its_limit_and_no_further(share: float, holds: bool) -> None:
    truth, limit = np.array([1.0, -3.0, 0.0]), np.array([0.25, 0.5, 0.125])
    found = judge("a", "b", truth + share * limit, truth, ErrorBound(limit, "made"))
    assert found.ok is holds and found.wrong == (0 if holds else 3)


@pytest.mark.parametrize(("gap", "verdict"), [(1.9, "NEAR-TIE"), (2.1, "DIVERGED"), (5.9, "DIVERGED")])
def test_a_tie_is_near_within_twice_the_noise(gap: float, verdict: str) -> None:
    assert token_verdicts(np.array([0]), np.array([[0.0, gap]]), 1.0).tolist() == [verdict]


class Meddling(CpuBackend):
    """Does something more at every launch of ``add``."""

    def __init__(self, more: Callable[[CpuBackend, Launch], object]) -> None:
        super().__init__()
        self.more = more

    def record(self, launches: Sequence[Launch]) -> Program:
        program = super().record(launches)
        right = program._run

        def run() -> None:
            right()
            self.more(self, launches[0])

        program._run = run
        return program


def before(backend: CpuBackend, launch: Launch) -> None:
    ctypes.memset(launch.buffers[-1].handle.ctypes.data - 4, 0, 4)


def behind(backend: CpuBackend, launch: Launch) -> None:
    out = launch.buffers[-1].handle
    ctypes.memset(out.ctypes.data + out.nbytes, 0, 4)


@pytest.mark.parametrize(
    ("more", "count"),
    [
        (lambda backend, launch: None, ""),
        (before, "guard_changes"),
        (behind, "guard_changes"),
        (lambda backend, launch: backend.dispatches.add(launch.kernel_id), "launch_excess"),
        (lambda backend, launch: backend.dispatches.add("memset_cpu_generic"), "launch_excess"),
    ],
    ids=["nothing", "before", "behind", "twice", "another kernel"],
)
def test_what_a_kernel_does_beside_its_work_is_counted(more: Callable[..., object], count: str) -> None:
    op = ops.get("add")
    (record,) = core.check_case(Meddling(more), op, op.case(M=2, D=70), kinds=["random"])
    found = {name: value for name, value in record.counts.items() if value}
    assert [*found] == ([count] if count else []) and (record.outcome == "PASS") is not bool(count)


def test_the_gate_exact_looks_at_a_chunk_as_well_as_a_row() -> None:
    for rows in (range(1, 2), range(2, 1000)):
        model = load_model(None)
        liar = type("Liar", (DroppedColumn,), {"rows": rows}).open()
        wanted = reference.compute(model, reference.probe_tokens(model, 9), act="token", kv="f16")
        gate = gate_exact(Candidate(Engine(model, liar), wanted, contracts.load(contracts.PROBE)))
        assert (gate.verdict, gate.code) == ("FAIL", "KP-EXACT-BITS"), rows
        liar.close()
        model.close()


def test_a_large_table_gets_random_inputs_alone() -> None:
    op = ops.get("rmsnorm")
    wide, narrow = (op.case(D=width, M=1, eps=1e-5) for width in (1 << 17, 1 << 10))
    assert kernels.kinds_of(op, wide) == ["random"] and len(kernels.kinds_of(op, narrow)) > 1


def test_a_small_kernel_of_a_step_is_tried_on_every_hard_kind_of_input_that_its_op_has() -> None:
    hard, tried = {"outlier", "small", "ties", "zeros", "stale"}, set[str]()
    for op in ops.every():
        for case in op.cases():
            if dict(case.params).get("M") == 1 and len(kinds := kernels.kinds_of(op, case)) > 1:
                assert hard & {*op.kinds(case)} <= {*kinds}, case
                tried |= hard & {*kinds}
    assert len(tried) >= 3, tried
