"""What lies on the device: compared with the file whatever the graph, and no table is in memory twice for it."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity import contracts
from kparity.backends.cpu import CpuBackend
from kparity.engine import Engine, resident
from kparity.engine.canary import Canary, Tripped
from kparity.engine.column_sums import column_sums
from kparity.errors import DeviceFault
from kparity.gates.candidate import Candidate
from kparity.gates.exact import gate_exact
from kparity.gates.kernels import gate_kernels
from kparity.gates.resident import gate_resident
from kparity.model import load_model
from kparity.ops.packing import unpack

from .gguf_files import TINY, Spec, write

WIDE = replace(TINY, layers=1, vocab=40_000, untied=True)


def candidate(path: Path, parts: int = 1, **options: object) -> Candidate:
    """The cpu backend with a model whose tables are bound in so many parts."""
    backend, model = CpuBackend(), load_model(path)
    rows = -(-model.hparams.vocab // parts)
    backend.info = msgspec.structs.replace(backend.info, max_binding=rows * model.hparams.width * 2)
    engine = Engine(model, backend, **options)  # type: ignore[arg-type]
    for rows in (1, engine.chunk):
        engine.launch_each(rows)
    assert len(engine.weights.head) == parts
    return Candidate(engine, None, contracts.load(contracts.PROBE))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (TINY, {"fused": False}),
        (replace(TINY, type="i2_s", scale_tensors=True), {}),
        (replace(TINY, block_scales=True), {"act": "block256"}),
        (replace(TINY, untied=True, type="tq1_0"), {"kv": "f32", "chunk": 8}),
    ],
)
def test_what_was_uploaded_is_the_file(tmp_path: Path, spec: Spec, options: dict[str, object]) -> None:
    one = candidate(write(tmp_path / "model.gguf", spec), **options)
    assert gate_resident(one).reason == "" and gate_exact(one).reason == ""
    words = one.engine.backend.host_memory(one.engine.weights.linears[1, "ffn_down"].words)
    assert words is not None
    words[5, 3] ^= 1
    assert "1 of 256 rows of ffn_down of layer 1 on the device are not the file's, the first is 5" in str(
        gate_resident(one).reason
    )


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"act": "block256"}])
def test_column_sums_see_one_weight_while_it_serves(tmp_path: Path, options: dict[str, object]) -> None:
    spec = replace(TINY, block_scales="act" in options)
    engine = candidate(write(tmp_path / "model.gguf", spec), **options).engine
    columns = unpack(engine.model.linear(1, "attn_q").words, 256).sum(axis=0)
    assert (column_sums(engine.model.linear(1, "attn_q").words) == columns).all()
    engine.column_sums_every = 4
    assert len(list(engine.generate([1, 2, 3], 8))) == 8
    words = engine.backend.host_memory(engine.weights.linears[1, "ffn_down"].words)
    assert words is not None
    words[17, 2] ^= 2  # -1 becomes +1, 0 becomes 2, +1 becomes -1
    engine.reset()
    made = engine.generate([1, 2, 3], 8)
    assert len([next(made) for _ in range(4)]) == 4
    with pytest.raises(DeviceFault, match="after 6 tokens: ffn_down of layer 1: its products add up to") as caught:
        next(made)
    assert caught.value.code == "KP-RESIDENT"
    words[17, 2] ^= 2
    engine.reset()
    told: list[str] = []
    engine.canary = Canary(engine, trip=told.append)
    made = engine.generate([1, 2, 3], 12)
    assert len([next(made) for _ in range(6)]) == 6
    words[17, 2] ^= 2
    with pytest.raises(Tripped, match="output is in doubt from position 0 of the sequence on"):
        list(made)
    assert "ffn_down of layer 1" in told[0]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_table_is_compared_where_it_lies_and_is_not_made_again(tmp_path: Path, parts: int) -> None:
    one = candidate(write(tmp_path / "model.gguf", WIDE), parts)
    tracemalloc.start()
    assert [gate(one).reason for gate in (gate_exact, gate_resident, gate_kernels)] == [""] * 3
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * WIDE.vocab * WIDE.width  # one and a half tables; made inputs took several
    weights, memory = one.engine.weights, one.engine.backend.host_memory
    for part, name in ((weights.embedding[-1], "the embedding"), (weights.head[-1], "the head")):
        table = memory(part.buffer)
        assert table is not None
        right = table[-1].copy()
        table[-1] *= 2
        assert name in gate_resident(one).reason and gate_kernels(one).code == "KP-KERNEL"
        table[-1] = right
    assert gate_resident(one).verdict == gate_kernels(one).verdict == "PASS"


class Flat:
    """A device whose buffers are arrays, parts of which it gives or not."""

    def __init__(self, divides: bool) -> None:
        self.divides, self.parts, self.wholes = divides, list[tuple[int, ...]](), 0

    def view(self, buffer: Any, at: int, shape: tuple[int, ...]) -> Any:
        self.parts.append((at, *shape))
        part = buffer.array.reshape(-1)[at : at + math.prod(shape)].reshape(shape)
        return SimpleNamespace(array=part, shape=shape) if self.divides else None

    def download(self, buffer: Any) -> np.ndarray:
        self.wholes += buffer.array.base is None
        given: np.ndarray = buffer.array
        return given


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize(("width", "dtype", "name"), [
    ((8,), np.float32, "f32"), ((3,), np.float16, "f16"), ((), np.float32, "f32"), ((2, 2), np.float32, "f32"),
])  # fmt: skip
def test_rows_that_differ_in_a_bit_are_counted_piece_by_piece(
    divides: bool, width: tuple[int, ...], dtype: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = np.random.default_rng(1).normal(size=(7, *width)).astype(dtype)
    row = max(1, math.prod(width)) * source.itemsize
    monkeypatch.setattr(resident, "PIECE", 3 * row + row // 2)
    mine = source.copy()
    backend: Any = Flat(divides)
    buffer: Any = SimpleNamespace(array=mine, shape=mine.shape, dtype=name)
    rows = lambda start, stop: source[start:stop]  # noqa: E731
    assert resident.wrong_rows(backend, buffer, rows) == []
    assert backend.parts[:3] == [(0, 3, *width), (row // source.itemsize * 3, 3, *width),
                                 (row // source.itemsize * 6, 1, *width)]  # fmt: skip
    assert backend.wholes == (not divides)
    for at in (0, 4, 6):
        mine.reshape(-1).view(np.uint8)[at * row + row - 1] ^= 1
    assert resident.wrong_rows(backend, buffer, rows) == [0, 4, 6]
    monkeypatch.setattr(resident, "PIECE", 1)
    assert resident.wrong_rows(backend, buffer, rows) == [0, 4, 6]
    backend.parts.clear()
    monkeypatch.setattr(resident, "PIECE", 7 * row)
    assert resident.wrong_rows(backend, buffer, rows) == [0, 4, 6] and backend.parts == []
    for other in (source.astype(np.float64), source[:3], source.reshape(7, -1, 1)):
        assert resident.wrong_rows(backend, buffer, lambda start, stop, other=other: other) == [*range(7)]
