"""The HTML page of a folder of receipts: tokens/s by measurement, device and backend, with parity beside every bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from kparity.errors import WrongInput
from kparity.receipts.store import Stored, rows

EXTRA = "receipt page needs the library Jinja2: pip install 'kparity[receipts]'"
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
            if row["measurement"] is not None:
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


def html(stored: Sequence[Stored]) -> str:
    """The page; raises WrongInput where Jinja2 is missing."""
    try:
        import jinja2
    except ImportError as error:
        raise WrongInput(EXTRA) from error
    text = resources.files(__package__ or "").joinpath("page.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.from_string(text).render(groups=groups(stored), stored=stored, width=WIDTH)
    return page
