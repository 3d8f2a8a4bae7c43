"""The route that decides which server has the traffic: what it was is kept before it changes, and read back after."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

from kparity.errors import WrongInput
from kparity.host import files, install
from kparity.host.text import printable

SETTLE_S, ANSWER_S, COMMAND_S = 1.0, 10.0, 300.0
"""Seconds: after a change, in which the server before may still answer (40 ms on an idle machine); for an answer of
Caddy; for a command."""


class Kept(msgspec.Struct):
    """A way back: of Caddy, the address of its admin interface, the ``@id`` of a reverse_proxy and what it was; or a
    command, which is run with ``KPARITY_ROUTE`` as ``v1``.
    """

    caddy: str = ""
    id: str = ""
    before: dict[str, Any] = {}
    command: str = ""


class Caddy:
    """A reverse_proxy of a Caddy that has an ``@id``; raises WrongInput with what Caddy says instead."""

    def __init__(self, admin: str, name: str) -> None:
        self.httpx = install.library("httpx", "http", "a route of Caddy")
        self.admin, self.name = admin.rstrip("/"), name

    def _ask(self, method: str, body: Any = None) -> Any:
        try:
            reply = self.httpx.request(
                method, f"{self.admin}/id/{self.name}", json=body, timeout=ANSWER_S, trust_env=False,
                headers={"Origin": self.admin},
            )  # fmt: skip
        except (self.httpx.HTTPError, self.httpx.InvalidURL) as error:
            raise WrongInput(f"--caddy-admin {self.admin}: {error or type(error).__name__}; is it there?") from None
        if reply.status_code != 200:
            told = printable(reply.text)[:200]
            raise WrongInput(f"Caddy at {self.admin} answered {reply.status_code} for --id {self.name}: {told}")
        return msgspec.json.decode(reply.content) if reply.content.strip() else None

    def read(self) -> dict[str, Any]:
        """What it is."""
        found = self._ask("GET")
        if not isinstance(found, dict) or found.get("handler") != "reverse_proxy" or not found.get("upstreams"):
            raise WrongInput(f"--id {self.name} of Caddy is no reverse_proxy with upstreams; give it an @id of its own")
        return found

    def write(self, wanted: dict[str, Any]) -> None:
        """Make it something else, and read that back."""
        self._ask("PATCH", wanted)
        if self.read() != wanted:
            raise WrongInput(f"Caddy did not take the route {self.name}; look into its log")
        time.sleep(SETTLE_S)


def ends_streams(handler: dict[str, Any]) -> bool:
    """Whether a Caddy such as 2.6.2 ends the streams of a reverse_proxy as it takes a new route: a negative
    ``flush_interval`` binds each to the configuration in which it began.
    """
    return str(handler.get("flush_interval", "")).startswith("-")


def keep(kept: Kept, path: Path) -> None:
    """Put the way back on the disk."""
    files.write_record(path, kept)


def flip(kept: Kept, to: str) -> None:
    """Lead the traffic to ``HOST:PORT``."""
    if kept.command:
        _run(kept.command, "v2")
    else:
        Caddy(kept.caddy, kept.id).write({**kept.before, "upstreams": [{"dial": to}]})


def back(kept: Kept) -> None:
    """Lead it where it was."""
    if kept.command:
        _run(kept.command, "v1")
    else:
        Caddy(kept.caddy, kept.id).write(kept.before)


def read_back(path: Path) -> Kept:
    """What was kept; raises WrongInput."""
    return files.read_record(path, Kept, "a kept route", "no kept route", "name what cutover flip wrote")


def _run(command: str, route: str) -> None:
    try:
        done = subprocess.run(
            ["sh", "-c", command], env={**os.environ, "KPARITY_ROUTE": route}, timeout=COMMAND_S, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WrongInput(f"--exec {command!r} took more than {COMMAND_S:.0f} s; look what it waits for") from None
    if done.returncode:
        raise WrongInput(f"--exec {command!r} ended with {done.returncode} for KPARITY_ROUTE={route}")
