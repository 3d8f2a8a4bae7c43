"""What a fleet's ledger holds (``fleet.jsonl``): a line where a round begins, one for each attempt at a device, and one
where the round ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Command = Literal["probe", "check", "bench", "burnin"]
Per = Literal["gpu", "node"]
"""A task for each GPU of the cluster, or for each node, whatever it computes on."""

Outcome = Literal[
    "passed", "failed", "inconclusive", "unsound", "refused", "crashed", "out-of-memory", "late", "lost", "preempted",
    "no-place", "broken", "missing",
]  # fmt: skip
MEANS: dict[Outcome, str] = {
    "passed": "a receipt that may be believed, and every gate passed",
    "failed": "a receipt that may be believed, and a gate failed",
    "inconclusive": "a receipt, and too little ran to pass or fail",
    "unsound": "a receipt that the rules of receipts refuse",
    "refused": "the command ended without a receipt, and said why",
    "crashed": "the command was ended by a signal",
    "out-of-memory": "the device, or the node, had too little memory",
    "late": "no receipt by the deadline",
    "lost": "its node left the cluster while the command ran",
    "preempted": "its node was taken away while the command ran",
    "no-place": "Ray gave the task no place by its deadline: the device is taken, or its node is gone",
    "broken": "Ray could not run the task",
    "missing": "expected, and nothing in the cluster answers to its name",
}
AGAIN: frozenset[Outcome] = frozenset({"lost", "preempted", "out-of-memory", "no-place", "broken", "crashed"})
"""What is tried once more in the same round, where the node is there again."""
SETTLED: frozenset[Outcome] = frozenset({"passed", "failed"})
"""What a resumed round does not run again."""


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="what"):
    """A line of the ledger. Times are UTC, as receipts hold them."""

    round: int
    time: str


class Begun(Entry, tag="round"):
    """A round begins: ``words`` is what every node runs behind ``kparity``, ``expected`` the devices that the cluster
    was known to have, or that somebody named; ``count`` how many somebody said there are, 0 where nobody did.
    """

    command: Command
    words: list[str]
    per: Per
    expected: list[str]
    count: int = 0


class Seen(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a receipt says of one backend on the device.

    ``group`` is the digest of what equals must share for their bits to be compared: model of device, backend, driver,
    kernels, model file and what was asked. ``bits`` is the digest of everything that was computed, empty where the
    receipt has none. ``errors`` are measured numbers, each the smaller the better, by the names of their thresholds;
    ``unit_ns`` the time of a decode step on the device's own clock, or of the first measurement of a benchmark.
    """

    backend: str
    model: str
    kind: str
    driver: str
    verdict: str
    group: str
    bits: str = ""
    uuid: str = ""
    code: str = ""
    errors: dict[str, float] = {}
    unit_ns: float | None = None


class Burnt(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the log of a burn-in showed when its line was written: ``name`` below ``logs/``, its first ``bytes`` and
    their ``sha256``, since it goes on growing; rounds by how their replies differ, margins of the no-matches and the
    floor in nats, the verdict of its gates and the names of those that failed.
    """

    name: str
    bytes: int
    sha256: str
    rounds: int
    exact: int
    no_match: int
    unreachable: int
    verdict: str
    margin_median: float | None = None
    margin_most: float | None = None
    floor: float | None = None
    failed: list[str] = []


class Tried(Entry, tag="device"):
    """An attempt at a device: ``device`` is its name in the fleet, ``place`` what Ray called it (node id, and its id of
    the accelerator), ``receipt`` the name of a file below ``receipts/`` and ``sha256`` that of its bytes, ``tail`` the
    end of what the command wrote to its standard error.
    """

    device: str
    outcome: Outcome
    attempt: int = 1
    reason: str = ""
    accelerator: str = ""
    place: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    receipt: str = ""
    sha256: str = ""
    tail: str = ""
    seen: list[Seen] = []
    log: Burnt | None = None


class Ended(Entry, tag="end"):
    """A round is over: every expected device has a line in it."""

    seconds: float


Line = Begun | Tried | Ended


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """0 where each device passed, 1 where one failed its gates, else 3: one is missing, or nothing is known of it."""
    found = set(outcomes)
    return 1 if found & {"failed", "unsound"} else 0 if found == {"passed"} else 3
