"""Gates at their limits: noise of greedy ids, tokens of a probe, rounds, constants, spans, and tables in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity import plain
from kparity.backends.cpu import CpuBackend
from kparity.device import adapter
from kparity.engine import Engine
from kparity.gates import candidate as candidates
from kparity.gates import challenge, decode, depth, exact, kernels
from kparity.gates.candidate import Candidate, Distance, begin
from kparity.gates.filled import Filled
from kparity.gates.graph import expected
from kparity.gates.kernels import gate_kernels
from kparity.gates.reference import SEED, Reference, first_token, probe_tokens
from kparity.gates.table import GATES, GateSpec
from kparity.gates.verdict import Gate, Measure
from kparity.gates.walk import Walk
from kparity.model import load_model
from kparity.ops import get
from kparity.ops import names as op_names
from kparity.plain import Span
from tests.gguf_files import TINY, write
from tests.test_gates import CONTRACT, FACTS, ROWS, SPANS, TOKENS, Fault, Table, late, made, only, ulp

# --- greedy ids ---


@pytest.mark.parametrize(
    ("apart", "noise"), [(0.0, [0.1, 0.5]), (0.3, [0.3, 0.5]), (-0.3, [0.3, 0.5]), (2.0, [2.0, 2.0])]
)
def test_the_noise_of_an_id_is_the_twins_and_no_less_than_the_contracts_share(apart: float, noise: list[float]) -> None:
    logits = np.array([[2.0, -2.0, 2.0, -2.0], [10.0, 10.0, -10.0, -10.0]])
    rounded = logits.copy()
    rounded[1, 2] += apart
    found = Candidate(None, Reference("x", [0, 1], logits, rounded, FACTS), CONTRACT)  # type: ignore[arg-type]
    assert decode._noise_of_logits(found) == pytest.approx(noise)


@pytest.mark.parametrize(("best", "verdict"), [
    (0, "DIVERGED"), (1, "NEAR-TIE"), (2, "SAME"), (3, "EXACT-TIE"), (4, "DIVERGED"), (5, "DIVERGED"), (-1, "DIVERGED"),
])  # fmt: skip
def test_an_id_is_one_of_the_vocabulary_and_nearly_tied(best: int, verdict: str) -> None:
    wanted = np.array([[3.99, 4.0, 5.0, 5.0, -5.0]])
    assert decode.token_verdicts(np.array([best]), wanted, 0.5).tolist() == [verdict]


def of_ids(ids: dict[int, int]) -> Gate:
    """The gate ``decode`` on a table whose device chooses other ids at some positions, and whose logits follow."""
    engine: Any = Table()
    steps, best = ROWS.copy(), [int(row.argmax()) for row in ROWS]
    for at, token in ids.items():
        best[at] = token
        steps[at, token] = steps[at].max() + 1
    found = Candidate(engine, made(), CONTRACT, steps=steps, best=best)
    return decode.gate_decode(found)


def test_an_id_that_diverges_is_named_with_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_wrong_argmax", lambda engine: (0, ""))
    assert of_ids({}).verdict == "PASS"
    wrong = {50: int(ROWS[50].argmin()), 60: int(ROWS[60].argmin())}
    gate = of_ids(wrong)
    noise = max(np.abs(made().rounded - made().logits).max(), 0.05 * np.sqrt(np.square(ROWS[50]).mean()))
    assert gate.code == "KP-DECODE" and gate.measures[0].value == 2
    assert gate.reason == (
        f"greedy decode chooses {wrong[50]} for {ROWS[50].argmax()} at position 50/72, "
        f"which is no near tie of table (within {2 * noise:.3g})"
    )


@pytest.mark.parametrize(("ties", "gap", "code"), [
    (18, 1e-3, ""), (19, 1e-3, "KP-DECODE"), (19, 5e-12, "KP-DECODE"), (72, 4e-12, ""), (72, 0.0, ""),
])  # fmt: skip
def test_a_quarter_of_the_ids_may_be_near_ties_and_all_of_them_equal(
    ties: int, gap: float, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_wrong_argmax", lambda engine: (0, ""))
    logits = np.full((72, 4), 0.0)
    logits[:, 1], logits[:, 2] = 5.0, 5.0 - gap
    steps = logits.astype(np.float32)
    steps[:, 1] += 1
    steps[:ties, 2] += 2
    best = steps.argmax(axis=1).tolist()
    engine: Any = SimpleNamespace(reset=lambda: None, step_greedy=lambda token: best[0])
    whole = Reference("x", list(range(72)), logits, logits, FACTS)
    gate = decode.gate_decode(Candidate(engine, whole, CONTRACT, steps=steps, best=best))
    assert gate.code == code and gate.measures[2].value == (ties / 72 if gap > 4.5e-12 else 0)
    assert not code or gate.reason == "26.4% of 72 ids are near ties of x (> 25.0%)"


# --- tokens ---


def model_of(ids: list[int], vocab: int, bos: int | None = None) -> Any:
    return SimpleNamespace(
        hparams=SimpleNamespace(vocab=vocab, bos=bos), tokenizer=SimpleNamespace(encode=lambda text, bos: ids)
    )


def test_a_probe_feeds_text_where_the_tokenizer_knows_it() -> None:
    filler = np.random.default_rng(SEED).integers(0, 100, 20).tolist()
    known = [*range(5), *[0] * 30]
    assert probe_tokens(model_of(known, 100), 20) == [0, *known[:19]]
    assert probe_tokens(model_of(known, 100, bos=7), 20) == [7, *known[:19]]
    assert probe_tokens(model_of(known[:9], 100), 20) == [0, *known[:9], *filler[:10]]
    assert probe_tokens(model_of([0, 1, 2, 3], 100), 20) == [0, *filler[:19]], "too few different ones"
    assert probe_tokens(model_of([-1, 99, 100, 5, 6, 7, 8, 0], 100), 20)[:7] == [0, 99, 5, 6, 7, 8, 0]
    assert probe_tokens(model_of(known, 100), 20, "n") == [0, *challenge.drawn("n", "tokens", SEED, 19, 100)]
    assert first_token(model_of([], 9, bos=3)) == 3 and first_token(model_of([], 9)) == 0
    model = load_model(None)
    text = resources.files("kparity").joinpath("data/heldout.txt").read_text(encoding="utf-8")
    encoded = model.tokenizer.encode(text[: 72 * 12], bos=False)
    assert probe_tokens(model, 72) == [first_token(model), *encoded][:72] and len(encoded) > 60


# --- rounds ---


def test_a_walk_counts_rounds_rows_and_differences() -> None:
    turns = [0]

    def fault(kind: str, at: int, row: np.ndarray) -> np.ndarray:
        turns[0] += at == 0
        return ulp(row) if (turns[0], at) in ((3, 2), (3, 4)) else row

    engine: Any = Table(fault)
    walk = Walk(engine, TOKENS[:6])
    walk.round()
    assert walk.steps is not None and (walk.steps == ROWS[:6]).all() and walk.best == ROWS[:6].argmax(axis=1).tolist()
    assert (walk.rounds, walk.rows, walk.wrong, walk.where) == (0, 0, 0, "")
    walk.round()
    assert (walk.rounds, walk.rows, walk.wrong, walk.where) == (1, 6, 0, "")
    walk.round()
    assert (walk.rounds, walk.rows, walk.wrong, walk.where) == (2, 12, 2, "at position 2 in round 2")
    walk.hold(ROWS[0] * np.float32(np.nan), ROWS[0], "a row")
    assert (walk.rows, walk.wrong, walk.where) == (13, 2 + ROWS.shape[1], "at position 2 in round 2")


@pytest.mark.parametrize(("looks", "rounds", "gates"), [(0, -1, 0), (1, -1, 1), (2, -1, 2), (3, 0, 2), (4, 1, 2)])
def test_until_the_reference_is_there_gates_and_then_rounds_run(
    looks: int, rounds: int, gates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, stages = [looks], list[str]()

    def over() -> bool:
        left[0] -= 1
        return left[0] < 0

    monkeypatch.setattr(GateSpec, "load", lambda self: lambda found: Gate(self.name, "PASS"))
    engine: Any = Table()
    found = Candidate(engine, made(), CONTRACT, repeat=3)
    begin(found, Walk(engine, TOKENS[:4]), over, stages.append)
    alone = [spec.name for spec in GATES if spec.alone]
    assert found.walk is not None and stages == ["ahead", "walk"] and len(alone) == 2
    assert found.walk.rounds == rounds if rounds >= 0 else found.walk.steps is None
    assert [*found.ahead] == alone[:gates]
    assert all(each.elapsed_ms >= 0 for each in found.ahead.values())
    told = [*candidates.run(found, "full", stages.append)]
    assert [each.name for each in told] == stages[2:] == [spec.name for spec in GATES if spec.thresholds]
    assert not found.ahead


def test_a_gate_takes_its_first_measure_that_does_not_hold() -> None:
    found = candidates.Candidate(None, made(), CONTRACT)  # type: ignore[arg-type]
    values = {name: 0.0 for name in ("turns_noise", "turns_norm", "turns_rewritten")}
    why: Callable[[Measure], tuple[str, str]] = lambda bad: ("C", bad.threshold)  # noqa: E731
    assert found.judged("turns", {**values, "turns_cosine": 0.99}, why).verdict == "PASS"
    gate = found.judged("turns", {**values, "turns_cosine": 0.98, "turns_norm": 1.0}, why)
    assert (gate.name, gate.verdict, gate.code, gate.reason) == ("turns", "FAIL", "C", "turns_cosine")
    assert len(gate.measures) == 4


# --- words ---


def test_a_distance_is_told_by_its_kind_and_row() -> None:
    far = Distance(0.5, 1, 0.875, 0.25, 0.75, 2)
    bad = {name: Measure(f"x_{name}", value, limit, "≤", False) for name, value, limit in (
        ("cosine", 0.5, 0.99), ("norm", 0.75, 0.1), ("noise", 25.0, 10.0))}  # fmt: skip
    rows = ("at 0", "at 1", "at 2")
    assert far.reason(bad["cosine"], "vs r", rows) == "cosine vs r = 0.500000 (< 0.99) at 1"
    assert far.reason(bad["norm"], "vs r", rows) == "norm ratio vs r is off by 0.750000 (> 0.1) at 2"
    assert far.reason(bad["noise"], "vs r", rows, " over 3", ".") == (
        "median of 1 - cosine vs r over 3 = 0.125: 25.0 times the noise of the reference itself (> 10)."
    )


@pytest.mark.parametrize(("span", "where", "apart"), [
    (Span(256, [1]), "at position 256", True), (Span(255, [1]), "at position 255", False),
    (Span(511, [1]), "at position 511", True),
    (Span(256, [1] * 9), "after a prefill of 9 at position 256", False),
    (Span(480, [1] * 32), "after a prefill of 32 at position 480", True),
    (Span(384, [1]), "at position 384", False),
])  # fmt: skip
def test_spans_are_named_and_some_run_launch_by_launch(span: Span, where: str, apart: bool) -> None:
    assert depth._where(span) == where and depth._apart(span, 512) is apart
    engine: Any = Table()
    depth.feed(engine, span)
    assert engine.position == span.end and engine.prompts == ([len(span.tokens)] if len(span.tokens) > 1 else [])


@pytest.mark.parametrize(("kind", "first", "said"), [("step", 256, 256), ("prefill", 511, 511)])
def test_the_lowest_late_span_that_differs_is_named(kind: str, first: int, said: int) -> None:
    fault: Fault = lambda what, at, row: ulp(row) if what == kind and at in (first, 511) else row  # noqa: E731
    engine: Any = Table(fault)
    gate = depth.gate_depth(Candidate(engine, made(), CONTRACT))
    name = "after a prefill of 32 at position 480" if kind == "prefill" else f"at position {said}"
    assert gate.code == "KP-DEPTH" and gate.reason.startswith("2 logits" if kind == "step" else "1 logits")
    assert gate.reason.endswith(f"first {name}"), gate.reason


def test_an_id_that_is_not_the_largest_is_seen_at_late_positions() -> None:
    engine: Any = Table()
    engine.best = lambda: int(np.argmax(engine.row)) ^ (engine.position in (383 + 1, 511 + 1))
    gate = depth.gate_depth(Candidate(engine, made(), CONTRACT))
    largest = int(late(383, next(span.tokens[-1] for span in SPANS if span.start == 383)).argmax())
    assert gate.reason == f"the device returns {largest ^ 1} at position 383, the largest logit is {largest}"
    assert gate.code == "KP-DEPTH" and gate.measures[1].value == 2


# --- constants ---


def test_constants_of_the_file_by_op() -> None:
    facts = replace(plain.facts(None), clamp=7)
    made_: Any = lambda op, **more: SimpleNamespace(op=op, params=(*more.items(),))  # noqa: E731
    rope = {
        "D": facts.head_dim,
        "R": facts.rope_dim,
        "mode": facts.rope_mode,
        "theta": facts.theta,
        "scale": facts.rope_scale,
    }
    heads = {"H": facts.heads, "G": facts.kv_heads, "D": facts.head_dim, "dtype": "kv"}
    after = {"pre": facts.act, "clamp": 7, "D": facts.ffn}
    wanted = {
        "rmsnorm": {"eps": facts.eps}, "act_quant": {"mode": "a"}, "tgemv": {"ascale": "a"}, "rope": rope,
        "rope_store": rope | heads, "attention": heads, "glu": {"act": facts.act, "clamp": 7, "D": facts.ffn},
        "dense_gemv": {"N": facts.vocab, "K": facts.width}, "argmax": {"N": facts.vocab}, "add": {},
    }  # fmt: skip
    for op, each in wanted.items():
        assert expected(made_(op), facts, "a", "kv") == each, op
    for pre in ("none", "add", "silu", "relu2"):
        assert expected(made_("norm_quant", pre=pre), facts, "a", "kv") == {
            "eps": facts.eps, "mode": "a", **(after if pre in ("silu", "relu2") else {})
        }  # fmt: skip


# --- tables in parts ---


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """A real engine whose embedding and head are bound in three parts each."""
    path = write(tmp_path_factory.mktemp("parts") / "model.gguf", replace(TINY, layers=1, vocab=780, untied=True))
    backend, model = CpuBackend(), load_model(Path(path))
    backend.info = msgspec.structs.replace(
        backend.info, max_binding=-(-model.hparams.vocab // 3) * model.hparams.width * 2
    )
    engine = Engine(model, backend)
    for rows in (1, engine.chunk):
        engine.launch_each(rows)
    assert len(engine.weights.head) == len(engine.weights.embedding) == 3
    return Candidate(engine, None, CONTRACT)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["", "embed", "dense_gemv"])
@pytest.mark.parametrize("own", [True, False])
def test_a_kernel_on_a_part_of_a_table_does_its_rows_and_no_other(
    op: str, own: bool, parted: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = adapter.launched, list[int]()
    monkeypatch.setattr(kernels, "SMALL", 1 << 8)

    def launched(backend: Any, kernel: Any, inputs: Any) -> Any:
        outputs, case = real(backend, kernel, inputs), kernel.case
        if case.op == op and case["row0"] > 0 and len(inputs) == 3:
            first, last = case["row0"], case["row0"] + case["rows"]
            if op == "embed":
                inside = (inputs[1] >= first) & (inputs[1] < last)
                at = np.flatnonzero(inside if own else ~inside)
                if len(at):
                    outputs[0][at[-1], 1] += 1
                seen.append(len(at))
            else:
                outputs[0][0, last - 1 if own else first - 1] += 1
                seen.append(1)
        return outputs

    monkeypatch.setattr(kernels, "launched", launched)
    monkeypatch.setattr(kernels, "at_edges", lambda *given: [])
    others = tuple(name for name in op_names() if name not in ("embed", "dense_gemv"))
    monkeypatch.setattr(kernels, "ELSEWHERE", others)
    gate = gate_kernels(parted)
    assert (gate.verdict == "PASS") is (op == "") and gate.measures[0].value == sum(each > 0 for each in seen)
    assert not op or op in gate.reason


def test_kinds_of_inputs_by_size_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    op = get("norm_quant")
    one, many = (op.case(D=256, M=rows, clamp=0, eps=1e-5, mode="token", pre="none") for rows in (1, 8))
    assert kernels.kinds_of(op, one)[0] == "random" and {*kernels.kinds_of(op, one)[1:]} <= {*kernels.EDGES}
    assert {*kernels.kinds_of(op, many)[1:]} <= {*kernels.PADDED}
    size = sum(int(np.prod(arg.shape)) for arg in op.args(one))
    for least, more in ((size, True), (size - 1, False)):
        monkeypatch.setattr(kernels, "SMALL", least)
        assert (len(kernels.kinds_of(op, one)) > 1) is more


@pytest.mark.parametrize(("size", "scaled"), [((1 << 26) - 1, [1, 3]), (1 << 26, [1])])
def test_a_chunk_is_scaled_where_the_model_is_small(
    size: int, scaled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accumulators are compared for a row and for a chunk in any case."""
    want, bare, seen = np.array([[3.0, 4.0]]), list[int](), list[int]()
    weight: Any = SimpleNamespace(n=2, k=256)
    given = [("w", weight, want[0], np.zeros((rows, 256), np.int8), np.repeat(want, rows, axis=0)) for rows in (1, 3)]

    def product(engine: Any, weight: Any, q: np.ndarray, *scales: Any) -> np.ndarray:
        (seen if scales else bare).append(len(q))
        return np.repeat(want, len(q), axis=0)

    monkeypatch.setattr(exact, "_given", lambda engine: iter(given))
    monkeypatch.setattr(exact, "product", product)
    monkeypatch.setattr(exact, "_scaled_error", lambda *given: 2.0 if len(given[3]) == scaled[-1] else 0.5)
    options, model = SimpleNamespace(act="token"), SimpleNamespace(n_bytes=size)
    engine: Any = SimpleNamespace(tick=lambda note: None, options=options, model=model)
    gate = exact.gate_exact(Candidate(engine, made(), CONTRACT))
    assert (gate.verdict, bare, seen) == ("PASS", [1, 3], scaled) and gate.measures[1].value == 2.0


# --- filled caches ---


@pytest.mark.parametrize(("size", "exponent"), [(0.0, -16), (np.inf, -16), (np.nan, -16), (1e-30, -16), (1e9, 8)])
def test_sizes_that_no_half_holds_are_kept_within(size: float, exponent: int) -> None:
    own = np.full((3, 1, 4), size, np.float32)
    filler = Filled(1, 5)
    keys, values = filler.like(0, own, np.ones_like(own))
    assert filler.exponents == [(exponent, round(np.log2(np.sqrt(3) / 127)))]
    assert keys.shape == (5, 1, 4) and np.isfinite(values).all()


def test_a_gate_is_timed_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.5])
    monkeypatch.setattr("kparity.gates.candidate.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    engine: Any = Table()
    assert [each.elapsed_ms for each in candidates.run(Candidate(engine, made(), CONTRACT), "bos")] == [2500.0]


def test_all_gates_but_the_last_failing_one_are_told() -> None:
    engine: Any = Table(only("step", 0, lambda row: row * np.float32(np.nan)))
    stages = list[str]()
    found = [*candidates.run(Candidate(engine, made(), CONTRACT), "bos", stages.append)]
    assert [each.name for each in found] == stages == ["BOS"] and found[0].elapsed_ms > 0
