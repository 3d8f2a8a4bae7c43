"""The routes: who may ask, how much, and what is answered instead where something is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kparity.errors import WrongInput
from kparity.serve.completions import SHAPES, Pieces
from kparity.serve.forms import DetokenizeForm, PplForm, TokenizeForm, decoded
from kparity.serve.health import health
from kparity.serve.metrics import own_process
from kparity.serve.perplexity import perplexity
from kparity.serve.problem import Problem, wrong
from kparity.serve.service import Service

BODY_SECONDS = 30.0
"""What a client may take to send a body."""
OPEN = ("/health",)
"""Paths that want no key."""
Answers = Callable[[Service, Request], Awaitable[Any]]


class Events:
    """A stream of server-sent events; what makes them ends when the client leaves."""

    status_code = 200

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""

        async def write() -> None:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for piece in self.pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await unless_left(receive, write())
        except ClientDisconnect:
            pass
        finally:
            await self.pieces.aclose()  # type: ignore[attr-defined]


def current() -> asyncio.Task[Any]:
    """The task that calls: one for the request is enough, each more would cost as long as a step of a small model."""
    task = asyncio.current_task()
    assert task is not None
    return task


async def unless_left(receive: Receive, work: Awaitable[Any]) -> Any:
    """What some work returns; cancelled, with ClientDisconnect, when the client leaves before that."""

    working = current()

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        working.cancel()

    leaving = asyncio.create_task(leave())
    try:
        return await work
    except asyncio.CancelledError:
        raise (ClientDisconnect if leaving.done() else asyncio.CancelledError) from None
    finally:
        leaving.cancel()


async def body(request: Request, most: int) -> bytes:
    """Raises Problem for one that is too long, comes too slowly, or is no JSON by its own word: what another site's
    page makes a browser send is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "the body must be JSON; send Content-Type: application/json")
    length, raw = request.headers.get("content-length", "0"), bytearray()
    too_long = Problem(413, f"the body has more than {most} bytes, which this server takes at most")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_long

    loop = asyncio.get_running_loop()
    timer = loop.call_later(BODY_SECONDS, current().cancel)
    try:
        async for piece in request.stream():
            raw.extend(piece)
            if len(raw) > most:
                raise too_long
    except asyncio.CancelledError:
        if loop.time() < timer.when():
            raise
        raise Problem(408, f"the body took more than {BODY_SECONDS:g} s") from None
    finally:
        timer.cancel()
    return bytes(raw)


def allowed(request: Request, key: str) -> bool:
    """Whether the client shows the key; takes as long for a wrong one as for the right one."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    digests = [hashlib.sha256(each.encode("utf-8", "surrogateescape")).digest() for each in (shown.strip(), key)]
    return hmac.compare_digest(*digests) and scheme.lower() == "bearer"


def encoded(value: Any) -> Response:
    """As JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")


async def complete(service: Service, request: Request) -> Any:
    """POST /v1/completions and /v1/chat/completions."""
    form, shape = SHAPES[request.url.path]
    asked = decoded(await body(request, service.limits.body), form)
    service.known(asked.model)
    answer = shape(service, asked)
    await answer.begin()
    if asked.stream:
        return Events(answer.stream())
    return Response(await unless_left(request.receive, answer.whole()), media_type="application/json")


async def ppl(service: Service, request: Request) -> Any:
    """POST /ppl."""
    form = decoded(await body(request, service.limits.body), PplForm)
    service.known(form.model)
    return encoded(await unless_left(request.receive, perplexity(service, form)))


async def tokenize(service: Service, request: Request) -> Any:
    """POST /tokenize."""
    form = decoded(await body(request, service.limits.body), TokenizeForm)
    service.known(form.model)
    tokens = await service.encoded(form.prompt, form.add_special_tokens)
    return encoded({"tokens": tokens, "count": len(tokens), "max_model_len": service.supervisor.positions})


async def detokenize(service: Service, request: Request) -> Any:
    """POST /detokenize."""
    form = decoded(await body(request, service.limits.body), DetokenizeForm)
    service.known(form.model)
    if form.tokens:
        service.checked(form.tokens, "tokens")
    return encoded({"prompt": service.tokenizer.decode(form.tokens, skip_special=False)})


