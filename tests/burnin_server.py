"""A server of OpenAI's kind that answers by rule, right or with one of the faults that servers have had."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.listening import Quiet, listening

WORDS = ["alpha", " beta", " gamma", " delta", " epsilon", " zeta", " eta", " theta", "\t", "\n", "🙂", " é"]
TIE = "What is the chemical symbol for gold?"


def tokens(prompt: str, count: int = 12) -> list[str]:
    """What a right server answers, token by token."""
    seed = hashlib.sha256(prompt.encode()).digest()
    return [WORDS[seed[at] % len(WORDS)] for at in range(count)]


@dataclass
class Faulty:
    """What one server does: ``fault`` is one of those below, ``replies`` take the place of right answers, by prompt."""

    fault: str = ""
    replies: dict[str, bytes] = field(default_factory=dict)
    delay_s: float = 0.0
    stream: bool = True
    gate: threading.Barrier | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def words(self, prompt: str) -> list[str]:
        right = tokens(prompt)
        n = len(self.seen)
        if self.fault == "kv-reset" and n > 200:  # what an earlier request left in the cache
            return tokens(prompt + str(n))
        if self.fault == "rope" and len(prompt) > 4000:
            return tokens(prompt[4000:])
        if self.fault == "tie" and prompt == TIE:
            return [*right[:3], "TIE", *right[4:]]
        if self.fault == "tab":  # lost on the way, as in a shell or a table
            return [word.replace("\t", " ") for word in right]
        if self.fault == "lines":  # of a reply of several, the first
            return right[: right.index("\n")] if "\n" in right else right
        if self.fault == "prefix":
            return right[:5]
        if self.fault == "model":
            return [*right[:-1], " other"]
        if self.fault == "flood":
            return right * 100
        return [] if self.fault == "empty" else right

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        """Write it; the historical deaths are at the socket."""
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        self.seen.append(body)
        self.keys.append(handler.headers.get("Authorization", ""))
        if self.gate:
            self.gate.wait()
        words = self.words(prompt)
        time.sleep(self.delay_s)
        if self.fault == "http":
            return whole(handler, 503, b'{"error": {"message": "loading"}}')
        if self.fault == "bad-json":
            return whole(handler, 200, b'{"choices": [{"message": ')
        if self.fault == "bad-form":
            return whole(handler, 200, b'{"answer": 42}')
        if self.fault == "error-body":
            return whole(handler, 200, b'{"error": {"message": "out of memory"}}')
        if self.fault == "close":
            return handler.connection.close()
        if prompt in self.replies or not (self.stream and body.get("stream")):
            raw = self.replies.get(prompt, json.dumps("".join(words))[1:-1].encode())
            raw = b'{"choices": [{"message": {"content": "' + raw + b'"}, "finish_reason": "stop"}]}'
            return whole(handler, 200, raw)
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for at, word in enumerate(words):
            if self.fault == "truncated" and at == 4:
                return None
            if self.fault == "late-error" and at == 4:
                return event(handler, {"error": {"message": "device lost"}})
            if self.fault == "hang" and at == 4:
                time.sleep(3)
            others = {"content": [told(word, at, self.fault)]} if body.get("logprobs") else None
            event(handler, {"model": "fake", "choices": [{"delta": {"content": word}, "logprobs": others}]})
        event(handler, {"choices": [{"delta": {}, "finish_reason": "stop"}]})
        event(handler, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(words)}})
        handler.wfile.write(b"data: [DONE]\n\n")
        return None


def told(word: str, at: int, fault: str) -> dict[str, Any]:
    """Log-probabilities of a token: it before another, which is the one of the tie at the fourth."""
    other = "TIE" if at == 3 else " x"
    first, second = (-0.7, -0.701) if other == "TIE" else (-0.2, -3.0)
    if fault == "flat":
        first, second = 0.9 * first, 0.9 * second
    if fault == "tie" and word == "TIE":
        word, other = "TIE", tokens(TIE)[3]
    top = [{"token": word, "logprob": first}, {"token": other, "logprob": second}]
    return {**top[0], "top_logprobs": top}


def event(handler: BaseHTTPRequestHandler, value: Any) -> None:
    handler.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
    handler.wfile.flush()


def whole(handler: BaseHTTPRequestHandler, status: int, raw: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


@contextmanager
def serving(faulty: Faulty | None = None) -> Iterator[str]:
    """Its address."""
    made = faulty or Faulty()

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            with suppress(OSError):  # the client has left
                made.answer(self, body)

    with listening(Handler) as address:
        yield address
