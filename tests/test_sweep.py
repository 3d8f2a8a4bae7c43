"""The cases of ``kparity check``: how many, which shapes, positions, lengths and kinds; each can be made again."""

from __future__ import annotations

import numpy as np
import pytest

from kparity import ops
from kparity.check.facts import facts
from kparity.kernels.support import KINDS, MODELS, ROWS, VOCABULARY, spoil, values
from kparity.ops.spec import MAX_GROUPS, Case, Op

EVERY = ops.every()
SPOILT = {"nan": np.isnan, "infinite": np.isinf}
"""Kinds of input whose point is one sort of value."""
WITHOUT_FLOATS = ("embed", "kv_store")
"""Copies: their NaN and infinities are among the values of ``extreme``."""


def having(op: str, **params: object) -> list[Case]:
    """The cases of a sweep that have these parameters."""
    return [case for case in ops.get(op).sweep() if all(case[name] == value for name, value in params.items())]


def smallest(op: Op) -> Case:
    """The case of a sweep that has all kinds of input and moves the fewest bytes, with rows of more than one sort."""
    cases = [case for case in op.sweep() if case["M"] >= 4]
    most = max(len(op.kinds(case)) for case in cases)
    return min((case for case in cases if len(op.kinds(case)) == most), key=lambda case: op.work(case).bytes)


def test_there_are_enough_cases() -> None:
    counts = {op.name: len(op.sweep()) for op in EVERY}
    assert sum(counts.values()) >= 400, counts
    assert all(counts[name] >= 60 for name in ("tgemv", "rope", "attention")), counts
    assert all(counts[op.name] > len(op.cases()) for op in EVERY), counts


@pytest.mark.parametrize("op", EVERY, ids=lambda op: op.name)
def test_a_sweep_holds_the_cases_and_no_case_twice(op: Op) -> None:
    sweep = op.sweep()
    assert sweep == op.sweep() and len({case.id for case in sweep}) == len(sweep)
    assert sweep[: len(op.cases())] == op.cases()
    for case in sweep:
        assert op.case(**dict(case.params)) == case and not set(" ()") & set(case.id)
        assert max(op.launch(case).groups) <= MAX_GROUPS and op.launch(case).block <= 256
        assert len(set(op.kinds(case))) == len(op.kinds(case)) and op.kinds(case)[0] == "random"
        for dialect in ("gpu", "wgsl"):
            assert all(max(stage.launch.groups) <= MAX_GROUPS for stage in op.stages(case, dialect)), case.id
        assert max(arg.nbytes for arg in op.args(case)) <= 128 << 20, f"{case.id}: more than a default binding holds"


def test_every_gemv_of_the_models_is_there() -> None:
    known = {(1536, 1536), (4608, 1536), (4096, 1536), (8192, 1536), (1536, 4096),
             (2560, 2560), (640, 2560), (3840, 2560), (6912, 2560), (13824, 2560), (2560, 6912),
             (3200, 3200), (9600, 3200), (8640, 3200), (17280, 3200), (3200, 8640)}  # fmt: skip
    assert {shape for model in MODELS.values() for shape in model.gemvs} == known
    for n, k in known:
        assert having("tgemv", M=1, N=n, K=k), (n, k)
    assert having("tgemv", K=8640, wscale="block256"), "8640 is no multiple of 256"


def test_every_option_of_tgemv_is_there() -> None:
    op = ops.get("tgemv")
    for m in (1, 11):
        found = {(case["wscale"], case["ascale"], case["out"]) for case in having("tgemv", M=m, N=71)}
        assert len(found) == 30 == len(op.choices["wscale"]) * len(op.choices["ascale"]) * len(op.choices["out"])


@pytest.mark.parametrize("op", [op for op in EVERY if op.name != "attention"], ids=lambda op: op.name)
def test_rows_are_every_tail_of_a_tile(op: Op) -> None:
    assert {*range(1, 10), 31, 32, 33, 64} == set(ROWS)
    assert set(ROWS) - {case["M"] for case in op.sweep()} <= ({2, 4, 6, 8} if op.name == "rope" else set())


def test_positions_of_rope() -> None:
    op = ops.get("rope")
    seen = set()
    for kind in op.kinds(op.case(M=1, H=1, D=2)):
        seen.update(facts(op, op.case(M=1, H=1, D=2), kind, 0).inputs[1].tolist())
    assert seen >= {0, 1, 4095, 131071}  # a single row meets each of them
    for mode in op.choices["mode"]:
        assert {case["theta"] for case in having("rope", mode=mode)} >= {1e4, 5e5, 1e6}
        assert {case["scale"] for case in having("rope", mode=mode)} >= {0.5, 1.0, 2.0, 4.0, 8.0}
        assert any(case["R"] < case["D"] for case in having("rope", mode=mode))
        assert all(having("rope", mode=mode, D=model.head, H=model.heads, M=1) for model in MODELS.values())


