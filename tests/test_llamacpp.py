"""The embedded model in llama.cpp and in kparity: the same greedy text, the same distributions.

llama.cpp is the independent engine here: it shares no code with kparity and reads the same file (that both cut text
alike is a matter of test_tokenizer.py). Both sides quantise activations in blocks of 256 (llama.cpp's Q8_K) and keep
the KV cache in half precision, so they differ by float rounding alone (llama.cpp also rounds the queries and the input
of the LM head to half precision). A difference that carries an activation across the border of an int8 code changes
that code by one, and this spreads: the logits agree closely, but not to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kparity import plain
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model

PROMPTS = 20
PROMPT_WORDS = 6
NEW_TOKENS = 48

# Bases, from 960 positions of an fp64 forward pass with llama.cpp's quantisation against llama.cpp (AVX-512, 1 thread).
# The margin between llama.cpp's first two tokens differs by a median of 0.021, p99 0.112, maximum 0.225 nats. KL has
# median 2.0e-4, p99 1.2e-3, maximum 4.0e-3. 7 positions (0.7 %) choose differently, at margins up to 0.026. With
# activations quantised per token instead: KL median 4.5e-4, p99 2.9e-3, and 15 positions, at margins up to 0.110.

# A position is a near-tie when llama.cpp's first two log-probabilities are closer than this, in nats: p99 of the noise.
NEAR_TIE = 0.12
# Share of the positions where the engines may choose differently, each of them a near-tie: three times the measured.
MAX_TIE_RATE = 0.02
# Nats. The median is stable over 960 positions, and set to tell the two quantisations apart. The others are tails and
# get room: three and five times the measured.
MAX_KL_MEDIAN = 3e-4
MAX_KL_P99 = 3.6e-3
MAX_KL = 2e-2


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64), axis=-1, keepdims=True)


@dataclass(frozen=True)
class Answer:
    """llama.cpp on one prompt: its greedy tokens, and all log-probabilities at each, float64 [NEW_TOKENS, vocab]."""

    prompt: str
    ids: list[int]
    tokens: list[int]
    log_p: np.ndarray

    def margin(self) -> np.ndarray:
        """The first log-probability minus the second, in nats, at each position."""
        top = np.sort(self.log_p, axis=1)
        return top[:, -1] - top[:, -2]


@dataclass(frozen=True)
class Run:
    """llama.cpp's answer, and kparity's log-probabilities on the same tokens, float64 [NEW_TOKENS, vocab]."""

    answer: Answer
    log_p: np.ndarray

    def margin_noise(self) -> np.ndarray:
        """How far the margin between llama.cpp's first two tokens differs in kparity, in nats, at each position."""
        order = np.argsort(self.answer.log_p, axis=1)[:, -2:]
        second, first = np.take_along_axis(self.log_p, order, axis=1).T
        return np.abs(self.answer.margin() - (first - second))

    def kl(self) -> np.ndarray:
        """KL(llama.cpp || kparity) in nats, at each position."""
        theirs = self.answer.log_p
        return (np.exp(theirs) * (theirs - self.log_p)).sum(axis=1)


def summary(values: np.ndarray) -> str:
    return f"median {np.median(values):.3g}, p99 {np.quantile(values, 0.99):.3g}, max {values.max():.3g}"


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(None)


