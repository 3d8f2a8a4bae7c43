"""What both servers are asked: the built-in prompts, a file of prompts, or a log of chats."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib import resources
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from kparity.errors import WrongInput
from kparity.host import files
from kparity.ladder.prompts import built_in as passages
from kparity.ladder.prompts import lines

LARGEST, LONG = 64 << 20, 6000
"""Bytes of a file of prompts; characters of a long context."""


class Message(msgspec.Struct):
    """A part of a chat, as OpenAI defined it; other fields are sent as they are."""

    role: str
    content: Any = None


class Line(msgspec.Struct):
    """A line of a file: a prompt, a chat, or a request whose ``body`` is one."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    body: Line | None = None
    kind: str = ""


class Kind(msgspec.Struct):
    """A kind of the built-in prompts, and what stands for its ``{}``."""

    kind: Literal["factual", "code", "reasoning", "creative", "long-context"]
    text: str
    values: list[str | float]


class _Prompt(NamedTuple):
    kind: str
    messages: tuple[dict[str, Any], ...]


class Prompt(_Prompt):
    """Messages of a chat, the last of which is to be answered."""

    @cached_property
    def text(self) -> str:
        """What is asked, for people, and for a server that takes no chats."""
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else json.dumps(content)

    @cached_property
    def digest(self) -> str:
        """The start of the SHA-256 of all messages."""
        return hashlib.sha256(json.dumps(self.messages, sort_keys=True).encode()).hexdigest()[:16]


def single(text: str, kind: str = "") -> Prompt:
    """A prompt of one message."""
    return of_length(Prompt(kind, ({"role": "user", "content": text},)))


def of_length(prompt: Prompt) -> Prompt:
    """With a kind, where nobody gave it one: what goes wrong on long contexts alone is seen in a kind of its own."""
    long = sum(len(str(each.get("content"))) for each in prompt.messages) >= LONG // 2
    return prompt if prompt.kind else Prompt("own-long" if long else "own", prompt.messages)


class Source(Protocol):
    """Where prompts come from: ``size`` of them, in turn, 0 where nobody knows; ``digest`` is that of all of them."""

    size: int
    digest: str

    async def at(self, place: int) -> Prompt:
        """The one at a place."""


class Listed:
    """Prompts that are known from the beginning."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts, self.size = prompts, len(prompts)
        self.digest = hashlib.sha256("".join(prompt.digest for prompt in prompts).encode()).hexdigest()[:16]

    async def at(self, place: int) -> Prompt:
        """As ``Source.at``."""
        return self.prompts[place]


def built_in(long: int = LONG) -> list[Prompt]:
    """Thirty kinds in turn, each with its next value; a long context has as many characters as ``long``."""
    import yaml

    text, book = resources.files(__package__).joinpath("prompts.yaml").read_text("utf-8"), passages()
    kinds = msgspec.convert(yaml.safe_load(text), list[Kind])

    def filled(kind: Kind, value: str | float) -> Prompt:
        begin = int(value * len(book)) if isinstance(value, float) else 0
        return single(kind.text.replace("{}", book[begin : begin + long] if begin or value == 0.0 else str(value)),
                      kind.kind)  # fmt: skip

    return [filled(kind, kind.values[at]) for at in range(len(kinds[0].values)) for kind in kinds]


def chosen(path: str | None, long: int = LONG) -> list[Prompt]:
    """Of a file: a prompt a line, or JSON a line (``{"prompt": …}``, ``{"messages": […]}``, a request of the OpenAI
    interface); else the built-in ones. Raises WrongInput for a line that is none, and for one that stands twice.
    """
    if path is None:
        return built_in(long)
    text = files.read_text(path, "a file of prompts", LARGEST)
    plain = not text.lstrip().startswith("{")
    found = [single(line) for line in lines(text)] if plain else list(_of_json(path, text))
    if not found:
        raise WrongInput(f"{path} holds no prompt; write one a line")
    twice = [digest for digest, times in Counter(prompt.digest for prompt in found).items() if times > 1]
    if twice and plain:
        again = next(prompt for prompt in found if prompt.digest == twice[0])
        raise WrongInput(f"{path} has the prompt {again.text[:60]!r} twice; each round counts a distinct prompt once")
    return list({prompt.digest: prompt for prompt in found}.values())


def _of_json(path: str, text: str) -> Iterable[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield of_request(files.parse_json(line, f"{path}, line {number}", "a prompt"), f"{path}, line {number}")


def of_request(plain: Any, where: str) -> Prompt:
    """The prompt of a request or a log's line, whose last answer is left out. Raises WrongInput."""
    try:
        line = msgspec.convert(plain, Line)
        line = line.body or line
        messages: Sequence[dict[str, Any]] = line.messages or ()
        msgspec.convert(list(messages), list[Message])
    except (msgspec.ValidationError, RecursionError) as error:
        raise WrongInput(f"{where}: {error}; write a prompt, or messages with role and content") from None
    if line.prompt is not None:
        return single(line.prompt, line.kind)
    while messages and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    if not messages:
        raise WrongInput(f"{where} has no prompt and no messages that ask; write one of them")
    return of_length(Prompt(line.kind, tuple(messages)))
