"""What /health tells: which backend serves, proved how far, since when, and why the others do not."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Literal

import msgspec

from kparity import __version__
from kparity.serve.messages import Verdict
from kparity.serve.service import Service


class Canary(msgspec.Struct):
    """Known steps: runs between two while it serves, how many were right, and when the last one was."""

    every: int
    checks: int
    last: str | None


class Health(msgspec.Struct):
    """The answer; ``proved`` is the last position up to which the backend was proved, ``context`` counts those that it
    serves.
    """

    status: Literal["ok", "switching", "draining", "refused"]
    backend: str | None
    label: str | None
    proved: int | None
    context: int | None
    since: str | None
    model: str
    version: str
    canary: Canary
    active: int
    waiting: int
    rejected: list[Verdict]
    """Backends that were tried before, or that failed while they served."""
    untried: list[str]


def moment(seconds: float) -> str | None:
    """ISO 8601 in UTC; None for never."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds") if seconds else None


def health(service: Service) -> Health:
    """Now."""
    of = service.supervisor
    serving = of.serving
    status: Literal["ok", "switching", "draining", "refused"] = (
        "refused" if of.refused else "draining" if service.draining else "ok" if serving else "switching"
    )
    return Health(
        status, serving.backend if serving else None, serving.label if serving else None,
        serving.proved if serving else None, serving.room if serving else None,
        moment(of.since) if serving else None, service.name, __version__,
        Canary(serving.canary if serving else 0, of.checks, moment(of.checked_at)), len(of.active), len(of.waiting),
        of.verdicts, of.untried,
    )  # fmt: skip
