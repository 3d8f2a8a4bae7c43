"""Burn-ins of a fleet: a pair of servers per device, whose log is fetched while it grows and counted here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kparity.burnin import query
from kparity.burnin.record import Settled
from kparity.burnin.stats import Stats, stats
from kparity.errors import WrongInput
from kparity.fleet import store
from kparity.fleet.hand import Errand
from kparity.fleet.judged import without
from kparity.fleet.record import SETTLED, Burnt, Outcome, Tried
from kparity.fleet.round import Claim, Round
from kparity.fleet.stoker import Stoker

PULL_SECONDS = 10.0
"""Between two looks at how a log has grown."""


@dataclass
class Fetched:
    """How far the log of a claim has come: ``pull`` is what was asked for and is not there yet."""

    name: str
    size: int
    asked: float = field(default_factory=time.monotonic)
    pull: Any = None


class Burnins(Round):
    """A round of burn-ins, each of ``asked.rounds`` rounds in all."""

    kind = Stoker

    def __init__(self, *arguments: Any, told: Iterable[str] = ()) -> None:
        """As of a round; ``told`` are pairs of servers, which a round that goes on must have again."""
        self.told = [*told]
        super().__init__(*arguments)

    def _words(self) -> list[str]:
        return [*super()._words(), *self.told]

    def _settled(self, line: Tried) -> bool:
        """Whether a burn-in is not gone on with: it passed or failed, or has all of its rounds."""
        enough = line.log is not None and line.log.rounds >= self.asked.rounds
        return (line.outcome in SETTLED or enough) and self._whole(line)

    def _whole(self, line: Tried) -> bool:
        return line.log is not None and store.digest(self.store.log(line.log.name), line.log.bytes) == line.log.sha256

    def _start(self, claim: Claim) -> Any:
        name = f"{self.begun.round:04}-{self._safe(claim.device)}.jsonl"
        log = whole(self.store.log(name))
        claim.fetched = Fetched(name, len(log))
        left = max(self.asked.rounds - last_of(log), 1)
        gpu = claim.accelerator or str(claim.slot.index)
        asked = [each.replace("{gpu}", gpu) for each in (*claim.slot.own, *self.asked.words)]
        words = ["burnin", "run", *asked, "--max-rounds", str(left)]
        return claim.actor.run.remote(words, log, self.asked.deadline)

    def _look(self, claims: Iterable[Claim]) -> None:
        """Fetch what logs have grown by."""
        running = [(each, each.fetched) for each in claims if each.running and not each.over]
        for claim, log in running:
            if log.pull is None and time.monotonic() - log.asked > PULL_SECONDS:
                log.pull, log.asked = claim.actor.more.remote(log.size), time.monotonic()
        pulled = [log for _, log in running if log.pull is not None]
        for log in self.cluster.ready(pulled, lambda each: each.pull, 0.0) if pulled else ():
            self._take(log)

    def _take(self, log: Fetched) -> bytes:
        """What was asked for; nothing where the node is gone, which its task tells, too."""
        pull, log.pull = log.pull, None
        try:
            data: bytes = self.cluster.get(pull)
        except self.cluster.errors:
            return b""
        self.store.extend(log.name, data)
        log.size += len(data)
        return data

    def _came(self, claim: Claim, errand: Errand) -> None:
        log, errand = claim.fetched, Errand(*errand)
        if log.pull is not None:
            self._take(log)
        while True:
            log.pull = claim.actor.more.remote(log.size)
            if not self._take(log):
                break
        burnt, outcome, reason = self._counted(log, errand)
        self._line(
            claim, outcome, reason, seconds=round(errand.seconds, 3), exit_code=errand.exit_code, log=burnt,
            tail="" if outcome == "passed" else errand.tail,
        )  # fmt: skip

    def _settle(self, claim: Claim, outcome: Outcome, reason: str, **more: Any) -> None:
        """What came of its log before the task was lost is in its line."""
        shown = self._shown(claim.fetched)[0] if claim.fetched else None
        super()._settle(claim, outcome, reason, log=shown, **more)

    def _counted(self, log: Fetched, errand: Errand) -> tuple[Burnt | None, Outcome, str]:
        burnt, found = self._shown(log)
        if errand.late:
            return burnt, "late", f"not all of its rounds after {errand.seconds:.0f} s"
        if errand.exit_code not in (0, 1, 3) or burnt is None or found is None:
            failed = without(errand)
            return burnt, failed.outcome, failed.reason
        if errand.exit_code == 1:
            return burnt, "failed", "halted: an hour of it went wrong"
        outcomes: dict[str, Outcome] = {"PASS": "passed", "FAIL": "failed"}
        red = [each for each in found.gates if each.state != "PASS"]
        worst = [each for each in red if each.state == "FAIL"] or red
        reason = "; ".join(f"{each.name} {each.state}{f': {each.needs}' if each.needs else ''}" for each in worst)
        return burnt, outcomes.get(found.verdict, "inconclusive"), reason

    def _shown(self, log: Fetched) -> tuple[Burnt | None, Stats | None]:
        """What a log shows; None where it has no round."""
        path = self.store.log(log.name)
        if not log.size:
            return None, None
        mode = next(settled(path.read_bytes().splitlines()[-1:]), None)
        try:
            with query.opened(path) as table:
                found = stats(table, mode.mode if mode else "greedy")
        except WrongInput as error:
            self.say(str(error))
            return None, None
        return of_stats(found, log.name, log.size, store.digest(path, log.size)), found


def of_stats(found: Stats, name: str, size: int, sha256: str) -> Burnt:
    """What the ledger keeps of the statistics of a log."""
    buckets = found.buckets
    return Burnt(
        name=name, bytes=size, sha256=sha256, rounds=found.rounds, exact=buckets["exact"],
        no_match=buckets["no-match"], unreachable=sum(n for key, n in buckets.items() if key.endswith("unreachable")),
        margin_median=found.ties.margin_median, margin_most=found.ties.margin_most, floor=found.ties.floor,
        verdict=found.verdict, failed=[each.name for each in found.gates if each.state == "FAIL"],
    )  # fmt: skip


def whole(path: Path) -> bytes:
    """The whole lines of a log; what of one was torn is cut off. Nothing where there is no log."""
    log = path.read_bytes() if path.exists() else b""
    kept = log[: log.rfind(b"\n") + 1]
    if len(kept) < len(log):
        os.truncate(path, len(kept))
    return kept


def settled(lines: Iterable[bytes]) -> Iterator[Settled]:
    """What is known of rounds."""
    for line in lines:
        yield msgspec.json.decode(line, type=Settled)


def last_of(log: bytes) -> int:
    """How many rounds a log has."""
    return max((each.round for each in settled(log.splitlines()[-1:])), default=0)