async def tokenizer_info(service: Service, request: Request) -> Any:
    """GET /tokenizer_info."""
    words = service.tokenizer
    bos, eos = (None if each is None else service.words.name(each) for each in (words.bos, words.eos))
    template = service.chat.text if service.chat else None
    return encoded({"bos_token": bos, "eos_token": eos, "pad_token": eos, "bos_token_id": words.bos,
                    "eos_token_id": words.eos, "add_bos_token": words.add_bos, "chat_template": template,
                    "vocab_size": service.model.hparams.vocab})  # fmt: skip


async def models(service: Service, request: Request) -> Any:
    """GET /v1/models."""
    h = service.model.hparams
    meta = {"n_vocab": h.vocab, "n_embd": h.width, "n_ctx_train": h.context, "size": service.model.n_bytes}
    row = {"id": service.name, "object": "model", "created": service.created, "owned_by": "kparity", "meta": meta,
           "max_model_len": service.supervisor.positions}  # fmt: skip
    asked = request.path_params.get("model")
    service.known(asked)
    return encoded(row if asked else {"object": "list", "data": [row]})


async def metrics(service: Service, request: Request) -> Any:
    """GET /metrics."""
    supervisor, found = service.supervisor, health(service)
    gauges = {
        "kparity_active": ("Sequences that run.", float(len(supervisor.active))),
        "kparity_waiting": ("Sequences that wait.", float(len(supervisor.waiting))),
        "kparity_proved_position": ("The last position that may be served; -1 while no backend serves.",
                                    float(-1 if found.proved is None else found.proved)),
        **own_process(),
    }  # fmt: skip
    text = supervisor.metrics.text(found.backend or "", found.label or "", gauges)
    return Response(text, media_type="text/plain; version=0.0.4")


async def healthy(service: Service, request: Request) -> Any:
    """GET /health: 200 while a backend serves, else 503."""
    found = health(service)
    return Response(msgspec.json.encode(found), 200 if found.status == "ok" else 503, media_type="application/json")


ROUTES: tuple[tuple[str, str, Answers], ...] = (
    ("GET", "/health", healthy), ("GET", "/metrics", metrics), ("GET", "/v1/models", models),
    ("GET", "/v1/models/{model:path}", models), ("POST", "/v1/completions", complete),
    ("POST", "/v1/chat/completions", complete), ("POST", "/ppl", ppl), ("POST", "/tokenize", tokenize),
    ("POST", "/detokenize", detokenize), ("GET", "/tokenizer_info", tokenizer_info),
)  # fmt: skip


def refusal(problem: Problem) -> Response:
    """A problem as an answer."""
    return Response(problem.encoded(), problem.status, problem.headers, "application/json")


def application(service: Service, log: Callable[[str], None]) -> Starlette:
    """The whole."""
    counted = service.supervisor.metrics.requests

    def answering(path: str, answers: Answers) -> Callable[[Request], Awaitable[Any]]:
        async def endpoint(request: Request) -> Any:
            started = time.monotonic()
            try:
                if service.key and path not in OPEN and not allowed(request, service.key):
                    raise Problem(401, "no key, or a wrong one; send Authorization: Bearer KEY",
                                  headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
                found = await answers(service, request)
            except Problem as problem:
                found = refusal(problem)
            except ClientDisconnect:
                found = refusal(Problem(499, "the client left"))
            except WrongInput as error:
                found = refusal(wrong(str(error)))
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                log(f"{request.method} {path} failed after {time.monotonic() - started:.3f} s: {why}")
                found = refusal(Problem(500, f"the server failed: {why}", kind="server_error"))
            counted[path, found.status_code] += 1
            return found

        return endpoint

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        known = ", ".join(f"{method} {path}" for method, path, _ in ROUTES)
        what = "no such path" if status == 404 else "no such method here" if status == 405 else "a bad request"
        counted["other", status] += 1
        headers = (error.headers if isinstance(error, HTTPException) else None) or {}
        return refusal(Problem(status, f"{what}; this server has {known}", headers=headers))

    routes = [Route(path, answering(path, answers), methods=[method]) for method, path, answers in ROUTES]
    return Starlette(routes=routes, exception_handlers={HTTPException: unknown})
