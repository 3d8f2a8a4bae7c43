"""Rounds, one after another: both servers at once, a row each, and the alarm of an hour that goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime, timezone
from typing import Any

import msgspec

from kparity import contracts
from kparity.burnin.compare import bucket, margins, tie
from kparity.burnin.log import Log
from kparity.burnin.prompts import Prompt, Source
from kparity.burnin.record import BUCKETS, Mode, Row, State
from kparity.burnin.wire import Answer
from kparity.errors import WrongInput
from kparity.host import progress

Ask = Callable[[dict[str, Any]], Coroutine[Any, Any, tuple[Answer, Answer]]]
"""Puts one request to both servers."""


class Settings(msgspec.Struct, frozen=True):
    """What a burn-in does: ``rounds`` of them, for ever where None, ``sleep_s`` between two; ``seed`` where both draw
    with the same noise.
    """

    v1: str
    v2: str
    rounds: int | None = None
    sleep_s: float = 0.0
    max_tokens: int = 128
    logprobs: int = 5
    chat: bool = True
    temperature: float = 0.0
    seed: int | None = None
    against_itself: bool = False
    halt_on_spike: bool = False

    @property
    def mode(self) -> Mode:
        """How rounds are counted."""
        return "aa" if self.against_itself else "greedy" if self.seed is None else "seeded"

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """What both servers get."""
        asked: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_tokens, "stream": True}
        asked["stream_options"] = {"include_usage": True}
        if self.seed is not None:
            asked["seed"] = self.seed
        if self.chat:
            told = {"logprobs": True, "top_logprobs": self.logprobs} if self.logprobs else {}
            return {"messages": list(prompt.messages), **asked, **told}
        if len(prompt.messages) > 1:
            raise WrongInput(f"prompt {prompt.text[:40]!r} is a chat; completions take single prompts")
        return {"prompt": prompt.text, **asked, **({"logprobs": self.logprobs} if self.logprobs else {})}


class Ended(msgspec.Struct):
    """How a run of rounds ended: the rounds of each bucket, and why it may not go on, if so."""

    rounds: int
    buckets: dict[str, int]
    halted: str = ""

    @property
    def exit_code(self) -> int:
        """1 halted, 3 where no round had a reply of both sides."""
        return 1 if self.halted else 0 if sum(self.buckets[name] for name in BUCKETS[:3]) else 3


def burn(settings: Settings, source: Source, log: Log, ask: Ask, say: Callable[[str], None]) -> Ended:
    """Go on where the log ends, until the rounds are done or an hour goes wrong."""
    log.keep(_begun(settings, source, log.state, say))
    loop = asyncio.new_event_loop()  # asyncio.run would go on where wait_for loses the end that a signal brings
    try:
        return loop.run_until_complete(_rounds(settings, source, log, ask, say))
    except BaseException:
        loop.set_exception_handler(lambda *_: None)  # of what is left unfinished nobody has to hear
        raise
    finally:
        loop.close()


def _begun(settings: Settings, source: Source, state: State, say: Callable[[str], None]) -> State:
    """The state in which this run starts: other prompts begin anew, and other servers are another burn-in."""
    if state.v1 and (state.v1, state.v2) != (settings.v1, settings.v2) and not settings.against_itself:
        raise WrongInput(
            f"the log is of {state.v1} and {state.v2}, not of {settings.v1} and {settings.v2}; give --log another file"
        )
    place = state.next_prompt
    if state.prompts and state.prompts != source.digest:
        say("the prompts are others than before: they begin anew")
        place = 0
    servers = {} if settings.against_itself else {"v1": settings.v1, "v2": settings.v2}
    return msgspec.structs.replace(state, next_prompt=_within(source, place), prompts=source.digest, **servers)


def _within(source: Source, place: int) -> int:
    return place % source.size if source.size else place


async def _rounds(settings: Settings, source: Source, log: Log, ask: Ask, say: Callable[[str], None]) -> Ended:
    counted, alarms = Counter[str](dict.fromkeys(BUCKETS, 0)), dict[str, str]()
    began, before, clock = time.monotonic(), log.state.elapsed, _offset()
    with progress.task("burn-in", settings.rounds) as task:
        while settings.rounds is None or task.done < settings.rounds:
            state = log.state
            at = state.next_prompt
            prompt = await source.at(at)
            row = _row(state.rounds + 1, prompt, at, *await ask(settings.body(prompt)))
            row.mode, row.elapsed = settings.mode, round(before + time.monotonic() - began, 3)
            row.tie = tie(row.margin, log.floor) if row.bucket == "no-match" else "none"
            row.clock, clock = _jump(clock), _offset()
            log.add(row)
            log.keep(msgspec.structs.replace(
                state, rounds=row.round, next_prompt=_within(source, at + 1), elapsed=row.elapsed
            ))  # fmt: skip
            counted[row.bucket] += 1
            task.advance()
            task.stage("rounds", note=", ".join(f"{name} {count}" for name, count in counted.items() if count))
            before_it, alarms = alarms, _alarms(row, log)
            for name, alarm in alarms.items():
                if name not in before_it:
                    say(f"round {row.round}: {alarm}")
            if "spike" in alarms and settings.halt_on_spike:
                log.keep(msgspec.structs.replace(log.state, halted=f"round {row.round}: {alarms['spike']}"))
                break
            await asyncio.sleep(settings.sleep_s)
    return Ended(sum(counted.values()), dict(counted), log.state.halted)


def _alarms(row: Row, log: Log) -> dict[str, str]:
    """What is wrong with a round and with the last hour, by a name that stays the same while it lasts."""
    sides = {"v1": row.v1, "v2": row.v2}
    found = {
        f"{name} {side.fault}": f"{name}: {side.fault}{': ' if side.why else ''}{side.why}"
        for name, side in sides.items()
        if side.fault
    }
    spike = "" if row.mode == "aa" else spiked(log)
    return {**found, "spike": spike} if spike else found


def spiked(log: Log) -> str:
    """What is wrong with the last hour, if more of its rounds differ than may."""
    judge = contracts.load(contracts.CUTOVER)
    most, least = judge.threshold("no_match_per_hour"), judge.threshold("spike_rounds")
    n, differ = len(log.recent), sum(each == "no-match" for _, each in log.recent)
    if not least.holds(n) or most.holds(differ / n):
        return ""
    return f"{differ} of {n} rounds of the last hour are no-match, more than {most.value:.0%}"


def _row(number: int, prompt: Prompt, place: int, v1: Answer, v2: Answer) -> Row:
    found, prefix = bucket(v1.side, v2.side)
    margin, noise = margins(v1.steps, v2.steps)
    return Row(
        round=number, time=datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        elapsed=0.0, prompt=place, digest=prompt.digest, kind=prompt.kind, asked=prompt.text[:200], mode="greedy",
        bucket=found, prefix=prefix, v1=v1.side, v2=v2.side, margin=margin, noise=noise,
    )  # fmt: skip


def _jump(before: float) -> float:
    """Seconds by which the wall clock was set since its offset was another, 0 for what is mere drift."""
    jump = _offset() - before
    return 0.0 if contracts.load(contracts.CUTOVER).threshold("clock_jump_s").holds(abs(jump)) else round(jump, 3)


def _offset() -> float:
    """Seconds of the wall clock beyond those of the clock that nobody sets."""
    return time.time() - time.monotonic()
