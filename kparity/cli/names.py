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
    """What ``kparity explain`` takes: reason codes, those of backends as their texts have them, measures and slots."""
    from kparity.receipts.findings import REFUSALS

    texts = [files("kparity.device") / "codes.py", *files("kparity.backends").iterdir()]
    text = "".join(each.read_text("utf-8") for each in texts if each.name.endswith(".py"))
    found = re.findall(r'"(KP-[A-Z0-9-]+)": ', text)
    return sorted({*found, *REFUSALS}) + measures()


def measures() -> list[str]:
    """Thresholds and equations of the contracts, as their texts have them, and slots of a trace."""
    texts = "".join((files("kparity.contracts") / f"{name}.yaml").read_text("utf-8") for name in shipped())
    sections = re.findall(r"^(?:thresholds|equations):\n((?:(?: .*)?\n)*)", texts, re.MULTILINE)
    return list(dict.fromkeys([*re.findall(r"^  (\w+):$", "".join(sections), re.MULTILINE), *slots()]))


def contracts() -> list[str]:
    """The shipped contracts, and those of other packages."""
    from kparity.host.plugins import registered

    return sorted(registered("kparity.contracts", "contract", dict.fromkeys(shipped(), "")))


def shipped() -> list[str]:
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
