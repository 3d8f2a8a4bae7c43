"""How a wrong kernel is made out of a right one: another input, other parameters, something done to an output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kparity.ops.spec import Array, Case, Op, padded

Wrong = Callable[[Op, Case, list[Array]], list[Array]]
Row = tuple[str, str, dict[str, Any], str, Wrong]
"""Op, what is wrong, parameters of the case, kind of input, kernel."""


def scaled(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    return [output * 1.02 for output in op.reference(case, inputs)]


def half_precision(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    return [output.astype(np.float16) for output in op.reference(case, inputs)]


def with_input(index: int, change: Callable[[Array], Array]) -> Wrong:
    """The right kernel over a changed input."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        inputs[index] = change(inputs[index])
        return op.reference(case, inputs)

    return candidate


def with_params(**params: Any) -> Wrong:
    """The right kernel of another case."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        return op.reference(op.case(**{**dict(case.params), **params}), inputs)

    return candidate


def with_output(index: int, change: Callable[[Array, list[Array]], Array]) -> Wrong:
    """The right kernel and something after it."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        outputs = op.reference(case, inputs)
        outputs[index] = change(outputs[index], inputs)
        return outputs

    return candidate


def no_last(x: Array) -> Array:
    x[..., -1] = 0
    return x


def quantise(x: Array, rounding: Callable[[Array], Array], top: float = 127, low: int = -128) -> list[Array]:
    s = top / np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-5)
    q = np.zeros((len(x), padded(x.shape[1])))
    q[:, : x.shape[1]] = np.clip(rounding(x * s), low, 127)
    return [q, 1 / s, q.sum(axis=-1, keepdims=True)]


def half_away(x: Array) -> Array:
    return np.trunc(x + np.copysign(0.5, x))


def truncated_f16(x: Array) -> Array:
    rounded = x.astype(np.float16)
    down = np.where(np.abs(rounded.astype(np.float64)) > np.abs(x), np.nextafter(rounded, np.float16(0)), rounded)
    return down.astype(np.float32)


def flushed_f16(x: Array) -> Array:
    return np.where(np.abs(x) < 2.0**-14, 0, x).astype(np.float32)


def norm(x: Array, w: Array, eps: float = 1e-5, outside: float = 0, centre: bool = False) -> list[Array]:
    x = x.astype(np.float64)
    x = x - x.mean(axis=-1, keepdims=True) if centre else x
    return [x / (np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) + outside) * w]
