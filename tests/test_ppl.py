"""Perplexity: every token once, equal to transformers, and a verdict only where there is enough to say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kparity.burnin.perplexity import Perplexity, Plan, compared, gate, ids_of, score
from kparity.engines.base import DeviceRow, Engine, Facts
from kparity.engines.registry import open_here
from kparity.errors import WrongInput
from kparity.ladder.prompts import built_in
from kparity.numerics.perplexity import difference, perplexity, windows
from tests.cli import run

VOCAB = 50
PLAN = Plan(1024, 128, 64, "first")
Logits = Callable[[Sequence[int]], np.ndarray]


def right(history: Sequence[int]) -> np.ndarray:
    """Logits that prefer the next id: a text of ids that count up is likely."""
    row = np.random.default_rng([7, len(history), history[-1]]).normal(0, 0.3, VOCAB).astype(np.float32)
    row[(history[-1] + 1) % VOCAB] += 3
    return row


class Made(Engine):
    """An engine whose logits are a function of all that it was fed since the last reset."""

    def __init__(self, logits: Logits = right, gives: str = "logits", offset: int = 0) -> None:
        self.logits, self.fed, self.offset, self.resets = logits, list[list[int]](), offset, 0
        self.facts = Facts(
            name="made", version="1", model="", vocab=VOCAB, context=512, layers=1, width=1, bos=0, gives=gives,
            devices=(DeviceRow("made", "", "cpu", True),), numerics="made",
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        return [0, *((at + self.offset) % VOCAB for at in range(1, len(text)))]

    def reset(self) -> None:
        self.fed.append([])
        self.resets += 1

    def score(self, tokens: Sequence[int]) -> np.ndarray:
        rows = []
        for token in tokens:
            self.fed[-1].append(token)
            rows.append(self.logits(self.fed[-1]))
        return np.stack(rows)

    def close(self) -> None:
        """Nothing is open."""


def judged(candidate: Engine, reference: Engine | None = None, count: int = 1024) -> Perplexity:
    reference = reference or Made()
    plan = msgspec.structs.replace(PLAN, tokens=count)
    ids = ids_of("x" * count, [reference, candidate], plan)
    return compared(score(reference, ids, plan), score(candidate, ids, plan), ids, plan, "made")


@given(st.integers(2, 400), st.integers(2, 100), st.data())
def test_every_token_but_the_first_is_scored_once(count: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window - 1))
    parts = list(windows(count, window, stride))
    assert [at for _, end, first in parts for at in range(first, end)] == [*range(1, count)]
    assert all(begin < first < end <= begin + window for begin, end, first in parts)
    assert [begin for begin, _, _ in parts] == [at * stride for at in range(len(parts))]


def test_a_stride_that_leaves_tokens_out_is_refused() -> None:
    for window, stride in ((10, 10), (10, 11), (10, 0)):
        with pytest.raises(WrongInput, match="stride"):
            list(windows(100, window, stride))
    done = run("ppl", "--cand", "kparity:cpu", "--window", "8", "--stride", "8")
    assert done.returncode == 2 and "--stride 8 leaves tokens out" in done.stderr


@pytest.mark.parametrize("bos", ["first", "each"])
def test_what_is_fed_and_scored(bos: str) -> None:
    """Against a loop that knows no windows but what each token has before it."""
    engine, ids = Made(), [0, *(int(each) for each in np.random.default_rng(3).integers(1, VOCAB, 99))]
    found = score(engine, ids, Plan(100, 24, 7, bos))  # type: ignore[arg-type]
    again = bos == "each"
    room, expected = 24 - again, []
    for at in range(1, 100):
        begin = 0 if at < room else -(-(at + 1 - room) // 7) * 7
        row = right([*([0] if again and begin else []), *ids[begin:at]]).astype(np.float64)
        expected.append(np.log(np.exp(row).sum()) - row[ids[at]])
    assert found.nll == pytest.approx(expected, rel=1e-6)
    assert found.ppl == pytest.approx(math.exp(np.mean(expected)))
    assert max(len(fed) for fed in engine.fed) < 24 and all(fed[0] == 0 for fed in engine.fed[: 99 * again or 1])


def test_equal_to_transformers(transformers: ModuleType) -> None:
    """The control without quantised activations, windows written apart: torch's own cross entropy of each."""
    from torch import tensor
    from torch.nn.functional import cross_entropy

    plan = Plan(160, 64, 32, "first")
    control, other = open_here("f16?kv=f32"), open_here("transformers?act=none&threads=1")
    ids = ids_of(built_in(), [control, other], plan)
    losses: list[float] = []
    for begin in range(0, 128, 32):
        other.reset()
        part = ids[begin : begin + 64]
        each = cross_entropy(tensor(other.score(part)[:-1]).double(), tensor(part[1:]), reduction="none").tolist()
        losses += each if not begin else each[-32:]
    found = score(control, ids, plan)
    assert len(losses) == len(found.nll) == 159
    assert abs(math.exp(sum(losses) / 159) - found.ppl) < 1e-4
    assert abs(score(other, ids, plan).ppl - found.ppl) < 1e-4


def test_a_flat_distribution_keeps_every_argmax_and_is_seen() -> None:
    """What a burn-in at temperature 0 cannot see."""
    flat = Made(lambda fed: right(fed) * np.float32(0.9))
    found = judged(flat)
    assert all(right(fed).argmax() == flat.logits(fed).argmax() for fed in ([1], [2, 3], [4, 5, 6]))
    assert found.verdict == "FAIL" and found.exit_code == 1 and found.delta_low > 0.05 < found.delta


