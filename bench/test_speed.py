"""Single ops, cold and hot, and the embedded model from tokens to logits. A round of an op is one program of launches;
``extra_info`` tells how many.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from kparity import contracts, ops
from kparity.bench.machine import cold_bytes
from kparity.bench.ops.rotation import SMALLEST, Rotation, Unsupported
from kparity.bench.subject import sequence
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import Model, load_model
from kparity.numerics.compare import cosine
from kparity.ops.spec import Array, Case

LAUNCHES = 32
"""In every round of an op, so that rounds of two runs are comparable."""
STEPS = 8
"""Decode steps in a round."""
LONGEST = 136


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
        rotation = Rotation(kparity_backend, case, cold, launches=LAUNCHES)
    except Unsupported as reason:
        pytest.skip(f"{kparity_backend.name}: {reason}")
    benchmark(rotation.sample)
    row = rotation.row
    note(
        rotation.check(), row.name.partition(" ")[2], case=row.case, state=state, kernel=row.kernel,
        launches=row.units, copies=row.copies, beyond_caches=row.cold, bytes=row.bytes,
        flops=rotation.flops,
    )  # fmt: skip


@lru_cache(maxsize=1)
def made() -> tuple[Model, list[int], Array]:
    """The model, tokens, and the reference backend's logits [LONGEST, vocab]."""
    model = load_model()
    tokens = sequence(model, 5, LONGEST)
    return model, tokens, Engine(model, open_backend("numpy"), context=LONGEST).score(tokens)


@pytest.fixture
def engine(kparity_backend: Backend) -> Engine:
    """Not closed: that would close the backend, which other tests use."""
    return Engine(made()[0], kparity_backend, context=LONGEST)


def wrong(logits: Array, position: int) -> str | None:
    """None, or how far the logits are from the reference's, by the probe's contract."""
    limit = contracts.load(contracts.PROBE).threshold("positions_cosine")
    value = cosine(logits, made()[2][position])
    return None if limit.holds(value) else f"cosine with the reference is {value:.6f} at position {position}"


@pytest.mark.parametrize("length", [32, 128])
def test_prefill(benchmark: Any, engine: Engine, note: Any, length: int) -> None:
    model, tokens, _ = made()

    def prompt() -> Array:
        engine.reset()
        return engine.prefill(tokens[:length])

    note(wrong(benchmark(prompt), length - 1), f"prefill {length}", tokens=length, model=model.sha256)


@pytest.mark.parametrize("depth", [0, 128])
def test_decode(benchmark: Any, engine: Engine, note: Any, depth: int) -> None:
    model, tokens, _ = made()
    engine.reset()
    if depth:
        engine.prefill(tokens[:depth])

    def steps() -> Array:
        engine.rewind(depth)
        return [engine.step(token) for token in tokens[depth : depth + STEPS]][-1]

    problem = wrong(benchmark(steps), depth + STEPS - 1)
    note(problem, f"decode behind {depth}, {STEPS} steps", tokens=STEPS, model=model.sha256)
