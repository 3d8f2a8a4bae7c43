"""What a burn-in shows, over HTTP while it grows: the dashboard for people, the decision for programs too."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from kparity.burnin import page
from kparity.burnin.cutover import Decision
from kparity.burnin.listen import HTML, Answer, Listener, as_json
from kparity.burnin.perplexity import Perplexity
from kparity.burnin.record import Mode
from kparity.errors import WrongInput
from kparity.host import html, install

EVERY_S, REST = 2, 20
"""Seconds after which a page looks for what is new, and how many times as long as counting took nothing is counted:
a twentieth of a processor at most, beside servers whose latency is measured.
"""
T = TypeVar("T")


class Paced(Generic[T]):
    """What ``make`` gives, made anew when somebody asks and it is old enough."""

    def __init__(self, make: Callable[[], T]) -> None:
        self.make, self.until, self.made = make, 0.0, list[T]()

    def __call__(self) -> T:
        began = time.monotonic()
        if not self.made or began >= self.until:
            self.made = [self.make()]
            ended = time.monotonic()
            self.until = ended + max(EVERY_S / 2, REST * (ended - began))
        return self.made[0]


def dashboard(port: int, log: Path, state: Path, mode: Mode, ppl: Perplexity | None = None) -> Listener:
    """What the log shows, at this machine's own address alone: it has replies."""
    html.engine()
    install.library("duckdb", "reports", "the statistics of a burn-in")
    shown = Paced(lambda: page.dashboard(log, state, mode, EVERY_S, ppl).encode())

    def answers(method: str, path: str, body: bytes) -> Answer:
        return _known(method, path, {"/": lambda: Answer(200, HTML, shown())})

    return Listener("--dashboard", f"127.0.0.1:{port}", answers, private=True)


def decisions(address: str, decide: Callable[[], Decision]) -> Listener:
    """The gates as a page, and at ``/status`` as JSON, which holds no reply; 503 where they cannot be judged."""
    html.engine()
    found = Paced(decide)

    def answers(method: str, path: str, body: bytes) -> Answer:
        try:
            return _known(method, path, {
                "/": lambda: Answer(200, HTML, page.cutover(found(), EVERY_S).encode()),
                "/status": lambda: as_json(200, found()),
            })  # fmt: skip
        except WrongInput as error:
            return as_json(503, {"error": str(error)})

    return Listener("--listen", address, answers)


def _known(method: str, path: str, pages: dict[str, Callable[[], Answer]]) -> Answer:
    if path not in pages:
        return as_json(404, {"error": f"no such path; there are {', '.join(pages)}"})
    return pages[path]() if method == "GET" else as_json(405, {"error": "GET only"})
