"""Tries backends in order, loudly: probe, reject with a line on stderr, fall back, and say which one serves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kparity.contracts import PROBE, load
from kparity.contracts.known import Issue, load_issues
from kparity.device.adapter import Backend, Device, DeviceInfo
from kparity.device.registry import default_order, drives_gpu, names, open_backend, refuse_environment
from kparity.device.usage import Counters, Evidence
from kparity.errors import KparityError, Refused, WrongInput, named
from kparity.gates.device import judged
from kparity.gates.table import of_depth
from kparity.gates.verdict import Row
from kparity.host import progress, streams
from kparity.model import Model, load_model
from kparity.probe import runner
from kparity.probe.messages import Request
from kparity.probe.runner import Found, Watch

if TYPE_CHECKING:
    from kparity.engine import Engine
    from kparity.probe.repeat import Kept

Log = Callable[[str], None]


def parse_order(text: str | Sequence[str] | None, no_gpu: bool = False) -> list[str]:
    """The backends to try: names checked, none twice, never empty.

    Without a list the default order is taken. ``no_gpu`` keeps the CPU backends of the list, and where none is left
    those of the default order.
    """
    given = default_order() if text is None else [text] if isinstance(text, str) else text
    if not any(name.strip() for name in given):
        raise WrongInput("no backend named; give a list such as --backends cuda,wgpu,cpu")
    order = named(given, "backend", names())
    if no_gpu:
        order = [name for name in order if not drives_gpu(name)] or [n for n in default_order() if not drives_gpu(n)]
    refuse_environment()
    return order


REQUIRED = "it was required"


def forced_by(require: str | None, order: Sequence[str]) -> str:
    """Why nothing may take the place of the first backend: it was required, or stands alone; empty where it may."""
    return REQUIRED if require else "no other backend was named" if len(order) == 1 else ""


def known_issues(places: Sequence[str | Path] = ()) -> tuple[Issue, ...]:
    """What refuses a device on this host: the open known issues of the shipped contracts, and of those given (files or
    folders). Raises WrongInput for a contract in bad form.
    """
    return load_issues(places, names())


@dataclass
class Outcome:
    """All rows of a dispatch, and the name of the backend that serves (empty where none does)."""

    rows: list[Row] = field(default_factory=list)
    serving: str = ""
    engine: Engine | None = None
    """Of the one that serves, where it was opened in this process."""

    @property
    def exit_code(self) -> int:
        """0 pass; 1 a backend ran and failed a gate, though another serves; 3 nothing serves, or what serves was not
        probed at every gate.
        """
        if not self.serving:
            return 3
        return 1 if any(row.ran_and_failed for row in self.rows) else 3 if any(row.shallow for row in self.rows) else 0


def rows_in_order(order: Sequence[str], request: Request, cached: bool, watch: Watch) -> Generator[Found, None, None]:
    """Rows in order, from the cache or from probes, which end when this is closed.

    The device of a remembered row is opened: the row is of that device, and of what is loaded for it, or of no use.
    """
    from kparity.probe import cache

    keys = cache.Keys(request)
    known = {name: hit for name in order if cached and (hit := cache.get(keys, name))}
    with runner.probing([*known], replace(request, depth="open"), watch) as opened:
        for now in opened:
            if not cache.confirmed(known[now.row.backend], now):
                del known[now.row.backend]
    missing = [name for name in order if name not in known]
    with runner.probing(missing, request, watch) as fresh:
        for name in order:
            if name not in known:
                known[name] = next(fresh)
                cache.put(keys, known[name])
            yield known[name]


def announce(row: Row, order: Sequence[str], serving: str, forced: str, log: Log) -> None:
    """The line of a backend that may not serve."""
    if serving:
        next_step = f"{serving} serves already"
    elif forced:
        next_step = f"refusing, {forced}"
    else:
        next_step = "no backend left" if row.backend == order[-1] else "attempting fallback"
    log(load(PROBE).rejected(row.backend, row.code, row.reason, next_step))


def _watching(task: progress.Task, order: Sequence[str], depth: str) -> Watch:
    """Shows the stage of every process that works, and how many gates of all are behind."""
    gates = [gate.name for gate in of_depth(depth)]
    behind, task.total = dict.fromkeys(order, 0), len(gates) * len(order)

    def watch(stages: Sequence[tuple[str, str, str]]) -> None:
        at = {name: stage for name, stage, _ in stages}
        for name in order:
            if name not in at:
                behind[name] = len(gates)
            elif at[name] in gates:
                behind[name] = gates.index(at[name])
        task.done = sum(behind.values())
        notes = ", ".join(note for _, _, note in stages if note)
        task.stage(*(f"{name}: {stage}" for name, stage in at.items()), note=notes)

    return watch


def probe_all(
    order: Sequence[str],
    request: Request,
    *,
    cached: bool = False,
    forced: str = "",
    log: Log = streams.log,
    serve: Callable[[Row, Kept | None], Engine | None] | None = None,
) -> Outcome:
    """Probe every backend of the list; the first accepted one is the one that would serve.

    ``serve`` opens an accepted one here, or rejects its row; the first that it opens is the last that is looked at.
    """
    outcome = Outcome()
    with ExitStack() as stack:
        task = stack.enter_context(progress.task("probe"))
        watch = _watching(task, order, request.depth)
        rows = stack.enter_context(closing(rows_in_order(order, request, cached, watch)))
        for row, kept, _ in rows:
            outcome.rows.append(row)
            if row.accepted and not outcome.serving and serve:
                task.stage(f"{row.backend}: opening it here")
                outcome.engine = serve(row, kept)
            if row.accepted and not outcome.serving:
                outcome.serving = row.backend
                label = outcome.engine.backend.info.label if outcome.engine else row.label
                log(load(PROBE).serving(label, row.proved))
            elif not row.accepted:
                announce(row, order, outcome.serving, forced, log)
            if outcome.engine:
                break
    return outcome


@dataclass(frozen=True)
class Serving:
    """How an accepted backend serves: beyond what was proved, and how often a known step is repeated (``select``)."""

    beyond_proof: bool = False
    canary: int | None = None
    canary_seconds: float = 0.0


@dataclass
class Selection:
    """A backend that was accepted and opened in this process, with its engine, and every verdict on the way to it."""

    engine: Engine
    rows: list[Row]
    fall_back: Callable[[], Selection]
    """Closes this one and gives the next that is accepted; raises Refused where nothing may take its place."""

    @property
    def backend(self) -> Backend:
        """The opened backend."""
        return self.engine.backend

    @property
    def name(self) -> str:
        """Its name."""
        return self.backend.name

    def close(self) -> None:
        """Release the device."""
        self.engine.close()


def select(
    backends: Sequence[str] | str | None = None,
    model: Model | str | Path | None = None,
    *,
    require: str | None = None,
    require_gpu: bool = False,
    trust_claims: bool = False,
    no_gpu: bool = False,
    depth: str = "full",
    cached: bool = False,
    timeout: float = 0.0,
    act: str = "token",
    kv: str = "f16",
    context: int = 0,
    beyond_proof: bool = False,
    canary: int | None = None,
    canary_seconds: float = 0.0,
    contracts: Sequence[str | Path] = (),
    log: Log = streams.log,
) -> Selection:
    """The first backend of the list that passes its probe, opened in this process.

    ``model`` is a path, a loaded model, or None for the embedded one. Probes run in child processes; after acceptance
    this process opens the device itself and repeats on it what was probed (64 positions, a prompt, recorded steps, late
    positions), so that a device that changed in between is caught and the next backend is tried. ``contracts`` are
    files or folders of contracts whose known issues are heeded beside the shipped ones. Raises Refused where nothing
    may serve, or where ``require`` (or a list of one) is rejected.

    The engine raises Refused where it would go beyond the last position that was proved, unless ``beyond_proof``; a
    full probe proves the whole ``context``. While it serves, a known step is compared bit by bit after every ``canary``
    runs (None: 256, or more where that would take more than 1 % of the time; 0: never) or ``canary_seconds``: where it
    differs, a line says so and the engine raises Tripped; ``Selection.fall_back`` gives the next backend.
    """
    order = parse_order([require] if require else backends, no_gpu and not require)
    loaded = model if isinstance(model, Model) else load_model(model)
    path = None if model is None else str(loaded.path)
    request = Request(path, depth, timeout=timeout, require_gpu=require_gpu, act=act, kv=kv,
                      issues=known_issues(contracts), context=context, trust_claims=trust_claims)  # fmt: skip
    forced = forced_by(require, order)
    serving = Serving(beyond_proof, canary, canary_seconds)
    return first_accepted(order, request, loaded, cached=cached, forced=forced, serving=serving, log=log)


def first_accepted(
    order: Sequence[str], request: Request, model: Model, *, cached: bool = False, forced: str = "",
    serving: Serving | None = None, log: Log = streams.log, tick: Log = lambda note: None,
) -> Selection:  # fmt: skip
    """The same of a list that was checked, and of a request for a model that is open. ``tick`` is called with the name
    of what is opened here, and then as the engine's.
    """
    outcome = probe_all(
        order, request, cached=cached, forced=forced, log=log,
        serve=lambda row, kept: _serve(row, kept, model, request, tick),
    )  # fmt: skip
    if not outcome.engine:
        raise _refused(order, forced)
    engine, row, how = outcome.engine, outcome.rows[-1], serving or Serving()
    engine.proved = None if how.beyond_proof else -1 if row.proved is None else row.proved
    rest = order[order.index(row.backend) + 1 :]

    def fall_back() -> Selection:
        engine.close()
        if forced or not rest:
            raise _refused(order, forced)
        return first_accepted(rest, request, model, cached=cached, serving=serving, log=log, tick=tick)

    if how.canary != 0:
        from kparity.engine.canary import Canary

        then = f"refusing, {forced}" if forced else "attempting fallback" if rest else "no backend left"
        engine.canary = Canary(
            engine, how.canary or 0, how.canary_seconds,
            lambda why: log(load(PROBE).tripped(row.backend, "KP-CANARY", why, then)),
        )  # fmt: skip
    return Selection(engine, outcome.rows, fall_back)


def _refused(order: Sequence[str], forced: str) -> Refused:
    if forced:
        required = "was required and may not serve" if forced == REQUIRED else f"may not serve and {forced}"
        return Refused(f"{order[0]} {required}; nothing was downgraded")
    return Refused(f"no backend of {','.join(order)} may serve")


def _serve(row: Row, kept: Kept | None, model: Model, request: Request, tick: Log) -> Engine | None:
    """Open the device here and repeat what was probed; None, with the row rejected, where it does not hold any more."""
    from kparity.engine import Engine
    from kparity.probe.repeat import differs

    engine: Engine | None = None
    counters, code = Counters(), "KP-CHANGED"
    tick(row.backend)
    try:
        backend = open_backend(row.backend, request.index)
        engine = Engine(model, backend, act=request.act, kv=request.kv, context=request.context, tick=tick)
        info = engine.backend.info
        changed = Device(**row.device).another(info.plain) if row.device else "the probe told none"
        if changed:
            reason = f"this process got another device than the probe: {changed}"
        elif kept is None:
            reason = "the probe left no reference logits"
        else:
            for rows in (1, engine.chunk):
                engine.launch_each(rows)
            started = time.monotonic()
            reason = differs(engine, kept, load(PROBE))
            row.timings_ms["repeat"] = (time.monotonic() - started) * 1e3
            if not reason and info.kind == "gpu":
                code, reason = _refuted(row, counters.of(os.getpid()), info, model)
            if not reason:
                return engine
    except KparityError as error:
        reason = f"the serving process cannot open it: {error}"
    if engine is not None:
        engine.close()
    row.status, row.code, row.reason = "rejected", code, reason
    return None


def _refuted(row: Row, found: Evidence, info: DeviceInfo, model: Model) -> tuple[str, str]:
    """Code and reason where drivers say that this process used no GPU; what is unknown of its identity goes on record.

    That the row is verified is the probe's: here the memory of a card cannot be seen to go again.
    """
    from kparity.probe.repeat import STEPS

    claimed = (row.device_step_ms or 0.0) * 1e6 * STEPS
    _, _, gate = judged(info, found, model.n_bytes, claimed, load(PROBE))
    if not info.identified:
        row.evidence.append("whether this process has the card that was probed is not known: what it repeats holds")
    return (gate.code, f"in the serving process: {gate.reason}") if gate else ("KP-CHANGED", "")
