"""A small server of HTTP: requests are read in threads of their own, and answered one at a time."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kparity.engines.http_wire import is_here
from kparity.errors import WrongInput
from kparity.host.streams import log as say

LARGEST, POLL_S, SILENT_S = 4 << 20, 0.02, 10
"""Bytes of a request; seconds until an end is heeded, and of a client's silence."""
HTML = "text/html; charset=utf-8"


class Answer(NamedTuple):
    """What a client gets."""

    status: int
    media: str
    body: bytes


def as_json(status: int, value: Any) -> Answer:
    """A value as JSON."""
    return Answer(status, "application/json", msgspec.json.encode(value))


Answers = Callable[[str, str, bytes], Answer]
"""Of method, path without its query, and body."""


class Listener:
    """Answers at ``HOST:PORT``, port 0 being a free one, until it is closed; ``address`` is the one it has.

    ``private``: it answers those alone who call it by an address of this machine, so that no page of another site,
    whose name was made to point here, reads it. Raises WrongInput, with the ``option`` that named the address, where it
    cannot listen.
    """

    def __init__(self, option: str, address: str, answers: Answers, private: bool = False) -> None:
        self.answering, (host, _, port) = Lock(), address.rpartition(":")
        host = host.strip("[]")
        try:
            self.server = (Six if ":" in host else Four)((host, int(port)), self._handler(option, answers, private))
        except (OSError, ValueError, OverflowError) as error:
            raise WrongInput(f"{option} {address}: {error}; give an address of this machine, HOST:PORT") from error
        name, number = self.server.server_address[:2]
        self.address = f"[{name!s}]:{number}" if ":" in host else f"{name!s}:{number}"
        Thread(target=self.server.serve_forever, args=(POLL_S,), daemon=True).start()

    def _handler(self, option: str, answers: Answers, private: bool) -> type[BaseHTTPRequestHandler]:
        answering = self.answering

        class Handler(BaseHTTPRequestHandler):
            timeout = SILENT_S

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > LARGEST:
                    wrong = {"error": f"give a Content-Length of at most {LARGEST}"}
                    return self.answer(as_json(413 if length else 411, wrong))
                return self.asked(self.rfile.read(int(length)))

            def do_GET(self) -> None:
                self.asked(b"")

            def asked(self, body: bytes) -> None:
                if private and not is_here(_host(self.headers.get("Host", ""))):
                    return self.answer(as_json(421, {"error": "ask by an address of this machine"}))
                with answering:
                    try:
                        found = answers(self.command, self.path.partition("?")[0], body)
                    except Exception as error:
                        say(f"{option}: {self.path}: {type(error).__name__}: {error}")
                        found = as_json(500, {"error": f"{type(error).__name__}: {error}"})
                return self.answer(found)

            def answer(self, found: Answer) -> None:
                self.send_response(found.status)
                for name, value in (("Content-Type", found.media), ("Content-Length", str(len(found.body))),
                                    ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")):  # fmt: skip
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(found.body)

            def log_message(self, *arguments: Any) -> None:
                """Nothing is told of clients."""

        return Handler

    def close(self) -> None:
        """Listen no longer, once what is being answered is: a thread that counts must not outlive the interpreter."""
        self.server.shutdown()
        self.server.server_close()
        self.answering.acquire()


class Four(ThreadingHTTPServer):
    """At an address of IPv4."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is nobody's fault."""


class Six(Four):
    """At one of IPv6."""

    address_family = socket.AF_INET6


def _host(called: str) -> str:
    """The name in a header Host; empty where it is none."""
    try:
        return urlsplit(f"//{called}").hostname or ""
    except ValueError:
        return ""
