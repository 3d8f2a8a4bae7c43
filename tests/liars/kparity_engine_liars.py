"""Engines that lie, one way each: one attention layer over tokens in numpy, wrong in one respect. ``fake:healthy`` and
``fake:twin`` differ by rounding; with ``?told=N`` they tell the N largest log-probabilities alone, as servers do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from kparity.engines.base import DeviceRow, Engine, Facts, Spec
from kparity.errors import DeviceFault, Unavailable, WrongInput

VOCAB, WIDTH, BOS, LATE = 97, 16, 1, 40
ANSWERS = (BOS, *(3 + byte % 90 for byte in b"What was recorded before can be compared with what is computed now."))
RNG = np.random.default_rng(7)
ORDER = np.random.default_rng(1).permutation(VOCAB)
EMBEDDING, HEAD = RNG.normal(0, 1, (VOCAB, WIDTH)), RNG.normal(0, 1, (WIDTH, VOCAB))


class Fake(Engine):
    """``fake:FAULT``: the place of the specification is the fault."""

    def __init__(self, spec: Spec, *, model: str = "", context: int = 0) -> None:
        self.fault, self.tokens, self.fed, self.runs = spec.place, list[int](), 0, 0
        self.rng, self.before = np.random.default_rng(), np.zeros(0)
        self.noise = 1e-6 * self.rng.normal(0, 1, VOCAB)
        if self.fault == "absent":
            raise Unavailable("no such device", "buy one", "KP-NO-SUCH")
        if self.fault == "stillborn":
            raise DeviceFault("lost while it opened")
        offloaded = {"fallback": (3, 7), "offloaded": (7, 7)}.get(self.fault)
        self.told = spec.number("told", 0)
        self.facts = Facts(
            name=f"fake {self.fault}", version="1", model=model, layers=1, width=WIDTH, bos=BOS, eos=2,
            kv_heads=1 + (self.fault == "heads"), head_dim=WIDTH, sequences=1 if self.fault == "short" else 2,
            vocab=VOCAB - (self.fault == "vocab"), offloaded=offloaded,
            context=spec.number("context", 10 if self.fault == "short" else 512),
            devices=(DeviceRow("fake 0", "a fake device", "cpu", True),), activations="f64", kv="f64",
            numerics="another" if self.fault == "another" else "f64",
            gives=f"logprobs:{self.told}" if self.told else "logits",
            answers=ANSWERS if self.fault == "recorded" else (),
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        ids = [3 + byte % 90 for byte in text.encode()]
        if self.fault == "mute":
            raise WrongInput("no tokenizer")
        if self.fault == "pre":
            ids = [id for id in ids if id % 5]
        if self.fault == "offset":
            return [id + 1 for id in (BOS, *ids)]
        before = {"bos2": [BOS, BOS], "nobos": [], "template": [BOS, 50, 51, 52]}.get(self.fault, [BOS])
        return [*before, *ids, *([53] if self.fault == "template" else [])]

    def reset(self) -> None:
        self.tokens = self.tokens[-1:] if self.fault == "reset" else []
        self.runs += 1

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        return self.score(tokens)[-1] + 9 * (self.fault == "prompt") * np.cos(np.arange(VOCAB, dtype=np.float32))

    def step(self, token: int) -> np.ndarray:
        row = self._rows([token], stepping=True)[0]
        if self.fault == "random" and len(self.tokens) > 30:
            return self.rng.normal(0, 5, row.shape).astype(np.float32)
        return row

    def score(self, tokens: Sequence[int]) -> np.ndarray:
        return self._rows(tokens, stepping=False)

    def score_beside(self, tokens: Sequence[int], neighbours: Sequence[int]) -> np.ndarray:
        self.reset()
        content, short = np.resize(neighbours, len(tokens))[:, None], len(neighbours) < len(tokens)
        leak = {"neighbour": 1e-6 * content, "ragged": 0.3 * short}.get(self.fault, 0.0)
        return (self.score(tokens) + leak * np.cos(np.arange(VOCAB))).astype(np.float32)

    def _rows(self, tokens: Sequence[int], stepping: bool) -> np.ndarray:
        begin = len(self.tokens)
        self.tokens += tokens
        self.fed += len(tokens)
        if self.fed > 100 and self.fault == "dies":
            raise DeviceFault("the device was lost")
        if self.fault == "recorded" and tuple(self.tokens) != ANSWERS[: len(self.tokens)]:
            raise WrongInput("only what was recorded")
        if self.fault == "exits":
            os._exit(7)
        rows = [self._row(at, begin, stepping) for at in range(begin, len(self.tokens))]
        if self.fault == "stale":
            *rows, self.before = (self.before if begin else rows[0]), *rows
        return np.stack(rows)

    def _row(self, at: int, begin: int, stepping: bool) -> np.ndarray:
        fault, low, high, turn = self.fault, 0, at + 1, 0
        if fault == "future":
            high = min(at + 2, len(self.tokens))
        elif fault == "nomask":
            high = len(self.tokens)
        elif fault == "blindfirst" and at:
            low = 1
        elif (fault == "blindself" and at) or (fault == "kv" and stepping and at > 1):
            high = at
        elif fault == "turn" and begin and not stepping:
            turn = 1
        elif fault == "restart":
            low = at // 32 * 32
        elif fault == "own":
            low = at
        seen = (np.asarray(self.tokens[low:high]) + (fault == "shifted")) % VOCAB
        places = np.arange(low, high) + turn * (np.arange(low, high) >= begin)
        query = seen[min(at, high - 1) - low]
        if fault == "ownbos":
            seen, places = np.concatenate([[BOS], seen]), np.concatenate([[-1], places])
        keys = EMBEDDING[seen]
        scores = keys @ EMBEDDING[query] / 4 + np.cos(places - at)
        weights = np.exp(scores - scores.max())
        mixed = np.tanh((weights / weights.sum()) @ keys * 2)
        row = mixed @ HEAD
        if fault == "twin":
            row = row * (1 + 1e-7 * np.cos(np.arange(VOCAB)))
        elif fault == "tail" and begin and len(self.tokens) == begin + 1 and not stepping:
            row = row + 0.3 * np.cos(np.arange(VOCAB))
        elif fault == "seeded":
            row = row + self.noise
        elif fault == "noisy":
            row = row + 1e-6 * self.rng.normal(0, 1, VOCAB)
        elif fault == "gain":
            row = row * 1.01
        elif fault == "rolled":
            row = np.roll(row, 3)
        elif fault == "element":
            row = row - 3.0 * (np.arange(VOCAB) == 7) * (at % 3 == 1)
        elif fault == "headrow":
            row = row - 3.0 * (np.arange(VOCAB) == 7)
        elif fault in ("tie", "tied") and at % 9 == 5:
            row[90] = row.max() * (1 + 3e-7 * (fault == "tied"))
        elif fault == "permuted":
            row = row[ORDER]
        elif fault == "constant":
            row = row - np.logaddexp.reduce(row)
        elif fault == "coarse":
            row = row + 0.8 * np.sin(np.arange(VOCAB) * (1 + query))
        elif fault == "silu":
            row = np.abs(mixed) @ HEAD
        elif fault == "batch" and not stepping and at:
            row = row + 0.3 * np.cos(np.arange(VOCAB))
        elif fault == "late" and at >= LATE:
            row = row + 0.3 * np.cos(np.arange(VOCAB) * at)
        elif fault == "grows":
            row = row + 1e-5 * 1.2**at * np.cos(np.arange(VOCAB) * at)
        elif fault == "nan" and at == 20:
            row = np.where(np.arange(VOCAB) == 5, np.nan, row)
        elif fault == "second" and self.runs % 2 == 0:
            row = row + 0.2 * np.cos(np.arange(VOCAB))
        elif fault == "unsteady":
            row = row + 0.2 * self.rng.normal(0, 1, VOCAB)
        elif fault == "greedy" and stepping and begin > 35:
            row = np.roll(row, 1)
        row = row[: self.facts.vocab]
        if self.told:
            row = row - np.logaddexp.reduce(row)
            row[np.argsort(-row)[self.told :]] = np.nan
        return row.astype(np.float32)

    def close(self) -> None:
        self.tokens = []
