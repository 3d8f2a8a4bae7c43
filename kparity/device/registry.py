"""The backends by name: one per file of ``backends/``, and whatever other packages add.

Another package adds a backend through the entry-point group ``kparity.backends`` (``name = "module:Class"``). What is
true of a backend stands in its class (``kparity.device.adapter.Backend``). Here, too: what refutes a device's claims.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from kparity.device.adapter import Backend, Device, names_software
from kparity.device.declared import Declared, foreign
from kparity.device.names import BUILTIN as BUILTIN
from kparity.device.names import names as names
from kparity.device.names import targets as targets
from kparity.errors import UnknownName, WrongInput
from kparity.host.plugins import imported
from kparity.process import inside
from kparity.process.ask import NoAnswer

PROCESSOR = re.compile(r"\bcpu\b|\bxeon\b|\bepyc\b|\bthreadripper\b|\bcore\(tm\)|pthread", re.I)
"""Names of processors, which no GPU has."""
NODES = (
    "/dev/nvidia*", "/dev/kfd", "/dev/dri/renderD*", "/dev/dxg", "/dev/nvhost*", "/dev/mali*", "/dev/kgsl*",
    "/dev/accel/*",
)  # fmt: skip
"""Device nodes of GPU drivers, of those too that no backend asks for."""


def backend_class(name: str) -> type[Backend]:
    """Import the class of a backend; raises UnknownName with the nearest name.

    That of another package is imported in a child first, unless this is one; raises WrongInput where it ends that.
    """
    if name not in targets():
        raise UnknownName("backend", name, targets())
    if name not in BUILTIN and not inside.begun:
        try:
            foreign(name)
        except NoAnswer as problem:
            raise WrongInput(f"backend {name!r} cannot be used: {problem}; repair or remove its package") from None
    module, _, attribute = targets()[name].partition(":")
    content = imported(module)
    of_its_name = (each for each in vars(content).values() if getattr(each, "name", None) == name)
    adapter = getattr(content, attribute) if attribute else next(of_its_name, None)
    if not (isinstance(adapter, type) and issubclass(adapter, Backend)):
        raise WrongInput(f"backend {name!r}: {targets()[name]} is not a subclass of kparity.device.adapter.Backend")
    return adapter


@cache
def builtin() -> dict[str, type[Backend]]:
    """The classes of this package by name; nothing is opened."""
    return {name: backend_class(name) for name in BUILTIN}


def declared(name: str) -> Declared | None:
    """What a backend declares; None where nobody registered the name or it cannot be imported: who opens it says why.

    Nothing of another package is imported in this process.
    """
    if name in BUILTIN:
        return Declared.of(builtin()[name])
    try:
        return foreign(name) if name in targets() else None
    except NoAnswer:
        return None


def drives_gpu(name: str, unknown: bool = True) -> bool:
    """Whether a backend's device can be a GPU; ``unknown`` for one that is not known here."""
    found = declared(name)
    return unknown if found is None else found.drives_gpu


def usual() -> list[str]:
    """The backends that a command takes where none is named: all but slow ones of this package."""
    return [name for name in names() if not slow(name)]


def slow(name: str) -> bool:
    """Whether a backend of this package is an interpreter."""
    return name in BUILTIN and builtin()[name].slow


def default_order() -> list[str]:
    """The backends that are tried where none is named: fast and specific first, the last resort last."""
    places = {name: each.place for name, each in builtin().items() if each.place is not None}
    return sorted(places, key=places.__getitem__)


def refuse_environment() -> None:
    """Raise WrongInput for a variable of the user's that a backend of this package cannot heed; nothing is opened, and
    nothing of other packages imported.
    """
    for adapter in builtin().values():
        adapter.refuse_environment()


def open_backend(name: str, index: int = 0, **options: Any) -> Backend:
    """Open a backend's device; raises Unavailable with reason, remedy and code.

    Of ``options`` those are passed on that are not empty and that its class lists.
    """
    adapter = backend_class(name)
    return adapter.open(index, **{key: value for key, value in options.items() if value and key in adapter.options})


def named_software(info: Device) -> bool:
    """Whether a device has the name of a software device that kparity, or the backend itself, knows."""
    more = [part for each in builtin().values() for part in each.software]
    parts = [*more, *(declared(info.backend) or Declared()).software]
    return names_software((info.device, info.driver, info.detail), parts)


def host_has_gpu() -> bool:
    """Whether the host shows any trace of a GPU: a PCI display or accelerator device, or a device node of a GPU driver.

    Where no such trace can exist (another system than Linux) the answer is yes: it is used to refute claims only.
    """
    if sys.platform != "linux":
        return True
    if any(True for node in NODES for _ in Path("/").glob(node.lstrip("/"))):
        return True
    classes = [path.read_text().strip() for path in Path("/sys/bus/pci/devices").glob("*/class")]
    return any(code.startswith(("0x03", "0x12", "0x0b40")) for code in classes)
