"""Ray, behind the few calls that a round needs: the one place that imports it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from kparity.errors import WrongInput
from kparity.fleet import plan
from kparity.fleet.plan import Node, Slot
from kparity.fleet.record import Outcome, Per
from kparity.host import install

T = TypeVar("T")
PREEMPTED = 3
"""What Ray's death reason of a node is where its machine was taken away (AUTOSCALER_DRAIN_PREEMPTED)."""
MEMORY = ("low on memory", "out of memory", "OOM")


REACH_SECONDS = 10.0
"""For a head to take a connection; Ray itself waits for minutes."""


def reached(address: str) -> None:
    """Raise WrongInput where Ray is missing, or nobody listens at a HOST:PORT; what has another form is up to Ray."""
    if find_spec("ray") is None:
        install.library("ray", "fleet", "kparity fleet")
    found = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    host, colon, port = re.sub("^ray://", "", found).rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise WrongInput(
            f"no Ray cluster answers at {found}: {error}; give --address what ray start printed"
        ) from error


class Cluster:
    """A connection to a cluster, whose tasks end with it. ``errors`` are what ``get`` raises for a task that failed."""

    def __init__(self, address: str, wheel: Path | None = None) -> None:
        """``address`` as ``ray.init`` takes it; ``wheel`` is what the nodes run. Raises WrongInput where nobody
        answers.
        """
        self.ray = install.library("ray", "fleet", "kparity fleet")
        install.library("ray.util.scheduling_strategies", "fleet", "kparity fleet")
        self.errors: tuple[type[Exception], ...] = (self.ray.exceptions.RayError,)
        environment = {"py_modules": [str(wheel)]} if wheel else {}
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, *self.errors) as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise WrongInput(
                f"no Ray cluster answers at {address}: {first.strip()}; give --address what ray start printed"
            ) from error
        self.left = set[str]()

    def close(self) -> None:
        """Leave the cluster, whose other work goes on."""
        self.ray.shutdown()

    def nodes(self, per: Per) -> list[Node]:
        """The nodes that are alive and have something to test."""
        return plan.nodes(self.ray.nodes(), per)

    def leaving(self) -> set[str]:
        """Ids of the nodes that were told, as often as this was asked, that their machine is taken away; a client
        (``ray://``) learns of none.
        """
        if not self.ray.util.client.ray.is_connected():
            self.left.update(self.ray._private.state.state.get_draining_nodes())
        return self.left

    def gone(self, node_id: str) -> str:
        """Why a node is not there any more; empty where it is."""
        dead = self._dead(node_id)
        return (dead.get("DeathReasonMessage") or "Ray gives no reason") if dead else ""

    def _dead(self, node_id: str) -> Any:
        return next((each for each in self.ray.nodes() if each["NodeID"] == node_id and not each["Alive"]), None)

    def actor(self, kind: Any, slot: Slot) -> Any:
        """An actor on the node of a slot, with what it needs; it is there when Ray has the room."""
        affinity = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(slot.node_id, soft=False)
        needs = dict(slot.needs)
        options = {"num_gpus": needs.pop("GPU", 0), "resources": needs, "num_cpus": 0 if slot.needs else 1}
        options["max_concurrency"] = kind.threads
        return self.ray.remote(kind).options(max_restarts=0, scheduling_strategy=affinity, **options).remote()

    def ready(self, items: Sequence[T], reference: Callable[[T], Any], seconds: float) -> list[T]:
        """The items whose reference has a value, or an error, after so long at most."""
        by_reference = {reference(each): each for each in items}
        done, _ = self.ray.wait([*by_reference], num_returns=len(by_reference), timeout=seconds)
        return [by_reference[each] for each in done]

    def get(self, reference: Any) -> Any:
        """Its value; raises one of ``errors``."""
        return self.ray.get(reference)

    def end(self, actor: Any) -> None:
        """End an actor, whatever it does."""
        self.ray.kill(actor, no_restart=True)

    def named(self, error: Exception, node_id: str) -> tuple[Outcome, str]:
        """What an error of a task means for its device, and the error in a sentence."""
        kinds, text = self.ray.exceptions, " ".join(str(error).split())
        dead = self._dead(node_id)
        taken = dead and (dead.get("DeathReason") == PREEMPTED or node_id in self.left)
        if taken or getattr(error, "preempted", False):  # Ray says neither where the machine went before it was due
            return "preempted", dead.get("DeathReasonMessage", text) if dead else text[:400]
        if isinstance(error, kinds.OutOfMemoryError) or _has(text, MEMORY):
            return "out-of-memory", text[-400:]
        if dead:
            return "lost", dead.get("DeathReasonMessage") or text[-400:]
        if isinstance(error, kinds.ActorUnschedulableError):
            return "no-place", text[:400]
        if isinstance(error, kinds.RayTaskError | kinds.RuntimeEnvSetupError):
            return "broken", f"{text[-300:]}; kparity must be installed on each node, or --wheel given"
        return "crashed", f"the task's process ended: {text[-400:]}"


def _has(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)
