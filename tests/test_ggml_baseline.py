"""ggml's own product beside a ternary GEMV: it is right, and a wrong one would be found."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from kparity import ops
from kparity.bench import llamacpp
from kparity.bench.ggml_baseline import GgmlSession
from kparity.bench.ops import Request, run
from kparity.bench.ops.cases import group
from kparity.errors import Unavailable
from tests.conftest import needing

SMALL = group(ops.get("tgemv").case(M=1, N=24, K=512), "step")
TYPES = ["TQ2_0"]


@pytest.fixture
def session() -> Iterator[Any]:
    with needing("llamacpp"):
        found = GgmlSession(threads=1, cold_mib=1)
    yield found
    found.close()


def test_products_are_right_cold_and_hot(session: Any) -> None:
    rotated, hot = session.build(SMALL, TYPES)
    assert rotated["about"]["copies"] * rotated["nbytes"] >= 1 << 20 and hot["about"]["copies"] == 1
    assert {rotated["nbytes"], hot["nbytes"]} == {24 * 512 // 256 * 66}
    for at in (0, 1):
        device, wall = session.sample(at)
        assert 0 < device == wall
        assert session.check(at) is None


def test_a_wrong_product_is_found(session: Any) -> None:
    session.build(SMALL, TYPES)
    product = session.products[1]
    weight_bytes = ctypes.cast(product.lib.ggml_get_data(product.weights[0]), ctypes.POINTER(ctypes.c_uint8))
    weight_bytes[0] ^= 1
    assert "output wrong" in session.check(1)
    product.sample = lambda: None  # nothing runs: the poison stays
    assert "output wrong" in session.check(1)


def test_other_ops_and_parts_of_blocks_have_no_product(session: Any) -> None:
    for case in (ops.get("add").case(M=1, D=8), ops.get("tgemv").case(M=8, N=24, K=512)):
        assert session.build(group(case, "step"), TYPES) == []
    assert session.build(SMALL, ["f32"]) == [] and session.ceiling() == []


def test_the_ratio_stands_in_the_row_of_the_gemv(session: Any) -> None:
    request = Request(["cpu"], "tgemv and K=256,M=1,N=16401", baselines=(llamacpp.NAME,), threads=1, cold_mib=0)
    result = run(request)
    rows = [row for row in result.rows if row["op"] in ("tgemv", "mul_mat_TQ2_0")]
    assert result.exit_code == 0 and len(rows) >= 2 and all(row["verified"] for row in rows)
    theirs = next(row for row in rows if row.get("baseline"))
    assert theirs["backend"] == llamacpp.NAME and "1 thread" in theirs["detail"]
    ours = next(row for row in rows if not row.get("baseline"))
    assert [each["baseline"] for each in ours["ratios"]] == [theirs["name"]]
    assert ours["ratios"][0]["ratio"] == pytest.approx(theirs["us"] / ours["us"])


def test_a_library_without_ggml_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Any:
        raise Unavailable("llama.cpp cannot be called", "pip install xllamacpp", "KP-LLAMACPP-NOLIB")

    monkeypatch.setattr(llamacpp, "library", gone)
    with pytest.raises(Unavailable, match="xllamacpp"):
        GgmlSession()
    monkeypatch.setattr(llamacpp, "library", lambda: (object(), None))
    with pytest.raises(Unavailable, match="another release"):
        GgmlSession()
