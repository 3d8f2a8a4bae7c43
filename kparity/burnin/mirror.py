"""An endpoint to which a proxy mirrors the traffic of the server that has it: what arrives is asked again, of both.

It answers 202 at once and never in the place of a server; whoever mirrors throws that away.
"""

from __future__ import annotations

import asyncio
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Full, Queue
from threading import Thread
from typing import Any

from kparity.burnin.prompts import Prompt, of_request
from kparity.errors import WrongInput
from kparity.host import files

LARGEST, WAITING, POLL_S = 4 << 20, 1000, 0.02
"""Bytes of a request; requests that wait for their round, beyond which new ones are dropped; seconds."""


class Mirror:
    """Prompts that arrive at ``host:port``, port 0 being a free one; ``dropped`` counts those that found no room, and
    ``refused`` those that are no prompts, or a
    chat where completions are asked. Raises WrongInput where it cannot listen.
    """

    size, digest = 0, "mirrored"

    def __init__(self, address: str, chat: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self.waiting, self.dropped, self.refused, self.chat = Queue[Prompt](WAITING), 0, 0, chat
        try:
            self.server = ThreadingHTTPServer((host.strip("[]"), int(port)), self._handler())
        except (OSError, ValueError, OverflowError) as error:
            raise WrongInput(f"--listen {address}: {error}; give an address of this machine, HOST:PORT") from error
        self.server.daemon_threads = True
        self.address = "{}:{}".format(*self.server.server_address[:2])
        Thread(target=self.server.serve_forever, args=(POLL_S,), daemon=True).start()

    def take(self, raw: bytes) -> int:
        """The status of a request that came."""
        prompt: Prompt | None
        try:
            prompt = of_request(files.parse_json(raw, "a mirrored request", "a request"), "a mirrored request")
        except WrongInput:
            prompt = None
        if prompt is None or not (self.chat or len(prompt.messages) == 1):
            self.refused += 1
            return 400
        try:
            self.waiting.put_nowait(Prompt("mirrored", prompt.messages))
        except Full:
            self.dropped += 1
            return 503
        return 202

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self.take

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > LARGEST:
                    self.answer(413 if length else 411)
                else:
                    self.answer(take(self.rfile.read(int(length))))

            def do_GET(self) -> None:
                self.answer(200)

            def answer(self, status: int) -> None:
                raw = json.dumps({"mirrored": status == 202}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *arguments: Any) -> None:
                """Rounds are told of elsewhere."""

        return Handler

    async def at(self, place: int) -> Prompt:
        """The next that arrived; waits for it."""
        while self.waiting.empty():  # whoever waits in a thread cannot be interrupted
            await asyncio.sleep(POLL_S)
        return self.waiting.get_nowait()

    def close(self) -> None:
        """Listen no longer."""
        self.server.shutdown()
        self.server.server_close()