def test_what_goes_wrong_after_200_completions_is_not_seen() -> None:
    """What the burn-in is for: see test_a_cache_that_is_not_reset_shows_after_200_completions."""
    stale = Made()
    stale.logits = lambda fed: right(fed) if stale.resets <= 200 else np.zeros(VOCAB, np.float32)
    assert judged(stale).verdict == "PASS"
    assert judged(Made(lambda fed: np.zeros(VOCAB, np.float32))).verdict == "FAIL"


def test_a_model_that_knows_nothing_is_no_reference() -> None:
    def noise(fed: Sequence[int]) -> np.ndarray:
        return np.random.default_rng(len(fed)).normal(0, 0.1, VOCAB).astype(np.float32)

    found = judged(Made(noise), Made(noise))
    assert found.delta == 0 and found.verdict == "INCONCLUSIVE" and "predicts nothing" in found.why
    assert found.reference.ppl == pytest.approx(VOCAB, rel=0.1) and found.exit_code == 3


def test_too_little_text_is_never_green() -> None:
    found = judged(Made(), count=300)
    assert found.delta == 0 and found.verdict == "INCONCLUSIVE" and "300 tokens are fewer than 1024" in found.why
    wide = Made(lambda fed: right(fed) + np.random.default_rng([1, len(fed)]).normal(0, 0.15, VOCAB).astype("f4"))
    found = judged(wide)
    assert found.verdict == "INCONCLUSIVE" and "both sides" in found.why, found.why
    for _ in range(4):  # whoever gives as many as it says, and says again, comes to a verdict
        if found.verdict == "INCONCLUSIVE":
            wanted = int(float(found.why.split("some ")[1].split(" tokens")[0]))
            assert found.scored < wanted < 20_000
            found = judged(wide, count=wanted * 5 // 4)
    assert found.verdict in ("PASS", "FAIL"), found.why


def test_logits_that_are_not_finite_fail() -> None:
    def broken(fed: Sequence[int]) -> np.ndarray:
        return right(fed) if len(fed) != 100 else np.full(VOCAB, np.nan, np.float32)

    found = judged(Made(broken))
    assert found.verdict == "FAIL" and "not finite" in found.why
    again = msgspec.json.decode(msgspec.json.encode(found), type=Perplexity)
    assert again == found and gate(again).state == "FAIL"  # JSON has no infinity: what is not finite is null
    assert (found.candidate.nll.count(None), found.candidate.ppl, found.delta) == (15, None, None)  # one a window
    found = judged(Made(), Made(broken))
    assert found.verdict == "INCONCLUSIVE" and "reference's likelihoods are not finite" in found.why


def test_what_a_server_does_not_tell_is_not_invented() -> None:
    def told(fed: Sequence[int]) -> np.ndarray:
        row = right(fed)
        row -= np.log(np.exp(row).sum())
        return np.where(row >= np.sort(row)[-5], row, np.nan).astype(np.float32)

    ids = [0, *range(1, 40), 3]
    with pytest.raises(WrongInput, match=r"tells 5 of 50 log-probabilities, and not that of token 40.*probs=50"):
        score(Made(told, "logprobs:5"), ids, PLAN)
    assert score(Made(told, "logprobs:5"), ids[:-1], PLAN).nll == pytest.approx(score(Made(), ids[:-1], PLAN).nll, 1e-5)


def test_other_tokens_are_not_compared() -> None:
    with pytest.raises(WrongInput, match="from position 1 on"):
        judged(Made(offset=1))
    with pytest.raises(WrongInput, match="1 tokens"):
        ids_of("", [Made()], PLAN)
    with pytest.raises(WrongInput, match="same tokens"):
        difference([1.0], [1.0, 2.0])


def test_the_interval_of_a_difference_covers_it() -> None:
    """Of 100 texts whose neighbouring tokens depend on each other, at most one in eight is missed."""
    dice, missed = np.random.default_rng(5), 0
    for _ in range(100):
        base = dice.gamma(2, 1, 600)
        noise = np.convolve(dice.normal(0, 0.1, 603), np.ones(4) / 2, "valid")
        _, low, high = difference(base, base + noise)
        missed += not low <= 0 <= high
    assert missed <= 12
    assert difference(base, base) == (0, 0, 0) and perplexity([math.log(9.0)] * 3) == pytest.approx(9)


def test_a_baseline_is_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    options = ("--cand", "kparity:cpu", "--tokens", "60", "--window", "64")
    first = run("ppl", "--ref", "kparity:cpu", *options, "--json", str(tmp_path / "a.json"))
    assert first.returncode == 3, first.stderr  # too short
    kept = json.loads((tmp_path / "a.json").read_text())
    assert len(kept["candidate"]["nll"]) == kept["scored"] == 59 and kept["delta"] == 0
    again = run("ppl", "--baseline", str(tmp_path / "a.json"), *options, "--json")
    assert again.returncode == 3 and json.loads(again.stdout)["reference"]["nll"] == kept["candidate"]["nll"]
    other = run("ppl", "--baseline", str(tmp_path / "a.json"), *options, "--stride", "8")
    assert other.returncode == 2 and "of other windows" in other.stderr
    for text in ("{}", '{"x": ' + "[" * 100_000):
        (tmp_path / "b.json").write_text(text)
        bad = run("ppl", "--baseline", str(tmp_path / "b.json"), *options)
        assert bad.returncode == 2 and "is not the JSON of kparity ppl" in bad.stderr and "Traceback" not in bad.stderr
