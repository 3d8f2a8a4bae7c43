"""One answer of a server of OpenAI's kind, as bytes and with its times, or the name of what went wrong instead."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kparity.burnin.compare import Step
from kparity.burnin.record import Fault, Side
from kparity.engines.http_wire import EXCERPT, excerpt, is_here
from kparity.errors import WrongInput
from kparity.host import install
from kparity.host.text import printable

KEY = "KPARITY_API_KEY"
"""Environment variables with the key of a server end in ``_V1`` and ``_V2``: neither server gets the other's."""
LIMIT, REPLY = 64 << 20, 1 << 20
"""Bytes of an answer, and of the reply in it."""


class Told(msgspec.Struct):
    """A token with its log-probability; ``bytes`` where the server spells it in bytes."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[Told] = []


class Listed(msgspec.Struct):
    """Log-probabilities, of each token; or as the older form has them, by text."""

    content: list[Told] | None = None
    tokens: list[str] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Said(msgspec.Struct):
    """A message or a piece of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(msgspec.Struct):
    """A completion or a piece of one."""

    delta: Said | None = None
    message: Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Listed | None = None


class Usage(msgspec.Struct):
    """What was counted."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Piece(msgspec.Struct):
    """An event of a stream, or a whole answer."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    model: str | None = None
    system_fingerprint: str | None = None


class Failed(Exception):
    """No reply, and the name of why."""

    def __init__(self, fault: Fault, why: str) -> None:
        super().__init__(why)
        self.fault: Fault = fault


class Answer(NamedTuple):
    """What a server answered, and its tokens with what it told of them, if anything."""

    side: Side
    steps: list[Step]


class Server:
    """A server at an address, asked by ``/v1/chat/completions`` or, without ``chat``, ``/v1/completions``.

    Each question has a connection of its own, so that none is lost to one which the server has just closed. Raises
    WrongInput for what is no address, and where httpx is missing.
    """

    def __init__(self, name: str, url: str, seconds: float, chat: bool = True, model: str = "") -> None:
        self.name, self.seconds, self.model, self.chat = name, seconds, model, chat
        self.url = url.rstrip("/").removesuffix("/v1")
        self.path = "/v1/chat/completions" if chat else "/v1/completions"
        host, key = self._host(), os.environ.get(f"{KEY}_{name.upper()}", "")
        if not (key.isascii() and key.isprintable()):
            raise WrongInput(f"{KEY}_{name.upper()} has characters that no header can hold; give the key alone")
        self.httpx = install.library("httpx", "http", "a burn-in")
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.client = self.httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=seconds, follow_redirects=False, trust_env=not is_here(host),
            limits=self.httpx.Limits(max_keepalive_connections=0),
        )  # fmt: skip

    def _host(self) -> str:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.username
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment:
            raise WrongInput(
                f"--{self.name} {self.url} is no address of a server; write http://HOST:PORT, and a key into "
                f"{KEY}_{self.name.upper()}"
            )
        return str(parts.hostname)

    async def ask(self, body: dict[str, Any]) -> Answer:
        """The answer to a request; whatever goes wrong is its ``fault``."""
        made = _Reply()
        began = time.perf_counter()
        fault, why = "", ""
        try:
            await asyncio.wait_for(self._stream({**body, **({"model": self.model} if self.model else {})}, made, began),
                                   self.seconds)  # fmt: skip
        except Failed as failed:
            fault, why = failed.fault, str(failed)
        except (asyncio.TimeoutError, TimeoutError, self.httpx.TimeoutException):
            fault, why = "timeout", f"no whole answer within {self.seconds:g} s"
        except (self.httpx.HTTPError, self.httpx.InvalidURL, OSError, ValueError) as error:
            fault = "truncated" if made.read else "connect"
            why = printable(str(error))[:EXCERPT] or type(error).__name__
        side = made.side
        side.ms = _ms_since(began)
        reply = made.reply()
        side.bytes, side.text = len(reply), reply.decode(errors="replace")
        side.raw = "" if side.text.encode() == reply else base64.b64encode(reply).decode()
        side.fault, side.why = fault or ("" if reply else "empty"), why  # type: ignore[assignment]
        return Answer(side, made.steps if side.reached else [])

    async def _stream(self, body: dict[str, Any], made: _Reply, began: float) -> None:
        """Read an answer, as the server chose to give it: in events, or whole."""
        async with self.client.stream("POST", self.path, json=body) as reply:
            made.side.status = reply.status_code
            if reply.status_code != 200:
                first = await anext(reply.aiter_raw(), b"")
                raise Failed("http", f"{self.path} answered {reply.status_code}: {excerpt(first)}")
            events = "event-stream" in reply.headers.get("content-type", "")
            raw, size = b"", 0
            async for part in reply.aiter_raw():
                made.read = True
                size += len(part)
                if size > LIMIT:
                    raise Failed("too-large", f"an answer of more than {LIMIT >> 20} MiB")
                *lines, raw = (raw + part).split(b"\n") if events else (raw + part,)
                for line in lines:
                    made.event(line)
                    if made.side.first_ms is None and made.texts:
                        made.side.first_ms = _ms_since(began)
            if not events:
                made.add(raw)
            elif not made.ended:
                raise Failed("truncated", f"the stream ended after {size} bytes, without [DONE] or a finish_reason")

    async def knock(self) -> None:
        """Ask for nothing, so that the first question finds the libraries loaded and the name resolved."""
        with suppress(self.httpx.HTTPError, self.httpx.InvalidURL, OSError, ValueError):
            async with self.client.stream("GET", "/v1/models", timeout=min(self.seconds, 5)):
                pass


