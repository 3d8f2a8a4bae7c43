"""/v1/completions and /v1/chat/completions, whole and as streams."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from kparity.errors import WrongInput
from kparity.serve.forms import (
    Answer,
    ChatChoice,
    ChatForm,
    ChatLogprobs,
    ChatPiece,
    ChatToken,
    Choice,
    CompletionForm,
    Logprobs,
    Reply,
    Sampling,
    Top1,
    Usage,
)
from kparity.serve.messages import Told
from kparity.serve.problem import Problem, wrong
from kparity.serve.service import Service, Writing

DEFAULT_TOKENS = 16
"""Of /v1/completions, as OpenAI defined it; a chat goes on to its end."""
Pieces = AsyncIterator[bytes]


class Shape(ABC):
    """What both kinds of answers have: ids, usage, names of tokens, and events of a stream."""

    prefix, object, piece_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, service: Service, form: Sampling) -> None:
        self.service, self.form = service, form
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())
        self.writings: list[Writing] = []

    @abstractmethod
    async def begin(self) -> None:
        """Queue it; raises Problem."""

    def answer(self, choices: list[Any], usage: Usage | None = None, piece: bool = False) -> bytes:
        """A whole answer, or an event."""
        return msgspec.json.encode(
            Answer(
                id=self.id, object=self.piece_object if piece else self.object, created=self.created,
                model=self.service.name, system_fingerprint=self.service.fingerprint, choices=choices, usage=usage,
            )
        )  # fmt: skip

    def name(self, token: int) -> str:
        """What a token is called in log-probabilities."""
        return f"token_id:{token}" if self.form.return_tokens_as_token_ids else self.service.words.name(token)

    def usage(self) -> Usage:
        """What was counted; a prompt counts once, however many answers it has."""
        asked = sum(len(each.job.ask.tokens) for each in self.writings) // (self.form.n or 1)
        wrote = sum(len(each.transcript.tokens) for each in self.writings)
        return Usage(asked, wrote, asked + wrote)

    async def whole(self) -> bytes:
        """The answer, once it is complete."""
        async for _ in self.service.written(self.writings):
            pass
        return self.answer([self.choice(each) for each in self.writings], self.usage())

    async def stream(self) -> Pieces:
        """Events: text as it comes, the reason of each end, what was counted, and that it is over; or an error."""
        for choice in self.opened():
            yield event(self.answer([choice], piece=True))
        try:
            async for writing, text in self.service.written(self.writings):
                if text or writing.finish or len(writing.told) > writing.seen:
                    writing.job.shown = writing.job.shown or bool(text)
                    yield event(self.answer([self.piece(writing, text)], piece=True))
                    writing.seen = len(writing.told)
            if self.form.usage_told:
                yield event(self.answer([], self.usage(), piece=True))
            yield b"data: [DONE]\n\n"
        except Problem as problem:
            yield event(problem.encoded())

    def opened(self) -> list[Any]:
        """What a stream begins with."""
        return []

    @abstractmethod
    def choice(self, writing: Writing) -> Any:
        """A whole choice."""

    @abstractmethod
    def piece(self, writing: Writing, text: str) -> Any:
        """What is new of it."""


def event(data: bytes) -> bytes:
    """Of a stream of server-sent events."""
    return b"data: " + data + b"\n\n"


class Completion(Shape):
    """Of /v1/completions."""

    form: CompletionForm

    async def begin(self) -> None:
        """Queue it; raises Problem."""
        form, service = self.form, self.service
        form.refuse("suffix")
        if form.best_of not in (None, 1, form.n):
            raise wrong("best_of is not served here; leave it out", "best_of")
        if form.echo and form.stream:
            raise wrong("echo is not streamed; leave one of them out", "echo")
        given = await prompts(service, form.prompt)
        most = DEFAULT_TOKENS if form.max_tokens is None else form.max_tokens
        top = -1 if form.logprobs is None else form.logprobs
        if most == 0 and not form.echo:
            raise wrong("max_tokens is 0, and without echo there is nothing to tell; ask for 1 at least", "max_tokens")
        count = form.n or 1
        asks = service.asks([ids for _, ids in given], form, most, top, bool(form.echo) and top >= 0)
        self.texts = [text for text, _ in given for _ in range(count)]
        offsets = [len(text) if form.echo else 0 for text in self.texts]
        self.writings = service.begun(asks, form.stops, offsets)

    def choice(self, writing: Writing) -> Choice:
        """As ``Shape.choice``."""
        text = "".join(writing.text)
        whole = self.texts[writing.job.index] + text if self.form.echo else text
        return Choice(writing.job.index, whole, self._logprobs(writing, 0), writing.finish)

    def piece(self, writing: Writing, text: str) -> Choice:
        """As ``Shape.piece``."""
        return Choice(writing.job.index, text, self._logprobs(writing, writing.seen), writing.finish)

    def _logprobs(self, writing: Writing, begin: int) -> Logprobs | None:
        if self.form.logprobs is None:
            return None
        transcript, found = writing.transcript, Logprobs([], [], [], [])
        if self.form.echo:
            tokens, at = writing.job.ask.tokens, 0
            for token, each in zip(tokens, [None, *writing.prompt], strict=True):
                self._add(found, token, each, at)
                at += self.service.words.length(token)
        for token, each, at in zip(
            transcript.tokens[begin:], writing.told[begin:], transcript.offsets[begin:], strict=True
        ):
            self._add(found, token, each, at)
        return found

    def _add(self, found: Logprobs, token: int, told: Told | None, offset: int) -> None:
        found.tokens.append(self.name(token))
        found.token_logprobs.append(told.logprob if told else None)
        top = None
        if told:
            top = dict[str, float]()
            for each, value in (*zip(told.ids, told.logprobs, strict=True), (token, told.logprob)):
                top.setdefault(self.name(each), value)
        found.top_logprobs.append(top)
        found.text_offset.append(offset)


async def prompts(service: Service, given: str | list[Any]) -> list[tuple[str, list[int]]]:
    """Text and ids of each prompt: one or several texts, or lists of ids."""
    if isinstance(given, list) and given and all(isinstance(each, int) for each in given):
        given = [given]
    found = list[tuple[str, list[int]]]()
    for each in [given] if isinstance(given, str) else given:
        if isinstance(each, str):
            found.append((each, service.checked(await service.encoded(each))))
        elif isinstance(each, list):
            ids = service.checked(each)
            found.append((service.tokenizer.decode(ids), ids))
        else:
            raise wrong("prompt is a text, texts, token ids, or lists of token ids", "prompt")
    if not found:
        raise wrong("prompt is empty; give a text", "prompt")
    return found


class Conversation(Shape):
    """Of /v1/chat/completions."""

    prefix, object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    form: ChatForm

    async def begin(self) -> None:
        """Queue it; raises Problem."""
        form, service = self.form, self.service
        form.refuse("tools", "functions")
        if form.response_format and form.response_format.type != "text":
            raise wrong("response_format: text alone is served", "response_format")
        if form.top_logprobs is not None and not form.logprobs:
            raise wrong("top_logprobs wants logprobs: true", "top_logprobs")
        tokens = service.checked(await self._prompt(), "messages")
        most = form.max_tokens if form.max_completion_tokens is None else form.max_completion_tokens
        if most == 0:
            raise wrong("max_tokens is 0; ask for 1 at least", "max_tokens")
        asks = service.asks([tokens], form, most, (form.top_logprobs or 0) if form.logprobs else -1)
        self.writings = service.begun(asks, form.stops, [0] * len(asks))

    async def _prompt(self) -> list[int]:
        """The chat as the model's template spells it. BOS is put in front where the model has one and the template
        does not.
        """
        service, chat = self.service, self.service.chat
        if chat is None:
            raise wrong("this model has no chat template: POST /v1/completions, or start the server with "
                        "--chat-template FILE", "messages")  # fmt: skip
        h, name = service.tokenizer, service.words.name
        bos, eos = ("" if each is None else name(each) for each in (h.bos, h.eos))
        try:
            text = await asyncio.to_thread(chat.filled, [spoken(each) for each in self.form.messages], bos, eos)
        except WrongInput as error:
            raise wrong(str(error), "messages") from None
        ids = await service.encoded(text, bos=False)
        return [h.bos, *ids] if h.add_bos and h.bos is not None and ids[:1] != [h.bos] else ids

    def opened(self) -> list[Any]:
        """As ``Shape.opened``."""
        return [ChatPiece(each.job.index, Reply("assistant", "")) for each in self.writings]

    def choice(self, writing: Writing) -> ChatChoice:
        """As ``Shape.choice``."""
        reply = Reply("assistant", "".join(writing.text))
        return ChatChoice(writing.job.index, reply, self._logprobs(writing, 0), writing.finish)

    def piece(self, writing: Writing, text: str) -> ChatPiece:
        """As ``Shape.piece``."""
        reply = Reply(content=text) if text else Reply()
        return ChatPiece(writing.job.index, reply, self._logprobs(writing, writing.seen), writing.finish)

    def _logprobs(self, writing: Writing, begin: int) -> ChatLogprobs | None:
        if not self.form.logprobs:
            return None
        return ChatLogprobs(
            [
                ChatToken(
                    *self._spelt(token, told.logprob),
                    [Top1(*self._spelt(*each)) for each in zip(told.ids, told.logprobs, strict=True)],
                )
                for token, told in zip(writing.transcript.tokens[begin:], writing.told[begin:], strict=True)
            ]
        )

    def _spelt(self, token: int, logprob: float) -> tuple[str, float, list[int] | None]:
        word = self.service.words.name(token)
        return self.name(token), logprob, None if "\ufffd" in word else list(word.encode())


def spoken(message: Any) -> dict[str, Any]:
    """A message for a template; raises Problem for a part that is no text."""
    content = message.content
    if message.tool_calls:
        raise wrong("tool_calls are not served here", "messages")
    if isinstance(content, list):
        if other := next((part.type for part in content if part.type != "text"), ""):
            raise wrong(f"a part of type {other[:40]!r}: text alone is served", "messages")
        content = "".join(part.text for part in content)
    named = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": content or "", **named}


SHAPES: dict[str, tuple[type[Sampling], Callable[..., Shape]]] = {
    "/v1/completions": (CompletionForm, Completion),
    "/v1/chat/completions": (ChatForm, Conversation),
}
"""Path → the form of its requests, and what answers them."""
