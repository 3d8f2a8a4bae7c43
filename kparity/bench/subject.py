"""A model that is measured one sample at a time, whoever runs it: what is measured, prompts of several lengths and
single steps at several depths on one sequence of tokens, with the output of what was timed.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kparity.bench.machine import meter, spent
from kparity.device.adapter import DeviceInfo
from kparity.gates import challenge
from kparity.gates.reference import first_token
from kparity.model import Model
from kparity.numerics import compare
from kparity.ops.spec import Array
from kparity.receipts.record import BLOCK


@dataclass(frozen=True)
class Point:
    """``pp128``: a prompt of 128 tokens on an empty cache. ``tg@512``: a block of steps behind 512 tokens."""

    phase: Literal["prefill", "decode"]
    length: int

    @property
    def name(self) -> str:
        """As tables and receipts call it."""
        return f"pp{self.length}" if self.phase == "prefill" else f"tg@{self.length}"

    @property
    def prefix(self) -> int:
        """Tokens of the sequence that are in the cache when the timed output stands."""
        return self.length + (BLOCK if self.phase == "decode" else 0)

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return self.length if self.phase == "prefill" else 1


def points(prompts: tuple[int, ...], depths: tuple[int, ...]) -> list[Point]:
    """Prompts and then depths, each from the shortest to the longest."""
    prefills = [Point("prefill", length) for length in sorted(set(prompts))]
    return [*prefills, *(Point("decode", depth) for depth in sorted(set(depths)))]


def sequence(model: Model, seed: int, length: int, nonce: str = "") -> list[int]:
    """The tokens of every run: the first token of the model, and then ids drawn from nonce and seed."""
    return [first_token(model), *challenge.drawn(nonce, "tokens", seed, length - 1, model.hparams.vocab)]


def digest(logits: Array, best: Sequence[int] = ()) -> str:
    """SHA-256 of every bit of an output, and of the tokens on the way to it."""
    return hashlib.sha256(logits.tobytes() + np.array(best, np.int64).tobytes()).hexdigest()


class Subject(ABC):
    """A model in a process of its own. Every point is a prefix of one sequence of tokens, so that a cache that was
    filled once serves every depth.
    """

    def __init__(self, tokens: Sequence[int], info: DeviceInfo) -> None:
        self.tokens, self.meter = tokens, meter(info)
        self.best: list[int] = []
        """Greedy ids of the steps of a block, where they are known."""
        self.outputs: dict[Point, Array] = {}
        """Logits [vocab] of the last sample of each point."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What it is, as a receipt tells it."""

    @abstractmethod
    def prompt(self, length: int) -> tuple[float, Array]:
        """Feed the first tokens to an empty cache: seconds until their logits are there, and these."""

    @abstractmethod
    def go_to(self, depth: int) -> None:
        """Let the next step follow ``depth`` tokens, all of which were in the cache at some time."""

    @abstractmethod
    def step(self, position: int) -> float:
        """Feed the token at a position; seconds until the next one is known."""

    @abstractmethod
    def logits(self) -> Array:
        """Logits [vocab] of the last step."""

    @abstractmethod
    def close(self) -> None:
        """Release the device and the model."""

    def prefill(self, length: int) -> dict[str, Any]:
        """A prompt on an empty cache, until its logits are on the host: seconds, joules, digest."""
        before = self.meter.read()
        seconds, logits = self.prompt(length)
        joules = spent(before, self.meter.read())
        self.outputs[Point("prefill", length)] = logits
        return {"seconds": [seconds], "joules": joules, "digest": digest(logits)}

    def fill(self, length: int) -> None:
        """Fill the cache for ``decode``."""
        if length:
            self.prompt(length)

    def decode(self, length: int) -> dict[str, Any]:
        """A block of steps behind ``length`` tokens, each until its token is on the host: seconds of each, joules,
        digest of the last logits and of all tokens.

        The first step is done once beforehand, untimed: another process has used the caches meanwhile.
        """
        self.go_to(length)
        self.step(length)
        self.go_to(length)
        self.best.clear()
        before = self.meter.read()
        seconds = [self.step(position) for position in range(length, length + BLOCK)]
        joules = spent(before, self.meter.read())
        logits = self.outputs[Point("decode", length)] = self.logits()
        return {"seconds": seconds, "joules": joules, "digest": digest(logits, self.best)}

    def conclude(self, path: str) -> dict[str, Any]:
        """What was computed: ``cosines`` by point, of its last output with the reference's logits in an .npz file of
        prefixes; None where it is no number.
        """
        with np.load(path) as wanted:
            cosines = {
                point.name: compare.cosine(row, wanted[str(point.prefix)]) for point, row in self.outputs.items()
            }
        return {"cosines": {name: value if np.isfinite(value) else None for name, value in cosines.items()}}
