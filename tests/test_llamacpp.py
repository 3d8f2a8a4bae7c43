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


def margins(theirs: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """The log-probability of llama.cpp's first token minus that of its second, in nats, at each position."""
    second, first = np.take_along_axis(log_p, np.argsort(theirs, axis=1)[:, -2:], axis=1).T
    return first - second


def kl(theirs: np.ndarray, ours: np.ndarray, name: str) -> np.ndarray:
    """KL(llama.cpp || kparity) in nats, at each position; printed."""
    nats = (np.exp(theirs) * (theirs - ours)).sum(axis=1)
    print(f"KL(llama.cpp || {name}), nats per position: {summary(nats)}")
    return nats


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


@pytest.fixture(scope="module")
def theirs(answers: list[Answer]) -> np.ndarray:
    """llama.cpp's log-probabilities of all prompts, float64 [PROMPTS · NEW_TOKENS, vocab]."""
    return np.concatenate([answer.log_p for answer in answers])


def replay(model: Any, answers: list[Answer], act: str) -> np.ndarray:
    """kparity's on llama.cpp's tokens: after a near-tie both sides go on from the same text."""
    engine, logits = Engine(model, open_backend("cpu"), act=act), []
    for answer in answers:
        engine.reset()
        logits += [engine.prefill(answer.ids), *(engine.step(token) for token in answer.tokens[:-1])]
    engine.close()
    return log_softmax(np.stack(logits))


@pytest.fixture(scope="module")
def ours(model: Any, answers: list[Answer]) -> np.ndarray:
    """All prompts through kparity with llama.cpp's quantisation."""
    return replay(model, answers, "block256")


def test_same_greedy_tokens_except_at_near_ties(answers, theirs, ours, record_property) -> None:
    margin = margins(theirs, theirs)
    differs = ours.argmax(axis=1) != np.concatenate([answer.tokens for answer in answers])
    for position in np.flatnonzero(differs):
        prompt, token = answers[position // NEW_TOKENS].prompt, position % NEW_TOKENS
        where = f"{prompt!r} + {token} tokens: llama.cpp's margin is {margin[position]:.4f} nats"
        print(f"another token at {where}")
        assert margin[position] <= NEAR_TIE, f"another token where there is no near-tie: {where}"
    rate, exposed = float(differs.mean()), float((margin <= NEAR_TIE).mean())
    print(f"{differs.sum()} of {differs.size} positions differ ({rate:.2%}); {exposed:.2%} are near-ties")
    record_property("greedy_difference_rate", rate)
    assert rate <= MAX_TIE_RATE


def test_distributions_agree(theirs, ours, record_property) -> None:
    nats = kl(theirs, ours, "kparity")
    print(f"difference of the margins, nats: {summary(np.abs(margins(theirs, theirs) - margins(theirs, ours)))}")
    record_property("kl", summary(nats))
    assert np.median(nats) <= MAX_KL_MEDIAN
    assert np.quantile(nats, 0.99) <= MAX_KL_P99
    assert nats.max() <= MAX_KL


def test_the_plain_pass_agrees(answers: list[Answer]) -> None:
    """The reference of the probe is held to the same limits: it shares nothing with llama.cpp but the file."""
    rows = []
    for answer in answers[::4]:
        tokens = [*answer.ids, *answer.tokens[:-1]]
        rows.append(plain.logits(None, tokens, act="block256", kv="f16").logits[len(answer.ids) - 1 :])
    nats = kl(np.concatenate([answer.log_p for answer in answers[::4]]), log_softmax(np.concatenate(rows)), "plain")
    assert len(nats) >= 4 * NEW_TOKENS and np.median(nats) <= MAX_KL_MEDIAN and nats.max() <= MAX_KL


def test_the_comparison_sees_another_quantisation(model: Any, answers: list[Answer], theirs: np.ndarray) -> None:
    """Activations quantised per token are a difference without a bug, and the smallest that these numbers must show."""
    nats = kl(theirs, replay(model, answers, "token"), "activations quantised per token")
    assert np.median(nats) > MAX_KL_MEDIAN