def test_lengths_and_groups_of_attention() -> None:
    sweep = ops.get("attention").sweep()
    assert {case["L"] for case in sweep} >= {1, 2, 31, 32, 33, 127, 128, 129, 4096}
    assert {case["H"] // case["G"] for case in sweep} >= set(range(1, 9))
    assert {case["M"] for case in sweep} >= set(ROWS)
    for dtype in ("f16", "f32"):
        assert {case["L"] for case in having("attention", dtype=dtype)} >= {1, 31, 63, 127}
    assert having("attention", L=4096, H=20, G=5, D=128)


def test_a_query_without_a_key_is_there() -> None:
    op = ops.get("attention")
    case = having("attention", M=3)[0]
    known = facts(op, case, "empty", 0)
    assert (known.inputs[3] < 0).all() and (known.truth[0] == 0).all() and np.isneginf(known.truth[1]).all()
    mixed = facts(op, case, "random", 0)
    assert (mixed.inputs[3] < 0).any() and np.isfinite(mixed.truth[1]).any() and np.isneginf(mixed.truth[1]).any()


def test_widths_and_vocabularies() -> None:
    widths = {"act_quant": "K", "rmsnorm": "D", "add": "D", "glu": "D", "argmax": "N", "norm_quant": "D"}
    for op, name in widths.items():
        assert {case[name] for case in ops.get(op).sweep()} >= {1536, 2560, 3200, 4096, 6912, 8640}, op
    assert having("argmax", N=VOCABULARY) and having("dense_gemv", N=VOCABULARY, rows=VOCABULARY)
    assert having("dense_gemv", N=VOCABULARY, K=2560) and having("embed", V=VOCABULARY, rows=VOCABULARY)


@pytest.mark.parametrize("op", EVERY, ids=lambda op: op.name)
def test_kinds_are_what_they_say(op: Op) -> None:
    """Every kind is finite or says what is not; truth of spoilt inputs has what the policy of the op promises."""
    case = smallest(op)
    kinds = op.kinds(case)
    for kind in kinds:
        given = [array for array in facts(op, case, kind, 0).inputs if array.dtype.kind == "f"]
        if kind in SPOILT:
            assert any(SPOILT[kind](array).any() for array in given), (case.id, kind)
            assert any(np.isfinite(array).any() for array in given), (case.id, kind)
        elif kind not in ("extreme", "lowest", "stale") and op.name != "argmax":
            assert all(np.isfinite(array).all() for array in given), (case.id, kind)
    if op.name in WITHOUT_FLOATS:
        given = facts(op, case, "extreme", 0).inputs[0]
        assert np.isnan(given).any() and np.isinf(given).any()
    else:
        assert {"nan", "infinite"} <= set(kinds)


@pytest.mark.parametrize("op", [op for op in EVERY if op.name not in WITHOUT_FLOATS], ids=lambda op: op.name)
def test_a_nan_reaches_the_output_and_spares_the_rest(op: Op) -> None:
    case = smallest(op)
    known = facts(op, case, "nan", 0)
    floats = [truth for arg, truth in zip(op.outputs_of(case), known.truth, strict=True) if truth.dtype.kind == "f"]
    if op.name == "argmax":
        assert (known.truth[0] == -1).any()
    elif op.name == "tgemv" and case["out"] == "i32":
        pytest.fail("the case has no scales")
    else:
        assert any(np.isnan(truth).any() for truth in floats), case.id
        assert any(np.isfinite(truth).any() for truth in floats), case.id


@pytest.mark.parametrize("name", ["act_quant", "norm_quant"])
def test_what_is_free_is_free_beside_nan_alone(name: str) -> None:
    op = ops.get(name)
    case = smallest(op)
    for kind in op.kinds(case):
        known = facts(op, case, kind, 0)
        (q, scale, qsum), (codes, _, sums) = known.truth[-3:], [bound.limit for bound in known.bounds[-3:]]
        free = np.broadcast_to(~np.isfinite(scale), sums.shape)
        assert (sums[free] >= 2.0**32).all() and (sums[~free] <= q.shape[1]).all(), kind
        wide = np.repeat(free, q.shape[1] // scale.shape[1], axis=1)
        assert (codes[~wide] <= 1).all(), kind
        assert free.any() == (kind in SPOILT), kind
        assert qsum.shape == sums.shape


def test_subnormal_numbers_and_extremes() -> None:
    rng = np.random.default_rng(0)
    tiny = values(rng, "tiny", 4, 300)
    assert ((tiny != 0) & (np.abs(tiny) < 2.0**-126)).any() and (np.abs(tiny) > 2.0**-126).any()
    assert (values(rng, "all_max", 2, 3) == 65504).all() and (values(rng, "zeros", 2, 3) == 0).all()
    assert values(rng, "alternating", 1, 64).sum() == 0
    spoilt = spoil(np.zeros((7, 5), np.float32), np.inf, -np.inf)
    assert np.argwhere(spoilt).tolist() == [[0, 2], [3, 3], [6, 4]]
    assert [spoilt[0, 2], spoilt[3, 3], spoilt[6, 4]] == [np.inf, -np.inf, np.inf]
    assert set(KINDS) >= {"random", "zeros", "one_hot", "outlier", "alternating", "tiny", "all_max", "nan", "infinite"}
