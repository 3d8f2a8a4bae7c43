"""What every engine can do, whoever wrote it: facts about itself, tokens in, logits out, traces where it can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np

from kparity.errors import Unavailable, WrongInput
from kparity.host import install
from kparity.host.processors import MOST_THREADS, processors
from kparity.host.text import printable
from kparity.ops.spec import Array

Sink = Callable[[str, Array], None]
"""Takes a traced tensor: the name that the engine gives it, and f32 [tokens, width]."""


def matching(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name matches one of some patterns (``fnmatch``)."""
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def needed(module: str, extra: str, code: str) -> Any:
    """A module that an extra brings, imported; raises Unavailable with the line that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise Unavailable(f"{name} cannot be imported ({error})", install.extra(extra), code) from None


class DeviceRow(msgspec.Struct, frozen=True):
    """A device that an engine sees; ``used`` if it computes on it."""

    name: str
    description: str
    kind: str
    """``gpu``, ``cpu``, ``software``, or ``unknown`` behind a network."""
    used: bool


class Placed(msgspec.Struct, frozen=True):
    """What of a model lies in which buffer: ``model``, ``KV`` and ``compute`` in MiB, ``step`` and ``batch`` in
    tensors that a decode step, or a batch of the engine's own size, computes there.
    """

    what: str
    buffer: str
    amount: float


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine says of itself. Two with equal ``numerics`` differ by the order of their additions alone."""

    name: str
    version: str
    """Of the engine, its build or its library."""
    model: str
    """Path of the file."""
    vocab: int
    context: int
    """Positions that the cache holds."""
    layers: int
    width: int
    kv_heads: int = 0
    head_dim: int = 0
    """Of a key; 0, as for the heads, where it is not known."""
    sequences: int = 1
    """That one batch can hold."""
    bos: int = -1
    eos: int = -1
    add_bos: bool = True
    devices: tuple[DeviceRow, ...]
    numerics: str
    activations: str = ""
    """Type of the activations that meet quantised weights, where it is known: ``int8 token``, ``Q8_K``."""
    kv: str = ""
    """Element type of the KV cache."""
    threads: int = 0
    """Of the processor; 0 where it is not known."""
    offloaded: tuple[int, int] | None = None
    """Layers on the device, of how many, as llama.cpp counts them (the output is one); None on the processor."""
    placed: tuple[Placed, ...] = ()
    traces: bool = False
    gives: str = "logits"
    """``logits``; or ``logprobs:N``, log-probabilities of a position's N likeliest tokens, and NaN for others."""
    answers: tuple[int, ...] = ()
    """The only tokens that it can be fed, in their order, where it holds what was computed before."""
    weaknesses: tuple[str, ...] = ()
    """What a reader of a comparison must know, such as layers that stayed on the processor."""

    @property
    def device(self) -> DeviceRow:
        """The first that is used."""
        return next(each for each in self.devices if each.used)


@dataclass(frozen=True)
class Spec:
    """An engine as people write it: ``llama.cpp:/opt/llama/bin?device=Vulkan0&ngl=99`` has the kind ``llama.cpp``, the
    place ``/opt/llama/bin`` and two options.
    """

    text: str
    kind: str
    place: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Raises WrongInput for options that cannot be read. Whether there is such a kind is not asked here."""
        head, _, query = text.partition("?")
        kind, _, place = head.partition(":")
        options = dict[str, str]()
        made = cls(printable(text), kind, place, options)
        if made.text != text:
            raise made.wrong("it has characters that are not shown; leave them out")
        for each in query.split("&") if query else ():
            name, equals, value = each.partition("=")
            value = unquote(value)
            if not equals:
                raise made.wrong(f"{each!r} is no option; write ?name=value&name=value")
            if name in options:
                raise made.wrong(f"option {name!r} stands twice; give it once")
            if not value.strip() or printable(value) != value:
                raise made.wrong(f"{name} is {value!r}; give a value that can be read, or leave it out")
            options[name] = value
        return made

    def wrong(self, what: str) -> WrongInput:
        """An error that names the specification."""
        return WrongInput(f"engine {self.text}: {what}")

    def only(self, *known: str) -> None:
        """Raise WrongInput for an option that this kind of engine does not have."""
        for name in self.options:
            if name not in known:
                raise self.wrong(f"no option {name!r}; {self.kind} has {', '.join(known) or 'none'}")

    def number(self, name: str, default: int, least: int = 0, most: int = 10**9) -> int:
        """An option that is a whole number."""
        text = self.options.get(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) < 11 and least <= int(text) <= most):
            raise self.wrong(f"{name} is {text!r}, expected a whole number from {least} to {most}")
        return int(text)

    def threads(self) -> int:
        """Of the processor, by default all that this process may use."""
        return self.number("threads", processors(), 1, MOST_THREADS)

    def choice(self, name: str, *values: str) -> str:
        """An option that is one of some words, the first of them by default."""
        text = self.options.get(name, values[0])
        if text not in values:
            raise self.wrong(f"{name} is {text!r}, expected one of {', '.join(values)}")
        return text


class Engine(ABC):
    """Tokens in, f32 logits out. The state is a cache of the tokens that were fed since the last ``reset``.

    Made as ``cls(spec, model=PATH, context=POSITIONS)``, with 0 positions for as many as it likes; raises Unavailable
    where it cannot run. Calls raise WrongInput for no token, for one outside of the vocabulary, and for more than the
    context holds.
    """

    facts: Facts

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, with the special tokens that the engine puts before a prompt."""

    @abstractmethod
    def reset(self) -> None:
        """Forget every token."""

    def prefill(self, tokens: Sequence[int]) -> Array:
        """Feed a prompt in batches as the engine serves them; f32 logits [vocab] after its last token."""
        return np.asarray(self.score(tokens)[-1])

    def step(self, token: int) -> Array:
        """Feed one token; f32 logits [vocab]."""
        return self.prefill([token])

    @abstractmethod
    def score(self, tokens: Sequence[int]) -> Array:
        """Feed tokens in batches; f32 logits [len(tokens), vocab] after each."""

    def score_beside(self, tokens: Sequence[int], neighbours: Sequence[int]) -> Array:
        """As ``score`` after ``reset``, while another sequence of at most as many tokens is in the same batches; raises
        WrongInput where the engine has one sequence. Reset it afterwards.
        """
        raise WrongInput(f"{self.facts.name} has one sequence; it has no neighbours in a batch")

    def trace(self, tokens: Sequence[int], slots: Sequence[str], sink: Sink) -> Array:
        """As ``score``, and give tensors whose names match one of some patterns (``fnmatch``) to ``sink`` in the order
        of computation; raises WrongInput where the engine cannot. What it returns is equal to ``score``'s bit for bit.
        """
        raise WrongInput(f"{self.facts.name} gives no traces; compare its logits instead")

    @abstractmethod
    def close(self) -> None:
        """Give everything back; the engine must not be used afterwards."""

    def check(self, tokens: Sequence[int], fed: int) -> None:
        """Raise WrongInput for tokens that cannot follow ``fed`` others."""
        name, vocab, room = self.facts.name, self.facts.vocab, self.facts.context
        if not len(tokens):
            raise WrongInput(f"{name}: no token was given")
        if not all(0 <= token < vocab for token in tokens):
            raise WrongInput(f"{name}: a token is outside of the vocabulary of {vocab}")
        if fed + len(tokens) > room:
            raise WrongInput(f"{name}: {fed + len(tokens)} tokens exceed the context of {room} positions")
