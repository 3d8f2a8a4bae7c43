"""ggml's own product beside a ternary GEMV: it is right, and a wrong one would be found."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kparity import ops
from kparity.bench import llamacpp
from kparity.bench.ggml_baseline import GgmlSession
from kparity.bench.ops import Request, run
from kparity.engines import llama_abi
from kparity.errors import Unavailable
from tests.conftest import needing

SMALL = ops.get("tgemv").case(M=1, N=24, K=512)


@pytest.fixture
def session() -> Iterator[Any]:
    with needing("llamacpp"):
        found = GgmlSession(threads=1, cold_mib=1)
    yield found
    found.close()


def test_products_are_right_cold_and_hot_and_a_wrong_one_is_found(session: Any, monkeypatch: Any) -> None:
    rotated, hot = (row for row, _ in session.build("tgemv", dict(SMALL.params)))
    assert rotated["copies"] * rotated["bytes"] >= 1 << 20 and hot["copies"] == 1
    assert {rotated["bytes"], hot["bytes"]} == {24 * 512 // 256 * 66}
    for at in (0, 1):
        device, wall = session.sample(at)
        assert 0 < device == wall and session.check(at)["wrong"] is None
    product = session.table[1]
    weight_bytes = ctypes.cast(product.lib.ggml_get_data(product.weights[0]), ctypes.POINTER(ctypes.c_uint8))
    weight_bytes[0] ^= 1
    assert "output wrong" in session.check(1)["wrong"]
    monkeypatch.setattr(product, "run", lambda: None)  # the poison stays
    assert "output wrong" in session.check(1)["wrong"]
    for case in (ops.get("add").case(M=1, D=8), ops.get("tgemv").case(M=8, N=24, K=512)):
        assert session.build(case.op, dict(case.params)) == [], "other ops and parts of blocks have no product"
    assert session.ceiling() == []


def test_the_ratio_stands_in_the_row_of_the_gemv(session: Any) -> None:
    request = Request(["cpu"], "tgemv and K=256,M=1,N=16401", baselines=(llamacpp.NAME,), threads=1, cold_mib=0)
    result = run(request)
    rows = [row for row in result.rows if row.op in ("tgemv", "mul_mat_TQ2_0")]
    assert result.exit_code == 0 and len(rows) >= 2 and all(row.verified for row in rows)
    theirs, ours = (next(row for row in rows if row.baseline == theirs) for theirs in (True, False))
    assert theirs.backend == llamacpp.NAME and "1 thread" in theirs.device.detail
    assert [each.baseline for each in ours.ratios] == [theirs.name]
    assert ours.ratios[0].ratio == pytest.approx(theirs.unit_s / ours.unit_s)


def test_a_library_without_ggml_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Any:
        raise Unavailable("llama.cpp cannot be called", "pip install xllamacpp", "KP-LLAMACPP-NOLIB")

    monkeypatch.setattr(llama_abi, "Library", gone)
    with pytest.raises(Unavailable, match="xllamacpp"):
        GgmlSession()
    monkeypatch.setattr(llama_abi, "Library", lambda: SimpleNamespace(ggml=object()))
    with pytest.raises(Unavailable, match="another release"):
        GgmlSession()
