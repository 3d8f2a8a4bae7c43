"""The HTML page of a folder of receipts: probes as hosts × backends; tokens/s by measurement, device and backend, with
parity beside every bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kparity.host.html import render
from kparity.receipts.store import Stored, rows

WIDTH = 320
"""Length of the longest bar, in the units of the drawing."""


@dataclass(frozen=True)
class Bar:
    """A measurement: a bar as long as its rate (tokens/s), a whisker for its interval; neither where it is refused."""

    owner: str
    device: str
    kind: str
    parity: str
    file: str
    time: str
    commit: str
    rate: float
    low: float
    high: float
    refused: str
    """Why it is no speed; empty where it is one."""


@dataclass(frozen=True)
class Group:
    """The bars of one measurement on one model, the fastest first and those that do not count last; ``scale`` is the
    length of one token per second.
    """

    model: str
    name: str
    bars: list[Bar]
    scale: float


def groups(stored: Sequence[Stored]) -> list[Group]:
    """Bars by model and measurement, on one scale each."""
    by_name: dict[tuple[str, str], list[Bar]] = {}
    for each in stored:
        for row in rows([each]):
            if row["tokens_per_s"] is not None:
                by_name.setdefault((row["model"], row["measurement"]), []).append(_bar(each, row))
    ordered = []
    for key, bars in sorted(by_name.items()):
        top = max((bar.high for bar in bars if not bar.refused), default=0.0)
        bars.sort(key=lambda bar: (bool(bar.refused), 0.0 if bar.refused else -bar.rate, bar.file))
        ordered.append(Group(*key, bars, WIDTH / top if top else 0.0))
    return ordered


def _bar(stored: Stored, row: dict[str, Any]) -> Bar:
    """The bar of a row; its speed does not count where the receipt is refused, or its parity did not pass."""
    harness, verdict = stored.predicate.harness, row["parity"] or "baseline"
    refused = str(stored.findings[0]) if stored.findings else ""
    if not refused and verdict not in ("PASS", "baseline"):
        refused = f"{verdict}: the output of this run is not known to be right"
    commit = harness.commit[:12] + (" +changes" if harness.dirty else "")
    return Bar(
        row["backend"], row["device"], row["kind"], verdict, row["file"], stored.predicate.ended, commit,
        row["tokens_per_s"], row["low"], row["high"], refused,
    )  # fmt: skip


@dataclass(frozen=True)
class Fate:
    """What became of a backend on a host; ``why`` is empty where it may serve."""

    status: str
    device: str
    why: str
    serves: bool


@dataclass(frozen=True)
class Host:
    """A host as a probe's receipt saw it, with the fate of each backend that was asked for."""

    file: str
    host: str
    time: str
    refused: str
    """Why the receipt does not count; empty where it does."""
    fates: dict[str, Fate]


@dataclass(frozen=True)
class Fleet:
    """The hosts of all probes; for each backend how often it was accepted, and on how many hosts it was asked for. A
    refused receipt counts for neither.
    """

    hosts: list[Host]
    accepted: dict[str, tuple[int, int]]


def fleet(stored: Sequence[Stored]) -> Fleet:
    """The receipts of probes as hosts × backends."""
    hosts = [_host(each) for each in stored if each.predicate.kind == "probe"]
    statuses: dict[str, list[str]] = {name: [] for host in hosts for name in host.fates}
    for host in hosts:
        for name, fate in host.fates.items() if not host.refused else ():
            statuses[name].append(fate.status)
    return Fleet(hosts, {name: (told.count("accepted"), len(told)) for name, told in statuses.items()})


def _host(stored: Stored) -> Host:
    predicate = stored.predicate
    devices = {run.backend: run.device.device for run in predicate.runs}
    fates = {
        each.backend: Fate(
            each.status, devices.get(each.backend, ""), f"{each.code}: {each.reason}" if each.code else "",
            each.backend == predicate.serving,
        )
        for each in predicate.fallback
    }  # fmt: skip
    host = f"{predicate.host.cpu or predicate.host.machine}, {predicate.host.system}"
    return Host(stored.file, host, predicate.ended, str(stored.findings[0]) if stored.findings else "", fates)


def html(stored: Sequence[Stored]) -> str:
    """The page; raises WrongInput where Jinja2 is missing."""
    return render(__package__ or "", groups=groups(stored), fleet=fleet(stored), stored=stored, width=WIDTH)
