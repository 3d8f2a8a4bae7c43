"""Requests to a server that is not trusted: every answer has a time, a size and a form, or is one sentence."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from kparity.engines.base import Spec, needed
from kparity.errors import Unavailable, WrongInput
from kparity.host.text import printable

KEY = "KPARITY_API_KEY"
"""Environment variable with the key that goes to the server, as ``Authorization: Bearer``."""
CONNECT_S, LIMIT, EXCERPT = 10.0, 64 << 20, 160
"""Seconds to connect, bytes of an answer, and characters of it that a message shows."""
Form = TypeVar("Form")


class Missing(WrongInput):
    """The server has no such path."""


class Wire:
    """The connection to one server, at most ``seconds`` for each answer; it follows no redirect, and so the key of the
    environment goes nowhere else.
    """

    def __init__(self, spec: Spec, seconds: int) -> None:
        self.spec, self.seconds = spec, seconds
        self.url = f"{spec.kind}:{spec.place}".rstrip("/").removesuffix("/v1")
        host, key = self._host(), os.environ.get(KEY, "")
        if not (key.isascii() and key.isprintable()):
            raise WrongInput(f"{KEY} has characters that no header can hold; give the key alone")
        self.httpx = needed("httpx", "http", "KP-HTTP-NOLIB")
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        try:
            self.client = self.httpx.Client(
                base_url=self.url, headers=headers, timeout=self.httpx.Timeout(seconds, connect=CONNECT_S),
                follow_redirects=False, trust_env=not is_here(host),
            )  # fmt: skip
        except self.httpx.InvalidURL as error:
            raise spec.wrong(f"no address of a server ({error})") from None

    def _host(self) -> str:
        """Of the address; raises WrongInput for one that is none, or that has a name and password in it."""
        with suppress(ValueError):
            parts = urlsplit(self.url)
            if parts.hostname and parts.port != 0 and parts.username is None and not parts.fragment:
                return parts.hostname
        raise self.spec.wrong(f"no address of a server; write http://HOST:PORT, and a key into {KEY}")

    def ask(self, path: str, form: type[Form], body: Any = None) -> Form:
        """The answer of a GET, or of a POST where there is a ``body``; raises Missing for 404 and 405, WrongInput with
        what the server answered instead, and Unavailable where it did not.
        """
        method = "GET" if body is None else "POST"
        what, found = f"{method} {path}", Queue[tuple[Any, bytes] | Exception](1)
        # the library's limits are of single reads; a thread that waits beyond ours is left alone
        Thread(target=self._fetch, args=(method, path, body, found), daemon=True).start()
        try:
            got = found.get(timeout=self.seconds)
        except Empty:
            got = self.httpx.ReadTimeout("")
        if isinstance(got, self.httpx.TimeoutException):
            raise self._silent(f"{what}: no answer within {self.seconds} s", "?timeout=SECONDS allows more")
        if isinstance(got, Exception):
            reason = printable(str(got))[:EXCERPT] or type(got).__name__
            if isinstance(got, ValueError):  # an answer that is too large, or a name that is none
                raise self.spec.wrong(f"{what}: {reason}") from None
            raise self._silent(f"{what}: {reason}", "look whether the server runs there") from got
        reply, raw = got
        self._refuse(what, reply, raw)
        try:
            return msgspec.json.decode(raw, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.spec.wrong(f"{what} answered {excerpt(raw)}, not what was asked for ({error})") from None

    def _silent(self, why: str, remedy: str) -> Unavailable:
        return Unavailable(f"engine {self.spec.text}: {why}", remedy, "KP-HTTP-NOSERVER")

    def _fetch(self, method: str, path: str, body: Any, found: Queue[Any]) -> None:
        """Put the response and its body, or what went wrong."""
        try:
            with self.client.stream(method, path, json=body) as reply:
                raw = bytearray()
                for piece in reply.iter_raw():
                    raw += piece
                    if len(raw) > LIMIT:
                        raise ValueError(f"an answer of more than {LIMIT >> 20} MiB, ask for less by ?probs=N")
            found.put((reply, bytes(raw)))
        except Exception as error:
            found.put(error)

    def _refuse(self, what: str, reply: Any, raw: bytes) -> None:
        """Raise for a status that is none of success."""
        status, told = reply.status_code, f"{what} answered {reply.status_code}"
        if 300 <= status < 400:
            where = printable(reply.headers.get("location", "nowhere"))[:EXCERPT]
            raise self.spec.wrong(f"{told} and points to {where}; give the address that answers itself")
        if status in (401, 403):
            raise self.spec.wrong(f"{told}; put the server's key into {KEY}")
        if status in (404, 405):
            raise Missing(str(self.spec.wrong(f"{told}: it has no such path; see docs/engines.md for those it needs")))
        if status != 200:
            raise self.spec.wrong(f"{told}: {excerpt(raw)}; look into the server's log")

    def close(self) -> None:
        """End the connection."""
        self.client.close()


def is_here(host: str) -> bool:
    """Whether a host is this machine, where no proxy of the environment stands between."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def excerpt(raw: bytes) -> str:
    """The beginning of an answer, for a message."""
    return repr(printable(raw[:EXCERPT].decode(errors="replace"))) if raw else "nothing"
