"""Which devices a cluster has, by what Ray tells of its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kparity.fleet.record import Per

ACCELERATOR = "accelerator_type:"
MARKED = {"CUDA": "cuda", "ROCM": "hip", "VULKAN": "wgpu"}
"""Custom resource of a node, as many as it has devices of that kind → the backend that its devices are for."""


@dataclass(frozen=True)
class Slot:
    """A task to come. ``device`` is a name, empty where Ray chooses among the GPUs of a node: the task says which
    it got. ``needs`` are resources, ``backend`` what the node is marked for, ``index`` the device within the backend,
    ``own`` options that only its command has.
    """

    node: str
    node_id: str
    device: str = ""
    needs: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    backend: str = ""
    index: int = 0
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node that is alive, with its slots and the names of its devices."""

    name: str
    node_id: str
    slots: list[Slot]
    devices: list[str]


def nodes(told: Sequence[Mapping[str, Any]], per: Per) -> list[Node]:
    """The nodes that are alive and have something to test, of what ``ray.nodes()`` gives, by their names.

    A node is called as ``--node-name`` says, else by its address; where several have one name, each has the beginning
    of its id behind it.
    """
    alive = [each for each in told if each["Alive"]]
    shared = Counter(str(each["NodeName"]) for each in alive)
    found = []
    for each in alive:
        name, node_id = str(each["NodeName"]), str(each["NodeID"])
        name = f"{name}~{node_id[:8]}" if shared[name] > 1 else name
        node = _node(name, node_id, each["Resources"], per)
        if node.slots:
            found.append(node)
    return sorted(found, key=lambda node: node.name)


def _node(name: str, node_id: str, has: Mapping[str, float], per: Per) -> Node:
    marked = next((mark for mark in MARKED if has.get(mark)), "")
    backend = MARKED.get(marked, "")
    model = next((key.removeprefix(ACCELERATOR) for key in sorted(has) if key.startswith(ACCELERATOR)), "")
    if per == "node":
        # A node without processors has no room for tasks: the head of a cluster, most often.
        slots = [Slot(name, node_id, name, {}, model, backend)] if has.get("CPU", 0) >= 1 else []
        return Node(name, node_id, slots, [slot.device for slot in slots])
    if count := int(has.get("GPU", 0)):  # Ray gives each task a GPU of its own, and shows it no other
        slots = [Slot(name, node_id, "", {"GPU": 1.0}, model, backend) for _ in range(count)]
        return Node(name, node_id, slots, [device(name, str(at)) for at in range(count)])
    names = [device(name, str(at)) for at in range(int(has.get(marked, 0)))]
    slots = [Slot(name, node_id, each, {marked: 1.0}, model, backend, at) for at, each in enumerate(names)]
    return Node(name, node_id, slots, names)


def device(node: str, accelerator: str) -> str:
    """The name of a GPU in the fleet."""
    return f"{node}/gpu{accelerator}"
