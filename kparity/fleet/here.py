"""Pairs of servers that this machine holds against each other: what a round needs of a cluster, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from kparity.errors import WrongInput
from kparity.fleet.plan import Node, Slot
from kparity.fleet.record import Outcome, Per
from kparity.host import files

T = TypeVar("T")
THREADS = 2
"""Calls of an actor at once: what runs, and what asks how far it is."""


def pairs(path: str) -> list[Slot]:
    """The pairs of a file, ``NAME URL URL`` a line; raises WrongInput."""
    found: dict[str, Slot] = {}
    for number, line in enumerate(files.read_text(path, "a list of pairs of servers").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        urls = [each for each in words[1:] if each.startswith(("http://", "https://"))]
        if len(words) != 3 or len(urls) != 2 or words[0] in found:
            raise WrongInput(
                f"{path}, line {number}: write NAME URL URL, the server that has the traffic first, each name once"
            )
        found[words[0]] = Slot(words[0], words[0], words[0], own=("--v1", words[1], "--v2", words[2]))
    if not found:
        raise WrongInput(f"{path} names no pair; write NAME URL URL a line")
    return [*found.values()]


class Method:
    """A method of an actor."""

    def __init__(self, pool: ThreadPoolExecutor, method: Callable[..., Any]) -> None:
        self.pool, self.method = pool, method

    def remote(self, *arguments: Any) -> Future[Any]:
        """Call it in a thread."""
        return self.pool.submit(self.method, *arguments)


class Actor:
    """An object whose methods run in threads of its own."""

    def __init__(self, kind: type) -> None:
        self.inside, self.pool = kind(), ThreadPoolExecutor(THREADS)

    def __getattr__(self, method: str) -> Method:
        return Method(self.pool, getattr(self.inside, method))


class Here:
    """This machine as a cluster: a node for each pair."""

    errors: tuple[type[Exception], ...] = (OSError, RuntimeError, WrongInput)

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots, self.actors = slots, list[Actor]()

    def close(self) -> None:
        """End what still runs."""
        for actor in [*self.actors]:
            self.end(actor)

    def nodes(self, per: Per) -> list[Node]:
        """The pairs."""
        return [Node(slot.node, slot.node_id, [slot], [slot.device]) for slot in self.slots]

    def leaving(self) -> set[str]:
        """No node is taken away."""
        return set()

    def gone(self, node_id: str) -> str:
        """This machine is there."""
        return ""

    def actor(self, kind: type, slot: Slot) -> Actor:
        """An object with threads of its own."""
        self.actors.append(Actor(kind))
        return self.actors[-1]

    def ready(self, items: Sequence[T], reference: Callable[[T], Any], seconds: float) -> list[T]:
        """The items whose reference has a value, or an error, after so long at most."""
        done, _ = wait([reference(each) for each in items], seconds, FIRST_COMPLETED)
        return [each for each in items if reference(each) in done]

    def get(self, reference: Future[Any]) -> Any:
        """Its value; raises one of ``errors``."""
        return reference.result()

    def end(self, actor: Actor) -> None:
        """End an actor, whatever it does."""
        if actor in self.actors:
            self.actors.remove(actor)
            actor.inside.close()
            actor.pool.shutdown(wait=False, cancel_futures=True)

    def named(self, error: Exception, node_id: str) -> tuple[Outcome, str]:
        """What an error of a task means, and the error in a sentence."""
        return "broken", str(error)