class _Reply:
    """An answer as it grows."""

    def __init__(self) -> None:
        self.side, self.texts, self.steps = Side(0.0), list[str](), list[Step]()
        self.read, self.ended, self.size = False, False, 0

    def event(self, line: bytes) -> None:
        """A line of a stream of events; those that hold no data mean nothing here."""
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                self.ended = True
            elif data:
                self.add(data)
        elif line.startswith((b"{", b"error:")):  # a server that fails in mid-stream, and some do so without `data:`
            raise Failed("error-body", f"the stream holds {excerpt(line)}")

    def add(self, data: bytes) -> None:
        """A piece of the answer, in JSON whose strings may be any bytes."""
        try:
            plain = json.loads(data.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            raise Failed("bad-json", f"{excerpt(data)} is no JSON") from None
        try:
            piece = msgspec.convert(plain, Piece)
        except (msgspec.ValidationError, RecursionError) as error:
            known = isinstance(plain, dict) and plain.get("error")
            raise Failed("error-body" if known else "bad-form", f"{excerpt(data)}: {error}") from None
        if piece.error is not None:
            raise Failed("error-body", f"200 with an error: {excerpt(data)}")
        if piece.choices is None and piece.usage is None:
            raise Failed("bad-form", f"{excerpt(data)} has no choices")
        side = self.side
        side.model, side.fingerprint = piece.model or side.model, piece.system_fingerprint or side.fingerprint
        if piece.usage:
            side.prompt_tokens, side.tokens = piece.usage.prompt_tokens, piece.usage.completion_tokens
        for choice in (piece.choices or [])[:1]:
            said = choice.delta or choice.message or Said(choice.text)
            new = [each for each in (said.reasoning_content or said.reasoning, said.content) if each]
            self.texts += new
            self.size += sum(map(len, new))
            if self.size > REPLY:
                raise Failed("too-large", f"a reply of more than {REPLY >> 20} MiB")
            if choice.finish_reason:
                side.finish, self.ended = choice.finish_reason, True
            self.steps += _steps(choice.logprobs) if choice.logprobs else []

    def reply(self) -> bytes:
        """All of its text as bytes."""
        return encoded("".join(self.texts))


def encoded(text: str) -> bytes:
    """The bytes of a text of JSON: bytes that were no UTF-8 as they were, halves of a character that two pieces bring
    as one, a half by itself as three bytes.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return whole.encode("utf-8", "surrogatepass")


def _steps(listed: Listed) -> list[Step]:
    """Tokens with what was told of them, in either form."""
    if listed.content is not None:
        return [
            Step(_token(each), {_token(one): one.logprob for one in (*each.top_logprobs, each)})
            for each in listed.content
        ]
    if listed.tokens is None or listed.top_logprobs is None:
        return []
    return [
        Step(encoded(token), {encoded(name): told for name, told in (top or {}).items()})
        for token, top in zip(listed.tokens, listed.top_logprobs, strict=False)
    ]


def _token(told: Told) -> bytes:
    good = told.bytes is not None and all(0 <= each < 256 for each in told.bytes)
    return bytes(told.bytes or ()) if good else encoded(told.token)


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1e3, 3)


class Pair:
    """Two servers that are asked at the same moment."""

    def __init__(self, v1: Server, v2: Server) -> None:
        self.v1, self.v2, self.known = v1, v2, False

    async def __call__(self, body: dict[str, Any]) -> tuple[Answer, Answer]:
        """The answers of both to one request."""
        if not self.known:
            await asyncio.gather(self.v1.knock(), self.v2.knock())
            self.known = True
        return await asyncio.gather(self.v1.ask(body), self.v2.ask(body))
