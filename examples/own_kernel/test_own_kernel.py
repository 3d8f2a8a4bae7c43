"""Somebody's own kernels, held against fp64 truth by bounds that follow from what they compute."""

from __future__ import annotations

import my_kernels
import numpy as np
import pytest

from kparity import ops
from kparity.device.adapter import Backend
from kparity.testing import assert_parity

pytestmark = pytest.mark.parity
RNG = np.random.default_rng(20240229)  # both signs, so that sums cancel

GEMV = ops.get("tgemv")
GEMV_CASE = GEMV.case(M=3, N=17, K=768, out="i32")
GEMV_INPUTS = GEMV.inputs(GEMV_CASE, RNG)
NORM = ops.get("rmsnorm")
NORM_CASE = NORM.case(M=3, D=257)
NORM_INPUTS = NORM.inputs(NORM_CASE, RNG)


def test_gemv_gives_every_bit() -> None:
    """An op of kparity: truth, and the rule that integers are exact, come with it."""
    words, _wscale, q, _ascale, _qsum = GEMV_INPUTS
    assert_parity(my_kernels.ternary_gemv(words, q), op=GEMV, case=GEMV_CASE, inputs=GEMV_INPUTS)


def test_gemv_that_subtracts_twice_is_rejected() -> None:
    words, _wscale, q, _ascale, _qsum = GEMV_INPUTS
    with pytest.raises(AssertionError, match="elements outside their bound"):
        assert_parity(my_kernels.ternary_gemv(words, q, subtract=2), op=GEMV, case=GEMV_CASE, inputs=GEMV_INPUTS)


def test_norm_is_within_its_bound() -> None:
    assert_parity(my_kernels.rms_norm(*NORM_INPUTS), op="rmsnorm", case={"M": 3, "D": 257}, inputs=NORM_INPUTS)


def test_norm_that_centres_is_rejected() -> None:
    with pytest.raises(AssertionError, match="elements outside their bound"):
        assert_parity(my_kernels.rms_norm(*NORM_INPUTS, centred=True), op=NORM, case=NORM_CASE, inputs=NORM_INPUTS)


A, X = RNG.standard_normal((50, 1000)).astype(np.float32), RNG.standard_normal(1000).astype(np.float32)
TRUTH, REACH = A.astype(np.float64) @ X, np.abs(A).astype(np.float64) @ np.abs(X)


def test_matvec_is_within_the_bound_of_a_sum() -> None:
    """No op of kparity: n terms per element and |A|·|x| are all that a bound needs."""
    assert_parity(my_kernels.matvec(A, X), TRUTH, n=1000, magnitude=REACH, label="matvec")


def test_matvec_that_loses_one_column_of_a_thousand_is_rejected() -> None:
    with pytest.raises(AssertionError, match=r"matvec: \d+ of 50 elements outside their bound"):
        assert_parity(my_kernels.matvec(A, X, lost=1), TRUTH, n=1000, magnitude=REACH, label="matvec")


def test_gemv_gives_the_bits_of_every_device(kparity_backend: Backend) -> None:
    """The same bytes on every backend of this machine: once per backend."""
    words, _wscale, q, _ascale, _qsum = GEMV_INPUTS
    kernel = kparity_backend.build(GEMV, GEMV_CASE)
    buffers = [kparity_backend.upload(array) for array in GEMV_INPUTS] + [kparity_backend.empty((3, 17), "i32")]
    kparity_backend.record([kernel.bind(*buffers)]).run()
    assert_parity(my_kernels.ternary_gemv(words, q), kparity_backend.download(buffers[-1]), exact=True)
