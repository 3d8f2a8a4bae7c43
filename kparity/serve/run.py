"""The server's process: its socket, the event loop, and its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from kparity.engines.chat import Chat
from kparity.engines.http_wire import is_here
from kparity.errors import WrongInput
from kparity.host import progress
from kparity.host.signals import Stopped
from kparity.model import Model
from kparity.model.tokenizer import Tokenizer
from kparity.serve.app import application
from kparity.serve.messages import Opening
from kparity.serve.problem import Problem
from kparity.serve.service import Limits, Service
from kparity.serve.supervisor import Supervisor

CONNECTIONS, BACKLOG, IDLE_SECONDS = 512, 128, 60
"""Connections beyond which one is answered 503 at once, those that the system keeps until they are taken, and how long
one that a client keeps open may be idle.
"""


@dataclass(frozen=True)
class Settings:
    """How to serve: where, what clients must show, how many requests may wait, seconds of silence and of the end."""

    host: str
    port: int
    key: str
    queue: int
    silent: float
    drain: float
    limits: Limits


def bound(host: str, port: int) -> socket.socket:
    """A socket that is taken before anything is probed; raises WrongInput."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise WrongInput(f"--host {host}: {error.strerror or error}; give a name or address of this machine") from None
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise WrongInput(f"{host}:{port} cannot be had: {error.strerror}; give another --host or --port") from None
    return found


class Protocol(AutoHTTPProtocol):  # type: ignore[misc]
    """A connection; what is no HTTP is refused in the form of all other problems."""

    def send_400_response(self, msg: str) -> None:
        """As uvicorn does."""
        body = Problem(400, f"{msg.rstrip('.')}; send HTTP/1.1").encoded()
        head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close"
        self.transport.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


class Server(uvicorn.Server):  # type: ignore[misc]
    """Says when it listens, and tells the service when it drains."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.ready = service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does."""
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does."""
        self.service.draining = True
        await super().shutdown(sockets)


def serve(
    opening: Opening, model: Model, tokenizer: Tokenizer, chat: Chat | None, name: str, settings: Settings,
    log: Callable[[str], None],
) -> None:  # fmt: skip
    """Until SIGTERM or SIGINT, after which what is under way comes to its end; raises Refused where nothing serves, or
    nothing is left.
    """
    with bound(settings.host, settings.port) as listening:
        if not is_here(settings.host):
            who = "whoever has the key" if settings.key else "anybody (--api-key-file asks for a key)"
            log(f"warning: {settings.host} can be reached from other machines, where {who} may use this server")
        asyncio.run(_serve(opening, model, tokenizer, chat, name, settings, log, listening))


async def _serve(
    opening: Opening, model: Model, tokenizer: Tokenizer, chat: Chat | None, name: str, settings: Settings,
    log: Callable[[str], None], listening: socket.socket,
) -> None:  # fmt: skip
    servers = list[Server]()

    def ended() -> None:
        for each in servers:
            each.should_exit = True

    supervisor = Supervisor(opening, settings.queue, settings.silent, log, ended)
    service = Service(supervisor, model, tokenizer, chat, name, settings.limits, settings.key)
    try:
        with progress.task("serve") as task:
            task.stage(f"probing {', '.join(opening.order)}")
            await supervisor.start()
        config = uvicorn.Config(
            application(service, log), http=Protocol, log_config=None, access_log=False, lifespan="off",
            server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS, backlog=BACKLOG, ws="none",
            timeout_graceful_shutdown=round(settings.drain), timeout_keep_alive=IDLE_SECONDS,
        )  # fmt: skip
        host, port = listening.getsockname()[:2]
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        server = Server(config, service, lambda: log(f"serving {name} at {where}"))
        servers.append(server)
        with suppress(Stopped):  # uvicorn gives the signal back once all is over
            await server.serve([listening])
    finally:
        await supervisor.close()
        if chat:
            chat.close()
    if supervisor.refused:
        raise supervisor.refused
