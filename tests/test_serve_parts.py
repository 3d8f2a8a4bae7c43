"""The parts of the server, by themselves: what a device's process does, text that comes token by token, sampling."""

from __future__ import annotations

import re
from collections import Counter
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity.backends.cpu import CpuBackend
from kparity.engine import Engine
from kparity.engine.canary import Canary, Tripped
from kparity.errors import DeviceFault
from kparity.model import load_model
from kparity.numerics.perplexity import windows
from kparity.serve import device
from kparity.serve.device import Device
from kparity.serve.messages import Ask, Stop, Told, Wrote
from kparity.serve.metrics import Metrics
from kparity.serve.sampling import drawn, logprobs, told
from kparity.serve.transcript import Transcript, Words

PROMPT = [0, 34, 77, 300, 5]


class Heard:
    """The pipe to the parent: keeps what is said, and closes once ``answers`` sequences are over."""

    def __init__(self, inbox: SimpleQueue[Any], answers: int, then: Stop | None = None) -> None:
        self.inbox, self.answers, self.then, self.said = inbox, answers, then, list[Any]()

    def send(self, *messages: msgspec.Struct) -> None:
        for message in messages:
            self.said.append(msgspec.json.decode(msgspec.json.encode(message), type=type(message)))
            if self.then and isinstance(message, Wrote):
                self.inbox.put(self.then)
                self.then = None
            self.answers -= isinstance(message, Wrote) and message.end != ""
        if not self.answers:
            self.inbox.put(None)

    def of(self, id: int) -> list[Wrote]:
        return [each for each in self.said if isinstance(each, Wrote) and each.id == id]

    def tokens(self, id: int) -> list[int]:
        return [token for each in self.of(id) for token in each.tokens]


def engine(canary: bool = True, every: int = 0) -> Engine:
    made = Engine(load_model(None), CpuBackend(threads=1))
    if canary:
        made.canary = Canary(made, every)
    return made


def answered(made: Engine, *asked: Ask | Stop, parallel: int = 4, answers: int = 0, then: Stop | None = None) -> Heard:
    """What is said until as many answers are over; ``then`` is asked when anything of one was told."""
    inbox: SimpleQueue[Any] = SimpleQueue()
    for each in asked:
        inbox.put(each)
    heard = Heard(inbox, answers or len(asked), then)
    Device(made, heard, parallel).loop(inbox)  # type: ignore[arg-type]
    return heard


def test_a_sequence_is_what_the_engine_generates_whoever_is_beside_it() -> None:
    """Also at temperatures, each by its own seed, with log-probabilities to the last bit, and with a canary after every
    third run, which uses the first one's cache and programs in between.
    """
    made, bare = engine(every=3), engine(canary=False)
    asks = [Ask(at, [0, *range(30 * at, 30 * at + 11 * at + 2)], 40, 512, at % 3 / 2, 0.9, at, 2 * (at % 2) - 1)
            for at in range(8)]  # fmt: skip
    beside = answered(made, *asks)
    for ask in asks:
        alone = answered(made, ask)
        assert alone.tokens(ask.id) == beside.tokens(ask.id)
        told_alone, told_beside = ([t for w in heard.of(ask.id) for t in w.told] for heard in (alone, beside))
        assert told_alone == told_beside and len(told_alone) == (len(alone.tokens(ask.id)) if ask.top >= 0 else 0)
        if ask.temperature == 0:
            bare.reset()
            assert alone.tokens(ask.id) == list(bare.generate(ask.tokens, ask.most))
    assert len({tuple(beside.tokens(ask.id)) for ask in asks}) > 5


def test_prompt_log_probabilities_are_those_of_single_steps() -> None:
    tokens = [0, *range(200, 280)]
    heard = answered(engine(), Ask(0, tokens, 0, 512, top=3, echo=True))
    got = [each for wrote in heard.of(0) for each in wrote.prompt]
    bare = engine(canary=False)
    rows = [logprobs(bare.step(token)) for token in tokens]
    assert len(got) == len(tokens) - 1 and heard.of(0)[-1].end == "length"
    for row, following, each in zip(rows, tokens[1:], got, strict=False):
        assert abs(each.logprob - row[following]) < 0.05  # another order of additions
        assert each.ids[0] == int(row.argmax()) or each.logprobs[0] - each.logprobs[1] < 0.05
        assert [*each.logprobs] == sorted(each.logprobs, reverse=True) and len(each.ids) == 3


def test_it_stops_at_the_room_at_what_is_enough_and_when_nobody_waits() -> None:
    made = engine()
    full = answered(made, Ask(0, PROMPT, 500, 20))
    assert full.of(0)[-1].end == "length" and len(full.tokens(0)) == 20 - len(PROMPT) + 1
    enough = answered(made, Ask(0, PROMPT, 400, 512), then=Stop(0, True))
    assert enough.of(0)[-1].end == "stop" and len(enough.tokens(0)) < 400
    left = answered(made, Ask(0, PROMPT, 400, 512), Stop(0, False), Ask(1, PROMPT, 3, 512), answers=1)
    assert not left.of(0) and left.tokens(1) == full.tokens(0)[:3]


def test_no_answer_is_complete_before_a_known_step_was_right() -> None:
    made = engine()
    assert made.canary is not None
    made.canary.first = made.canary.first + 1
    inbox: SimpleQueue[Any] = SimpleQueue()
    inbox.put(Ask(0, PROMPT, 4, 512))
    heard = Heard(inbox, 1)
    device.trusting(made.canary)
    with pytest.raises(Tripped, match="what was not answered yet is in doubt"):
        Device(made, heard, 1).loop(inbox)  # type: ignore[arg-type]
    assert not any(each.end for each in heard.of(0))


