"""The HTML page of a folder of receipts: tokens/s by measurement, device and backend, with parity beside every bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from kparity.errors import WrongInput
from kparity.receipts.record import Measurement, Predicate
from kparity.receipts.store import Stored

EXTRA = "receipt page needs the library Jinja2: pip install 'kparity[receipts]'"
WIDTH = 320
"""Length of the longest bar, in the units of the drawing."""


@dataclass(frozen=True)
class Bar:
    """A measurement with a bar as long as its rate, a whisker for its interval; no length where it does not count."""

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
    length: float | None
    start: float
    end: float
    refused: str
    """Why it is no speed; empty where it is one."""


@dataclass(frozen=True)
class Group:
    """The bars of one measurement on one model, the fastest first."""

    model: str
    name: str
    bars: list[Bar]


def groups(stored: Sequence[Stored]) -> list[Group]:
    """Bars by model and measurement, on one scale each; what does not count stands last, without a length."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in stored:
        for owner, measurement in _measured(each.predicate):
            key = (each.predicate.model.name, measurement.name)
            found.setdefault(key, []).append({**owner, **_of(each, owner), "measurement": measurement})
    return [Group(*key, _bars(entries)) for key, entries in sorted(found.items())]


def _measured(predicate: Predicate) -> list[tuple[dict[str, str], Measurement]]:
    """What measured (owner, device, kind, parity), and the measurement."""
    pairs = []
    for run in predicate.runs:
        owner: dict[str, str] = {"owner": run.backend, "device": run.device.device, "kind": run.device.kind}
        pairs += [({**owner, "parity": run.parity.verdict}, each) for each in run.measurements]
    for baseline in predicate.baselines:
        owner = {"owner": baseline.name, "device": predicate.host.cpu, "kind": "cpu", "parity": "baseline"}
        pairs += [(owner, each) for each in baseline.measurements]
    return pairs


def _of(stored: Stored, owner: dict[str, str]) -> dict[str, str]:
    """File, time, commit, and why the speed does not count: its first finding, or parity that did not pass."""
    harness = stored.predicate.harness
    refused = str(stored.findings[0]) if stored.findings else ""
    if not refused and owner["parity"] not in ("PASS", "baseline"):
        refused = f"{owner['parity']}: the output of this run is not known to be right"
    commit = harness.commit[:12] + (" +changes" if harness.dirty else "")
    return {"file": stored.file, "time": stored.predicate.ended, "commit": commit, "refused": refused}


def _bars(entries: Sequence[dict[str, Any]]) -> list[Bar]:
    top = max((each["measurement"].high for each in entries if not each["refused"]), default=0.0)
    bars = []
    for each in entries:
        rate, low, high = (getattr(each["measurement"], name) for name in ("tokens_per_s", "low", "high"))
        scale = 0.0 if each["refused"] else WIDTH / top
        told = {name: each[name] for name in ("owner", "device", "kind", "parity", "file", "time", "commit", "refused")}
        length = None if each["refused"] else rate * scale
        bars.append(Bar(**told, rate=rate, low=low, high=high, length=length, start=low * scale, end=high * scale))
    return sorted(bars, key=lambda bar: (bar.length is None, -(bar.length or 0.0), bar.file))


def html(stored: Sequence[Stored]) -> str:
    """The page, one file without a script or a link; raises WrongInput where Jinja2 is missing."""
    try:
        import jinja2
    except ImportError as error:
        raise WrongInput(EXTRA) from error
    text = resources.files(__package__ or "").joinpath("page.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found: str = environment.from_string(text).render(groups=groups(stored), stored=stored, width=WIDTH)
    return found
