"""An endpoint to which a proxy mirrors the traffic of the server that has it: what arrives is asked again, of both.

It answers 202 at once and never in the place of a server; whoever mirrors throws that away.
"""

from __future__ import annotations

import asyncio
from queue import Full, Queue

from kparity.burnin.listen import POLL_S, Answer, Listener, as_json
from kparity.burnin.prompts import Prompt, of_request
from kparity.errors import WrongInput
from kparity.host import files

WAITING = 1000
"""Requests that wait for their round, beyond which new ones are dropped."""


class Mirror:
    """Prompts that arrive at ``host:port``, port 0 being a free one; ``dropped`` counts those that found no room, and
    ``refused`` those that are no prompts, or a chat where completions are asked. Raises WrongInput where it cannot
    listen.
    """

    size, digest = 0, "mirrored"

    def __init__(self, address: str, chat: bool = True) -> None:
        self.waiting, self.dropped, self.refused, self.chat = Queue[Prompt](WAITING), 0, 0, chat
        self.listener = Listener("--listen", address, self._answer)
        self.address = self.listener.address

    def _answer(self, method: str, path: str, body: bytes) -> Answer:
        status = self.take(body) if method == "POST" else 200
        return as_json(status, {"mirrored": status == 202})

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
            self.waiting.put_nowait(prompt)
        except Full:
            self.dropped += 1
            return 503
        return 202

    async def at(self, place: int) -> Prompt:
        """The next that arrived; waits for it."""
        while self.waiting.empty():  # whoever waits in a thread cannot be interrupted
            await asyncio.sleep(POLL_S)
        return self.waiting.get_nowait()

    def close(self) -> None:
        """Listen no longer."""
        self.listener.close()
