"""What every engine can do, whoever wrote it: facts about itself, tokens in, logits out, traces where it can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import msgspec

from kparity.errors import WrongInput
from kparity.ops.spec import Array

Sink = Callable[[str, Array], None]
"""Takes a traced tensor: its slot, for example ``3.ffn_gate``, and f32 [tokens, width]."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine says of itself. ``numerics`` tells engines of the same arithmetic from others: two with equal
    ones differ by the order of their additions alone. ``notes`` are what a reader must know, such as layers that
    stayed on the processor.
    """

    name: str
    device: str
    kind: str
    """``gpu``, ``cpu`` or ``software``."""
    api: str = ""
    numerics: str
    model: str
    vocab: int
    context: int
    layers: int
    width: int
    kv: str = ""
    """Element type of the KV cache, K then V where they differ."""
    bos: int = -1
    eos: int = -1
    add_bos: bool = True
    offloaded: tuple[int, int] | None = None
    """Layers on the device, of how many; None where the whole engine is on one device."""
    notes: tuple[str, ...] = ()


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
        """Raises WrongInput for options that cannot be read."""
        if text.startswith(("http://", "https://")):
            return cls(text, "http", text)
        head, _, query = text.partition("?")
        kind, _, place = head.partition(":")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise WrongInput(f"{text}: {query!r} is no list of options; write ?name=value&name=value") from None
        if len(dict(pairs)) != len(pairs):
            raise WrongInput(f"{text}: an option stands twice; give each once")
        return cls(text, kind, place, dict(pairs))

    def only(self, *known: str) -> None:
        """Raise WrongInput for an option that this kind of engine does not have."""
        for name in self.options:
            if name not in known:
                options = ", ".join(known) or "none"
                raise WrongInput(f"{self.text}: {self.kind} has no option {name!r}; it has: {options}")

    def number(self, name: str, default: int) -> int:
        """An option that is a whole number from 0 on."""
        text = self.options.get(name, str(default))
        if not text.isdecimal() or len(text) > 9:
            raise WrongInput(f"{self.text}: {name} is {text!r}, expected a whole number")
        return int(text)

    def choice(self, name: str, *values: str) -> str:
        """An option that is one of some words, the first of them by default."""
        text = self.options.get(name, values[0])
        if text not in values:
            raise WrongInput(f"{self.text}: {name} is {text!r}, expected one of {', '.join(values)}")
        return text


class Engine(ABC):
    """Tokens in, f32 logits out. The state is a cache of the tokens that were fed since the last ``reset``."""

    facts: Facts

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, with the special tokens that the engine puts before a prompt."""

    @abstractmethod
    def reset(self) -> None:
        """Forget every token."""

    @abstractmethod
    def score(self, tokens: Sequence[int]) -> Array:
        """Feed tokens in batches as the engine makes them; f32 logits [len(tokens), vocab] after each."""

    @abstractmethod
    def step(self, token: int) -> Array:
        """Feed one token; f32 logits [vocab]."""

    def trace(self, tokens: Sequence[int], wanted: Callable[[str], bool], sink: Sink) -> Array:
        """Feed tokens to an empty cache as ``score`` does, and give the wanted slots to ``sink`` in the order of
        computation; the logits [len(tokens), vocab]. Raises WrongInput where an engine cannot.
        """
        raise WrongInput(f"{self.facts.name} gives no traces; compare its logits instead")

    def close(self) -> None:
        """Give everything back; the engine must not be used afterwards."""
