"""A round over a Ray cluster: a task for each device, and a line in the ledger for whatever becomes of it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kparity.errors import Refused, WrongInput
from kparity.fleet import plan
from kparity.fleet.hand import Errand, Hand
from kparity.fleet.here import Here
from kparity.fleet.judged import judge
from kparity.fleet.plan import Node, Slot
from kparity.fleet.ray import Cluster
from kparity.fleet.record import AGAIN, SETTLED, Begun, Command, Ended, Outcome, Per, Tried
from kparity.fleet.store import Store
from kparity.host import progress
from kparity.receipts.statement import now

PAPER: dict[Command, str] = {"probe": "--receipt", "bench": "--receipt", "check": "--json"}
"""The option by which a command writes what is kept of it."""
MARGIN = 15.0
"""Seconds beyond its deadline in which a node must say that a command was late."""
LOOK = 0.5


@dataclass(frozen=True)
class Asked:
    """What a round is to do. ``words`` are the local command's options, ``expected`` names of devices, ``count`` how
    many there must be (0: as many as there are); spans are seconds: of a command, and until a task has its place.
    """

    command: Command
    words: list[str]
    per: Per
    expected: list[str] = field(default_factory=list)
    count: int = 0
    deadline: float = 1800.0
    patience: float = 60.0
    retries: int = 1
    resume: bool = False
    backends: bool = False
    """Whether the words name backends."""
    rounds: int = 0
    """Of a burn-in, in all."""


@dataclass
class Claim:
    """A task: first it says which device it holds, then it runs the command there, unless nobody wants that."""

    slot: Slot
    actor: Any
    where: Any
    began: float
    device: str = ""
    accelerator: str = ""
    running: Any = None
    placed: bool = False
    over: bool = False
    fetched: Any = None
    """How far its log has come, where it is one of a burn-in."""


class Round:
    """A round that is under way."""

    kind: ClassVar[Any] = Hand

    def __init__(self, cluster: Cluster | Here, store: Store, asked: Asked, say: Callable[[str], None]) -> None:
        self.cluster, self.store, self.asked, self.say = cluster, store, asked, say
        self.found: dict[str, Tried] = {}
        self.attempts: dict[str, int] = {}
        self.begun = self._begin()

    def _begin(self) -> Begun:
        """The round that goes on, or a new one; raises WrongInput where what goes on was another."""
        lines, asked = self.store.known(), self.asked
        rounds = [line for line in lines if isinstance(line, Begun)]
        last = rounds[-1].round if rounds else 0
        if asked.resume:
            if not rounds:
                raise WrongInput("--resume: no round was begun there; leave it out")
            if (rounds[-1].command, rounds[-1].words, rounds[-1].per) != (asked.command, self._words(), asked.per):
                before = " ".join(["kparity fleet", rounds[-1].command, "--", *rounds[-1].words])
                raise WrongInput(f"--resume: round {last} was {before}; ask for the same, or leave --resume out")
            for line in lines:
                if isinstance(line, Tried) and line.round == last:
                    self.attempts[line.device] = line.attempt
                    if self._settled(line):
                        self.found[line.device] = line
            self.say(f"round {last} goes on: {len(self.found)} devices are done")
            return rounds[-1]
        return Begun(round=last + 1, time=now(), command=asked.command, words=self._words(), per=asked.per, expected=[])

    def _words(self) -> list[str]:
        """What the round is known by."""
        return self.asked.words

    def _settled(self, line: Tried) -> bool:
        """Whether a device is not run again: its receipt is as it was written."""
        if line.outcome not in SETTLED:
            return False
        data = self.store.receipt(line.receipt) if line.receipt else None
        return data is not None and hashlib.sha256(data).hexdigest() == line.sha256

    def run(self) -> dict[str, Tried]:
        """Device → what became of it; raises Refused where there is nothing to test and nothing is expected."""
        asked, began = self.asked, time.monotonic()
        nodes = self.cluster.nodes(asked.per)
        expected = [*dict.fromkeys([*asked.expected, *self.begun.expected])]
        if not asked.expected:
            expected = [*dict.fromkeys([*expected, *(device for node in nodes for device in node.devices)])]
        if not expected and not asked.count:
            what = (
                "GPU, nor a resource CUDA, ROCM or VULKAN; --per node tests its nodes" if asked.per == "gpu" else "CPU"
            )
            raise Refused(f"no node of the cluster has a {what}")
        if not asked.resume:
            self.begun.expected, self.begun.count = expected, asked.count
            self.store.add(self.begun)
        with progress.task(f"fleet {asked.command}", len(expected)) as task:
            for attempt in range(1 + asked.retries):
                if attempt:
                    nodes = self._again()
                if attempt == 0 or self._open(nodes):
                    self._pass(nodes, task)
        self._missing(expected)
        self.store.add(Ended(round=self.begun.round, time=now(), seconds=round(time.monotonic() - began, 3)))
        return self.found

    def _wanted(self, device: str) -> bool:
        return device not in self.found or self.found[device].outcome in AGAIN

    def _open(self, nodes: Iterable[Node]) -> list[Node]:
        return [node for node in nodes if any(map(self._wanted, node.devices))]

    def _again(self) -> list[Node]:
        """The nodes, as soon as those are back on which something must be tried again, or patience is over."""
        until = time.monotonic() + self.asked.patience
        while True:
            nodes = self.cluster.nodes(self.asked.per)
            there = {device for node in nodes for device in node.devices}
            lost = [name for name, each in self.found.items() if each.outcome in AGAIN and name not in there]
            if not [name for name in lost if "?" not in name] or time.monotonic() > until:
                return nodes
            time.sleep(1.0)

    def _pass(self, nodes: Iterable[Node], task: progress.Task) -> None:
        """Run what is wanted on the nodes, until each of their claims is over."""
        claims = [self._claim(slot) for node in self._open(nodes) for slot in node.slots if self._meant(slot)]
        told, leaving = False, set[str]()
        while waiting := [each for each in claims if not each.over]:
            for claim in self.cluster.ready(waiting, lambda each: each.running or each.where, LOOK):
                self._step(claim)
            self._look(waiting)
            taken = self.cluster.leaving() - leaving
            leaving |= taken
            for name in sorted({each.slot.node for each in waiting if each.slot.node_id in taken}):
                self.say(f"{name}: its machine is being taken away")
            for claim in waiting:
                self._heed_time(claim)
            self._release(claims)
            task.done = len([each for each in self.found.values() if each.outcome not in AGAIN])
            if not told and all(each.placed or each.over for each in claims):
                told = True
                self.say(f"{sum(each.placed for each in claims)} of {len(claims)} tasks have their place")

    def _meant(self, slot: Slot) -> bool:
        return not slot.device or self._wanted(slot.device)

    def _claim(self, slot: Slot) -> Claim:
        actor = self.cluster.actor(self.kind, slot)
        return Claim(slot, actor, actor.where.remote(), time.monotonic(), slot.device)

    def _step(self, claim: Claim) -> None:
        """What a task said is heeded, and what failed is named."""
        stage = "running" if claim.running else "where"
        try:
            said = self.cluster.get(claim.running or claim.where)
        except self.cluster.errors as error:
            self._settle(claim, *self.cluster.named(error, claim.slot.node_id))
            return
        if stage == "where":
            self._placed(claim, said)
        else:
            self._came(claim, said)

    def _placed(self, claim: Claim, accelerator: str) -> None:
        claim.placed, claim.accelerator = True, accelerator
        claim.device = claim.slot.device or plan.device(claim.slot.node, accelerator)
        if not self._wanted(claim.device):
            claim.over = True
            return
        claim.began = time.monotonic()
        claim.running = self._start(claim)

    def _start(self, claim: Claim) -> Any:
        """Let the command run where the claim is; what will be its errand."""
        slot, words = claim.slot, [self.asked.command, *self.asked.words]
        if slot.backend and not self.asked.backends:
            words += ["-b", slot.backend]
        if slot.index:
            words += ["--index", str(slot.index)]
        return claim.actor.run.remote(words, PAPER[self.asked.command], self.asked.deadline)

    def _look(self, claims: Iterable[Claim]) -> None:
        """Look at what runs; a receipt is there when it is done."""

    def _came(self, claim: Claim, errand: Errand) -> None:
        errand = Errand(*errand)
        judgement = judge(errand, self.asked.command, self.asked.per == "gpu")
        name = ""
        if judgement.sha256 and errand.receipt is not None:
            name = f"{self.begun.round:04}-{self._safe(claim.device)}-{self._attempt(claim.device)}.json"
            self.store.keep(name, errand.receipt)
        self._line(
            claim, judgement.outcome, judgement.reason, seconds=round(errand.seconds, 3), exit_code=errand.exit_code,
            receipt=name, sha256=judgement.sha256, seen=[*judgement.seen],
            tail="" if judgement.outcome == "passed" else errand.tail,
        )  # fmt: skip

    def _safe(self, device: str) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]", "_", device)[:120]

    def _settle(self, claim: Claim, outcome: Outcome, reason: str, **more: Any) -> None:
        if not claim.device:
            claim.device = self._unnamed(claim.slot)
        self._line(claim, outcome, reason, seconds=round(time.monotonic() - claim.began, 3), **more)

    def _unnamed(self, slot: Slot) -> str:
        """A name for a GPU that Ray never gave: those of its node that are left over, in their order."""
        at = 0
        while (name := plan.device(slot.node, f"?{at}")) in self.found and self.found[name].attempt >= self._turn(name):
            at += 1
        return name

    def _turn(self, device: str) -> int:
        return self.attempts.get(device, 0)

    def _attempt(self, device: str) -> int:
        return self.attempts.get(device, 0) + 1

    def _line(self, claim: Claim, outcome: Outcome, reason: str, **more: Any) -> None:
        claim.over = True
        place = f"{claim.slot.node_id}{f':{claim.accelerator}' if claim.accelerator else ''}"
        self._write(Tried(
            round=self.begun.round, time=now(), device=claim.device, outcome=outcome, reason=reason,
            attempt=self._attempt(claim.device), accelerator=claim.slot.model, place=place, **more,
        ))  # fmt: skip

    def _write(self, line: Tried) -> None:
        self.attempts[line.device] = line.attempt
        self.found[line.device] = line
        self.store.add(line)
        if line.outcome != "passed":
            self.say(f"{line.device}: {line.outcome}: {line.reason}")

    def _heed_time(self, claim: Claim) -> None:
        took = time.monotonic() - claim.began
        if claim.over:
            return
        if not claim.running and took > self.asked.patience:
            gone = self.cluster.gone(claim.slot.node_id)
            why = f"its node is gone: {gone}" if gone else f"Ray had no room for it on its node for {took:.0f} s"
            self._settle(claim, "lost" if gone else "no-place", why)
            self.cluster.end(claim.actor)
        elif claim.running and took > self.asked.deadline + MARGIN:
            self._settle(claim, "late", f"its node said nothing for {took:.0f} s")
            self.cluster.end(claim.actor)

    def _release(self, claims: Iterable[Claim]) -> None:
        """Give devices back: what is over keeps its GPU until each task of its node has one, or two could get the
        same.
        """
        choosing = {each.slot.node_id for each in claims if not (each.placed or each.over)}
        for each in claims:
            if each.over and each.actor is not None and each.slot.node_id not in choosing:
                self.cluster.end(each.actor)
                each.actor = None

    def _missing(self, expected: Iterable[str]) -> None:
        """A line for each device that was expected and never tried."""
        lacking = [name for name in expected if name not in self.found]
        for name in lacking:
            node = name.partition("/")[0]
            if any(each.startswith(f"{node}/gpu?") for each in self.found):
                continue  # its node is there, and a line without its number stands for it
            self._write(Tried(
                round=self.begun.round, time=now(), device=name, outcome="missing", attempt=self._attempt(name),
                reason="nothing in the cluster answers to its name",
            ))  # fmt: skip
        count = self.asked.count or self.begun.count
        for at in range(count - len(self.found)):
            self._write(Tried(
                round=self.begun.round, time=now(), device=f"?{at}", outcome="missing", attempt=self._attempt(f"?{at}"),
                reason=f"{count} devices were expected",
            ))  # fmt: skip
