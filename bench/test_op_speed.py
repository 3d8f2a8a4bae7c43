"""Single ops, cold and hot. A round is one program of launches; ``extra_info`` tells how many."""

from __future__ import annotations

from typing import Any

import pytest

from kparity import ops
from kparity.bench.machine import cold_bytes
from kparity.bench.ops.cases import short
from kparity.bench.ops.inputs import facts_of
from kparity.bench.ops.rotation import SMALLEST, Rotation, Unsupported
from kparity.device.adapter import Backend
from kparity.ops.spec import Case

LAUNCHES = 32
"""In every round, so that rounds of two runs are comparable."""


@pytest.mark.parametrize("state", ["cold", "hot"])
def test_op(
    benchmark: Any, kparity_backend: Backend, case: Case, state: str, note: Any, pytestconfig: pytest.Config
) -> None:
    if state == "cold" and sum(arg.nbytes for arg in ops.get(case.op).args(case)) < SMALLEST:
        pytest.skip("so small a case lies in a cache during a decode step")
    cold = cold_bytes(kparity_backend.info, pytestconfig.getoption("kparity_cold_mib") << 20) if state == "cold" else 0
    if state == "cold" and not cold:
        pytest.skip("--kparity-cold-mib is 0")
    try:
        rotation = Rotation(kparity_backend, case, facts_of(case), cold, launches=LAUNCHES)
    except Unsupported as reason:
        pytest.skip(f"{kparity_backend.name}: {reason}")
    benchmark(rotation.sample)
    work = ops.get(case.op).work(case)
    note(
        rotation.check(), f"{short(case)} {state}", case=case.id, state=state, kernel=rotation.kernel_id,
        launches=rotation.per_sample, copies=rotation.copies, beyond_caches=rotation.cold, bytes=work.bytes,
        flops=work.flops,
    )  # fmt: skip
