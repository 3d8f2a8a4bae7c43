"""Calls in production beside their reference: ``kparity.guard``."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import kparity
from kparity import ops
from kparity.errors import DeviceFault, WrongInput
from kparity.watch import Guard

from .cli import TAG

RNG = np.random.default_rng(7)
W = RNG.integers(-1, 2, (48, 64)).astype(np.int8)
X = RNG.integers(-128, 128, 64).astype(np.int8)


def product(x: np.ndarray) -> np.ndarray:
    return W.astype(np.int32) @ x.astype(np.int32)


def short(x: np.ndarray) -> np.ndarray:
    """The last row is forgotten."""
    y = product(x)
    y[-1] = 0
    return y


exactly: Callable[..., Guard] = partial(kparity.guard, reference=product, exact=True)


def test_a_right_kernel_goes_on() -> None:
    watched = exactly(product, sample=0.5, waiting=1000)
    assert all((watched(X) == product(X)).all() for _ in range(200))
    watched.drain()
    found = watched.counts()
    assert (found.calls, found.dropped, found.wrong, watched.tripped) == (200, 0, 0, "")
    assert 60 < found.sampled == found.judged < 140  # 100 ± 5 σ


def test_a_wrong_one_is_told_and_replaced(capfd: pytest.CaptureFixture[str]) -> None:
    watched = exactly(short, sample=0.01, fallback=product)
    assert watched(X)[-1] == 0
    watched.drain()
    assert (watched(X) == product(X)).all()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(
        f"[{TAG}] short path rejected while serving, falling back: [KP-GUARD] call 0: "
    )
    assert "1 of 48 elements outside their bound" in lines[0]


def test_without_a_fallback_nothing_is_given_away() -> None:
    watched = exactly(short, name="my_gemv")
    watched(X)
    watched.drain()
    with pytest.raises(DeviceFault, match="my_gemv computes no more: call 0") as refused:
        watched(X)
    assert refused.value.code == "KP-GUARD"


def test_a_rare_fault_is_found_and_its_call_named() -> None:
    calls = iter(range(1000))
    watched = exactly(lambda x: (short if next(calls) == 37 else product)(x), sample=1, waiting=1000, fallback=product)
    for _ in range(100):
        watched(X)
    watched.drain()
    assert watched.tripped.startswith("call 37: ") and watched.counts().wrong == 1


def test_inputs_are_those_before_the_call_and_outputs_those_behind_it() -> None:
    def in_place(x: np.ndarray) -> np.ndarray:
        y = product(x)
        x[:] = 0
        return y

    watched, x = exactly(in_place), X.copy()
    y = watched(x)
    y[:] = 0
    watched.drain()
    assert not x.any() and watched.counts().judged == 1 and not watched.tripped


def test_what_does_not_fit_the_queue_is_dropped_and_counted() -> None:
    begin = threading.Event()

    def slow(x: np.ndarray) -> np.ndarray:
        begin.wait()
        return product(x)

    watched = kparity.guard(product, reference=slow, exact=True, sample=1, waiting=2)
    for _ in range(50):
        watched(X)
    begin.set()
    watched.drain()
    found = watched.counts()
    assert found.sampled == 50 == found.dropped + found.judged and 2 <= found.judged <= 3


def test_judging_takes_no_more_than_its_budget() -> None:
    def slow(x: np.ndarray) -> np.ndarray:
        ends = time.perf_counter() + 0.004
        while time.perf_counter() < ends:
            pass
        return product(x)

    watched = kparity.guard(product, reference=slow, exact=True, sample=1, budget=0.1)
    began = time.perf_counter()
    while time.perf_counter() < began + 0.6:
        watched(X)
        time.sleep(0.0005)
    found, elapsed = watched.counts(), time.perf_counter() - began
    assert found.judged >= 2 and found.dropped
    assert found.seconds - found.seconds / found.judged <= 0.1 * elapsed  # the last one has not rested yet


def test_the_bound_of_an_op_needs_no_reference() -> None:
    op = ops.get("rmsnorm")
    case = op.case(M=2, D=64, eps=1e-5)
    inputs = [RNG.standard_normal(arg.shape).astype(np.float32) for arg in op.inputs_of(case)]

    def kernel(*given: np.ndarray, gain: float = 1) -> np.ndarray:
        return (op.reference(case, list(given))[0] * gain).astype(np.float32)

    right = kparity.guard(kernel, op="rmsnorm", case=case)
    wrong = kparity.guard(lambda *given: kernel(*given, gain=1 + 1e-5), op="rmsnorm", case=case)
    for each in (right, wrong):
        each(*inputs)
        each.drain()
    assert not right.tripped and "outside their bound" in wrong.tripped


def test_a_magnitude_is_a_function_of_the_arguments() -> None:
    weights = RNG.standard_normal((16, 32)).astype(np.float32)
    watch = partial(
        kparity.guard, reference=lambda x: weights.astype(np.float64) @ x, n=32,
        magnitude=lambda x: np.abs(weights.astype(np.float64)) @ np.abs(x),
    )  # fmt: skip
    x = RNG.standard_normal(32).astype(np.float32)
    right, wrong = watch(lambda x: weights @ x), watch(lambda x: weights.astype(np.float16) @ x)
    for each in (right, wrong):
        each(x)
        each.drain()
    assert not right.tripped and wrong.tripped


def test_column_sums_see_every_call() -> None:
    calls = iter(range(1000))
    watched = exactly(
        lambda x: (short if next(calls) == 5 else product)(x),
        sample=1e-9,
        every=kparity.column_sum(W),
        fallback=product,
    )
    assert all((watched(X) == product(X)).all() for _ in range(10))  # the wrong one is not given away
    assert watched.tripped.startswith("call 5: y adds up to") and watched.counts().sampled == 1


def test_column_sums_of_rows_and_of_extremes() -> None:
    weights = np.ones((300, 256), np.int8)
    x = np.full((3, 256), -128, np.int8)
    y = x.astype(np.int32) @ weights.T.astype(np.int32)
    check = kparity.column_sum(weights, activations=1)
    check(y, "first", x)
    y[2, 7] += 1
    with pytest.raises(AssertionError, match="y adds up to"):
        check(y, "first", x)
    with pytest.raises(WrongInput, match=r"weights are float64\[2, 2\], expected integers"):
        kparity.column_sum(np.eye(2))


def test_what_cannot_be_judged_is_not_right() -> None:
    watched = exactly(lambda x: product(x)[:-1])
    watched(X)
    watched.drain()
    assert "cannot be judged: WrongInput" in watched.tripped and "got has shape [47], ref [48]" in watched.tripped


def test_counters_for_prometheus() -> None:
    watched = exactly(short, name='my "gemv"', fallback=product)
    watched(X)
    watched.drain()
    lines = watched.metrics().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    label = r'{kernel="my \"gemv\""}'
    assert values[f"kparity_guard_calls_total{label}"] == values[f"kparity_guard_wrong_total{label}"] == "1"
    assert values[f"kparity_guard_tripped{label}"] == "1"
    assert sum(line.startswith("# TYPE") for line in lines) == len(values) == 7


def test_several_threads_call_it() -> None:
    watched = exactly(product, sample=0.01, waiting=1000)
    threads = [threading.Thread(target=lambda: [watched(X) for _ in range(500)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    watched.drain()
    found = watched.counts()
    assert found.calls == 2000 and 0 < found.sampled == found.judged


def forked(watched: Guard, results: Any) -> None:
    for _ in range(3):
        watched(X)
    watched.drain()
    results.put((watched.counts().judged, watched.tripped))


def test_a_child_of_a_fork_judges_too() -> None:
    watched = exactly(short, sample=1, fallback=product, waiting=10)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=forked, args=(watched, results))
    child.start()
    judged, tripped = results.get()
    child.join()
    assert judged >= 1 and "1 of 48 elements" in tripped and not watched.tripped


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sample": 0}, "sample is 0, expected more than 0 and at most 1"),
        ({"budget": 2}, "budget is 2, expected"),
        ({"exact": True, "ulp": 1}, "give one of op="),
        ({"reference": None}, "reference= is missing"),
        ({"waiting": 0}, "waiting is 0"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongInput, match=says):
        exactly(product, **options)
    with pytest.raises(WrongInput, match="give one of op="):
        kparity.guard(product, reference=product)


@pytest.mark.alone
def test_it_costs_less_than_a_hundredth_of_a_call_of_a_millisecond() -> None:
    x = np.zeros(6912, np.int8)
    y = np.zeros(2560, np.int32)
    watched = kparity.guard(lambda x: y, reference=lambda x: y, exact=True, sample=0.01)

    def spent(call: Callable[..., Any]) -> float:
        began = time.thread_time()
        for _ in range(20_000):
            call(x)
        return (time.thread_time() - began) / 20_000

    more = min(spent(watched) - spent(watched.fn) for _ in range(3))
    assert watched.counts().sampled > 100 and more < 1e-5
