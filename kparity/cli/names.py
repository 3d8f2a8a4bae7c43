"""What a shell completes, told without importing what it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.resources import files

import click
from click.shell_completion import CompletionItem


def backends() -> list[str]:
    """Every backend."""
    from kparity.device.names import names

    return names()


def ops() -> list[str]:
    """Every op."""
    from kparity.ops import names

    return names()


def subjects() -> list[str]:
    """What has mutants: the ops and the engine."""
    return [*ops(), "engine"]


def slots() -> list[str]:
    """What a trace records."""
    from kparity.traces.slots import TABLE

    return list(TABLE)


def codes() -> list[str]:
    """Reason codes and measures, as ``kparity explain`` takes them; those of backends are read from their texts."""
    from kparity.gates.table import GATES
    from kparity.receipts.findings import REFUSALS

    texts = [files("kparity.device") / "codes.py", *files("kparity.backends").iterdir()]
    text = "".join(each.read_text("utf-8") for each in texts if each.name.endswith(".py"))
    found = re.findall(r'"(KP-[A-Z0-9-]+)": ', text)
    return sorted({*found, *REFUSALS}) + [measure for gate in GATES for measure in gate.thresholds]


def contracts() -> list[str]:
    """The shipped contracts."""
    return sorted(each.name[:-5] for each in files("kparity.contracts").iterdir() if each.name.endswith(".yaml"))


def engines() -> list[str]:
    """Kinds of engines, those of kparity's own with each backend."""
    from kparity.host.plugins import registered

    known = registered("kparity.engines", "engine", dict.fromkeys(("llama.cpp", "reference"), ""))
    return sorted([*known, *(f"kparity:{name}" for name in backends())])


def completing(names: Callable[[], Sequence[str]]) -> Callable[..., list[CompletionItem]]:
    """Completes the last name of a list with commas."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(before + comma + name) for name in names() if name.startswith(last)]

    return complete