@pytest.mark.parametrize(
    "ask", [Ask(0, PROMPT, 9, 512), Ask(0, PROMPT, 9, 512, 0.5), Ask(0, PROMPT, 9, 512, top=0, echo=True)]
)
def test_logits_that_are_no_numbers_end_it(ask: Ask) -> None:
    made = engine(canary=False)
    right = made._run

    def run(*arguments: Any, **options: Any) -> Any:
        graph = right(*arguments, **options)
        graph.logits.handle[:], graph.best.handle[:] = np.nan, -1
        return graph

    made._run = run  # type: ignore[method-assign]
    with pytest.raises(DeviceFault) as failed:
        answered(made, ask)
    assert failed.value.code == "KP-POS-NONFINITE"


def test_another_cache_on_which_a_known_step_differs_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine()
    right = Engine.beside

    def beside(self: Engine) -> Engine:
        other = right(self)
        for _, values in other.cache:
            values.handle[:] = 7
        other.step = lambda token, eager=False: other.row_of(other.run_step(token)) * 2  # type: ignore[method-assign]
        return other

    monkeypatch.setattr(Engine, "beside", beside)
    with pytest.raises(Tripped, match="on another cache"):
        answered(made, Ask(0, PROMPT, 9, 512), Ask(1, PROMPT, 9, 512))


def test_without_memory_for_another_cache_it_goes_on_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def beside(self: Engine) -> Engine:
        raise DeviceFault("out of memory", "KP-DEVICE-OOM")

    monkeypatch.setattr(Engine, "beside", beside)
    heard = answered(engine(), *(Ask(at, PROMPT, 9, 512) for at in range(3)))
    assert heard.tokens(0) == heard.tokens(1) == heard.tokens(2) and len(heard.tokens(0)) == 9
    assert [each.text for each in heard.said if isinstance(each, device.Line)] == [
        "no room for another cache (out of memory); 1 sequences are served at once"
    ]


def test_what_is_drawn_has_the_softmaxs_probabilities() -> None:
    logits, rng = np.log(np.array([0.5, 0.1, 0.3, 0.1], np.float32)), np.random.default_rng(3)
    whole = Counter(drawn(logits, 1.0, 1.0, rng) for _ in range(4000))
    assert all(abs(whole[at] / 4000 - p) < 0.03 for at, p in enumerate((0.5, 0.1, 0.3, 0.1)))
    nucleus = Counter(drawn(logits, 1.0, 0.7, rng) for _ in range(4000))
    assert set(nucleus) == {0, 2} and abs(nucleus[0] / 4000 - 0.625) < 0.03
    cold = Counter(drawn(logits, 0.1, 1.0, rng) for _ in range(400))
    assert cold[0] > 390
    assert {drawn(logits, 100.0, 1e-9, rng) for _ in range(50)} == {0}


def test_log_probabilities_are_normal_and_the_likeliest_come_in_order() -> None:
    row = logprobs(np.array([3, 1, 3, -1e30, 2], np.float32))
    assert abs(np.exp(row).sum() - 1) < 1e-12
    assert told(row, 3, 3) == Told(float(row[3]), (0, 2, 4), tuple(row[[0, 2, 4]].tolist()))
    assert told(row, 1, 1).ids == (0,) and told(row, 1, 0) == Told(float(row[1]))
    assert told(row, 1, 99).ids == (0, 2, 4, 1, 3)


TEXT = st.text(st.sampled_from("ab \nLORDsaid,é漢🎉"), max_size=60)


@settings(deadline=None, max_examples=150)
@given(TEXT, st.lists(st.text(st.sampled_from("ab \nLORé"), min_size=1, max_size=4), max_size=3))
def test_a_transcript_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    words = load_model(None).tokenizer
    found = Transcript(words, [], stops)
    pieces = [found.feed(token) for token in words.encode(text, bos=False)]
    whole = "".join([*pieces, found.finish()])
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert found.stopped == bool(ends)
    first = text[: min(ends)] if ends else text
    assert whole == first or (ends and len(whole) >= min(ends) and text.startswith(whole) and found.stopped)
    assert not any(stop in whole for stop in stops)


def test_tokens_are_called_by_their_text_behind_another() -> None:
    words = Words(load_model(None).tokenizer)
    ids = words.tokenizer.encode("the LORD said")
    assert "".join(map(words.name, ids)) == "<s>the LORD said"
    assert sum(map(words.length, ids)) == len("the LORD said")


@given(st.integers(2, 300), st.integers(2, 40), st.integers(1, 39))
def test_windows_score_every_token_but_the_first_once(count: int, window: int, stride: int) -> None:
    if stride >= window:
        return
    scored = [at for begin, end, first in windows(count, window, stride) for at in range(first, end)]
    assert scored == list(range(1, count))
    assert all(begin < first and end - begin <= window for begin, end, first in windows(count, window, stride))


def test_metrics_are_what_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.requests["/v1/completions", 200] += 3
    metrics.trips['a"b\\', "KP-CANARY"] += 1
    for seconds in (0.001, 0.2, 1000.0):
        metrics.seconds.add(seconds)
    text = metrics.text("cpu", 'a "label"\n', {"kparity_active": ("Sequences.", 2.0)})
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="([^"\\\n]|\\["\\n])*",?)+\})? [-+.e\dInf]+', line), line
    assert 'kparity_request_seconds_bucket{le="0.25"} 2' in text and "kparity_request_seconds_count 3" in text
    assert 'backend="a\\"b\\\\"' in text
    assert metrics.wait(10, 2) == 600 and Metrics().wait(1, 1) == 1
