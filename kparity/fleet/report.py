"""What the ledgers of a fleet show: matrix, devices that differ from their equals, drift, and who is missing."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from kparity.errors import WrongInput
from kparity.fleet import store
from kparity.fleet.record import Burnt, Outcome, Tried, exit_code
from kparity.fleet.tally import Equals, Tally
from kparity.host import files
from kparity.host.text import number

ROUNDING = 2.0**-24
"""Half a unit in the last place of 1 in f32: of errors below it no ratio is told."""


class Part(msgspec.Struct, kw_only=True):
    """A part of a report."""


class Cell(Part):
    """A model of device on one backend and driver: how many devices passed in the last round, and how many failed."""

    model: str
    backend: str
    driver: str
    passed: int
    failed: int
    codes: dict[str, int]


class Named(Part):
    """A device that did not pass in the last round, or passed only when it was tried again."""

    device: str
    outcome: Outcome
    attempt: int
    reason: str


class Odd(Part):
    """A device that gave other bits than most of its ``equals``, in ``times`` of ``of`` receipts; its worst error, so
    many times the median of theirs.
    """

    device: str
    model: str
    backend: str
    driver: str
    times: int
    of: int
    equals: int
    error: str
    ratio: float | None


class Split(Part):
    """Equals of which no more than half agree: how many different bits, of how many devices."""

    model: str
    backend: str
    driver: str
    devices: int
    bits: int


class Far(Part):
    """An error, or the time (``unit_ns``), that is so many times the median of its equals."""

    device: str
    model: str
    backend: str
    what: str
    value: float
    median: float
    ratio: float


class Twins(Part):
    """Devices of the last round that are one by their UUID, so another one was not tested."""

    uuid: str
    backend: str
    devices: list[str]


class Burned(Part):
    """The last burn-in of a device: its log."""

    device: str
    log: Burnt


class Change(Part):
    """What is otherwise than the round before, and for which devices."""

    what: str
    devices: list[str]


class Report(Part):
    """Of all ledgers at a place. ``verified`` says whether the bytes of each receipt were held against the ledger."""

    place: str
    rounds: int
    receipts: int
    devices: int
    verified: bool
    outcomes: dict[str, int]
    matrix: list[Cell]
    named: list[Named]
    again: list[Named]
    odd: list[Odd]
    split: list[Split]
    far: list[Far]
    twins: list[Twins]
    burnins: list[Burned]
    drift: list[Change]
    damaged: list[str]
    unfinished: list[str]
    waiting: list[str]
    exit_code: int


BURNT = "device", "verdict", "rounds", "exact", "no-match", "unreachable", "margins", "floor", "failed gates"
"""Columns of the table of burn-ins; margins of the no-matches, and the floor, in nats."""


def burnt(found: Iterable[Burned]) -> list[tuple[str | int | None, ...]]:
    """The rows of that table."""
    return [
        (each.device, log.verdict, log.rounds, log.exact, log.no_match, log.unreachable,
         None if log.margin_most is None else f"median {number(log.margin_median or 0.0)}, up to "
         f"{number(log.margin_most)}", None if log.floor is None else number(log.floor), ", ".join(log.failed) or None)
        for each in found
        for log in [each.log]
    ]  # fmt: skip


def report(place: str, since: str | None = None, ratio: float = 2.0, verify: bool = False) -> Report:
    """The report of a place; raises WrongInput where no ledger can be read."""
    tally = read(place, verify)
    last = dict(sorted(tally.last.items()))
    before = read(since).last if since else tally.before
    if not tally.rounds:
        raise WrongInput(f"{place}: no round was begun there; name what kparity fleet wrote with --out")
    odd, split = list[Odd](), list[Split]()
    for equals in tally.equals.values():
        _differing(equals, odd, split)
    far = [each for equals in tally.equals.values() for each in _far(equals, ratio)]
    twins = _twins(last.values())
    outcomes = Counter(each.outcome for each in last.values())
    bad = bool(odd or split or twins or tally.damaged)
    code = exit_code(outcomes)
    return Report(
        place=place, rounds=tally.rounds, receipts=tally.receipts, devices=len(last), verified=verify,
        outcomes=dict(outcomes.most_common()), matrix=_matrix(last.values()),
        named=[_named(each) for each in last.values() if each.outcome != "passed"],
        again=[_named(each) for each in last.values() if each.outcome == "passed" and each.attempt > 1],
        odd=sorted(odd, key=lambda each: (each.model, each.backend, each.device)), split=split,
        far=sorted(far, key=lambda each: -each.ratio), twins=twins, drift=_drift(before, last),
        burnins=[Burned(device=each.device, log=each.log) for each in last.values() if each.log],
        damaged=tally.damaged, unfinished=tally.unfinished, waiting=tally.waiting,
        exit_code=1 if bad or code == 1 else 3 if tally.unfinished else code,
    )  # fmt: skip


def read(place: str, verify: bool = False) -> Tally:
    """The ledgers of a place; with ``verify`` their receipts, too."""
    tally = Tally()
    for folder, lines in store.ledgers(place):
        tally.read(folder, lines, _Checker(place, folder) if verify else None)
    return tally


class _Checker:
    """Says what is wrong with the file of a receipt."""

    def __init__(self, place: str, folder: str) -> None:
        self.remote = store.Remote(place) if "://" in place else None
        self.folder = Path(place, folder, store.RECEIPTS)
        self.logs = Path(place, folder, store.LOGS)

    def __call__(self, line: Tried) -> str:
        if line.log is None:
            return self._receipt(line)
        path = self.remote.log(line.log.name) if self.remote else self.logs / line.log.name
        same = store.digest(path, line.log.bytes) == line.log.sha256
        return "" if same else f"{line.log.name}: not what was counted ({line.device})"

    def _receipt(self, line: Tried) -> str:
        if self.remote:
            data = self.remote.receipt(line.receipt)
        else:
            path = self.folder / line.receipt
            data = files.read(path, "a receipt") if path.is_file() else None
        if data is None:
            return f"{line.receipt}: not there ({line.device})"
        return "" if hashlib.sha256(data).hexdigest() == line.sha256 else f"{line.receipt}: other bytes ({line.device})"


def _named(line: Tried) -> Named:
    return Named(device=line.device, outcome=line.outcome, attempt=line.attempt, reason=line.reason)


def _matrix(last: Iterable[Tried]) -> list[Cell]:
    cells: dict[tuple[str, str, str], Cell] = {}
    for line in last:
        for seen in line.seen:
            key = seen.model, seen.backend, seen.driver
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = Cell(model=key[0], backend=key[1], driver=key[2], passed=0, failed=0, codes={})
            if seen.verdict == "PASS":
                cell.passed += 1
            else:
                cell.failed += 1
                code = seen.code or seen.verdict
                cell.codes[code] = cell.codes.get(code, 0) + 1
    return [cells[key] for key in sorted(cells)]


def _differing(equals: Equals, odd: list[Odd], split: list[Split]) -> None:
    """Devices outside of the majority: more than half of the devices, each by the bits that it gave most often."""
    by_device: dict[str, dict[str, int]] = defaultdict(dict)
    for (device, bits), times in equals.rows.items():
        if bits:
            by_device[device][bits] = times
    usual = Counter(max(found, key=lambda bits: found[bits]) for found in by_device.values())
    if not usual:
        return
    right, devices = usual.most_common(1)[0]
    if 2 * devices <= len(by_device):
        split.append(Split(
            model=equals.model, backend=equals.backend, driver=equals.driver, devices=len(by_device), bits=len(usual),
        ))  # fmt: skip
        return
    medians: dict[str, float] | None = None
    for device, found in by_device.items():
        of = sum(found.values())
        times = of - found.get(right, 0)
        if times:
            medians = _medians(equals.errors) if medians is None else medians
            error, ratio = max(
                ((name, _ratio(value, medians[name])) for name, value in equals.errors.get(device, {}).items()),
                key=lambda each: each[1], default=("", None),
            )  # fmt: skip
            odd.append(Odd(
                device=device, model=equals.model, backend=equals.backend, driver=equals.driver, times=times, of=of,
                equals=len(by_device), error=error, ratio=ratio,
            ))  # fmt: skip


def _medians(measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    by_name: dict[str, list[float]] = defaultdict(list)
    for errors in measured.values():
        for name, value in errors.items():
            by_name[name].append(value)
    return {name: statistics.median(values) for name, values in by_name.items()}


def _ratio(value: float, median: float) -> float:
    return max(value, ROUNDING) / max(median, ROUNDING)


def _far(equals: Equals, most: float) -> Iterator[Far]:
    """What is far from the median of at least three equals; of two nobody can say which."""
    if len(equals.errors) > 2:
        medians = _medians(equals.errors)
        for device, errors in equals.errors.items():
            for name, value in errors.items():
                if (ratio := _ratio(value, medians[name])) >= most:
                    yield _is_far(equals, device, name, value, medians[name], ratio)
    if len(equals.unit_ns) > 2:
        median = statistics.median(equals.unit_ns.values())
        for device, took in equals.unit_ns.items():
            if took / median >= most:
                yield _is_far(equals, device, "unit_ns", took, median, took / median)


def _is_far(equals: Equals, device: str, what: str, value: float, median: float, ratio: float) -> Far:
    return Far(
        device=device, model=equals.model, backend=equals.backend, what=what, value=value, median=median, ratio=ratio,
    )  # fmt: skip


def _twins(last: Iterable[Tried]) -> list[Twins]:
    named: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in last:
        for seen in line.seen:
            if seen.uuid:
                named[seen.uuid, seen.backend].append(line.device)
    return [Twins(uuid=uuid, backend=name, devices=each) for (uuid, name), each in named.items() if len(each) > 1]


def _drift(before: Mapping[str, Tried], last: Mapping[str, Tried]) -> list[Change]:
    changes: dict[str, list[str]] = defaultdict(list)
    for device, line in last.items():
        if device not in before:
            if before:
                changes["not in the round before"].append(device)
            continue
        for what in _changed(before[device], line):
            changes[what].append(device)
    if before:
        changes["gone"] = sorted(before.keys() - last.keys())
    return [Change(what=what, devices=devices) for what, devices in sorted(changes.items()) if devices]


def _changed(old: Tried, new: Tried) -> Iterator[str]:
    if old.outcome != new.outcome:
        yield f"{old.outcome} → {new.outcome}"
    earlier = {each.backend: each for each in old.seen}
    for seen in new.seen:
        was = earlier.get(seen.backend)
        if was is None:
            continue
        if was.model != seen.model:
            yield f"{seen.backend}: {was.model} → {seen.model}"
        elif was.driver != seen.driver:
            yield f"{seen.backend}: driver {was.driver} → {seen.driver}"
        elif was.verdict != seen.verdict:
            yield f"{seen.backend}: {was.verdict} → {seen.verdict}"
        elif was.group == seen.group and was.bits != seen.bits:
            yield f"{seen.backend}: other bits under the same conditions"
        if was.model == seen.model and was.uuid and seen.uuid and was.uuid != seen.uuid:
            yield f"{seen.backend}: another device (UUID)"