@pytest.fixture(scope="module")
def answers(model: Any, llamacpp: ModuleType) -> list[Answer]:
    """llama.cpp's greedy continuation of the first words of verses spread evenly over the held-out text."""
    verses = files("kparity").joinpath("data/heldout.txt").read_text(encoding="ascii").split("\n")
    verses = [line for line in verses if line]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPARITY_THREADS", "1")
        llama = llamacpp.LlamaCpp(model=str(model.path), seed=0, length=8, context=512)
        found = []
        for at in range(PROMPTS):
            prompt = " ".join(verses[at * len(verses) // PROMPTS].split()[:PROMPT_WORDS])
            ids = model.tokenizer.encode(prompt)
            llama.ids = np.zeros(len(ids) + NEW_TOKENS, np.int32)
            llama.ids[: len(ids)] = ids
            rows = [llama.prompt(len(ids))[1]]
            for place in range(len(ids), len(llama.ids) - 1):
                llama.ids[place] = rows[-1].argmax()
                llama.step(place)
                rows.append(llama.logits())
            tokens = [int(row.argmax()) for row in rows]
            found.append(Answer(prompt, ids, tokens, log_softmax(np.stack(rows))))
        llama.close()
    return found


def replay(model: Any, answers: list[Answer], act: str) -> list[Run]:
    """kparity on llama.cpp's tokens: after a near-tie both sides go on from the same text."""
    engine = Engine(model, open_backend("cpu"), act=act)
    runs = []
    for answer in answers:
        engine.reset()
        logits = [engine.prefill(answer.ids)] + [engine.step(token) for token in answer.tokens[:-1]]
        runs.append(Run(answer, log_softmax(np.stack(logits))))
    engine.close()
    return runs


@pytest.fixture(scope="module")
def runs(model: Any, answers: list[Answer]) -> list[Run]:
    """All prompts through kparity with llama.cpp's quantisation."""
    return replay(model, answers, "block256")


def test_same_greedy_tokens_except_at_near_ties(runs: list[Run], record_property: Any) -> None:
    margins = np.concatenate([run.answer.margin() for run in runs])
    differs = np.concatenate([run.log_p.argmax(axis=1) != run.answer.tokens for run in runs])
    for position in np.flatnonzero(differs):
        prompt, token = runs[position // NEW_TOKENS].answer.prompt, position % NEW_TOKENS
        where = f"{prompt!r} + {token} tokens: llama.cpp's margin is {margins[position]:.4f} nats"
        print(f"another token at {where}")
        assert margins[position] <= NEAR_TIE, f"another token where there is no near-tie: {where}"
    rate, exposed = float(differs.mean()), float((margins <= NEAR_TIE).mean())
    print(f"{differs.sum()} of {differs.size} positions differ ({rate:.2%}); {exposed:.2%} are near-ties")
    record_property("greedy_difference_rate", rate)
    assert rate <= MAX_TIE_RATE


def test_distributions_agree(runs: list[Run], record_property: Any) -> None:
    kl = np.concatenate([run.kl() for run in runs])
    noise = np.concatenate([run.margin_noise() for run in runs])
    print(f"KL(llama.cpp || kparity), nats per position: {summary(kl)}")
    print(f"difference of the margins, nats: {summary(noise)}")
    record_property("kl", summary(kl))
    assert np.median(kl) <= MAX_KL_MEDIAN
    assert np.quantile(kl, 0.99) <= MAX_KL_P99
    assert kl.max() <= MAX_KL


def test_the_plain_pass_agrees(answers: list[Answer]) -> None:
    """The reference of the probe is held to the same limits: it shares nothing with llama.cpp but the file."""
    runs = []
    for answer in answers[::4]:
        tokens = [*answer.ids, *answer.tokens[:-1]]
        logits = plain.logits(None, tokens, act="block256", kv="f16").logits[len(answer.ids) - 1 :]
        runs.append(Run(answer, log_softmax(logits)))
    kl = np.concatenate([run.kl() for run in runs])
    print(f"KL(llama.cpp || plain), nats per position: {summary(kl)}")
    assert len(kl) >= 4 * NEW_TOKENS and np.median(kl) <= MAX_KL_MEDIAN and kl.max() <= MAX_KL


def test_the_comparison_sees_another_quantisation(model: Any, answers: list[Answer]) -> None:
    """Activations quantised per token are a difference without a bug, and the smallest that these numbers must show."""
    kl = np.concatenate([run.kl() for run in replay(model, answers, "token")])
    print(f"KL with activations quantised per token: {summary(kl)}")
    assert np.median(kl) > MAX_KL_MEDIAN
