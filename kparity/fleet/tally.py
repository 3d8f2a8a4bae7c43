"""A ledger, read once, line by line: what is kept of a hundred thousand receipts is counts, and two rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kparity.fleet.record import Begun, Line, Tried


@dataclass
class Equals:
    """Devices whose bits must be the same: one model of device, backend, driver, kernels, model file and request."""

    backend: str
    model: str
    driver: str
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a device gave some bits."""
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Device → the largest of each error."""
    unit_ns: dict[str, float] = field(default_factory=dict)
    """Device → its last time."""


@dataclass
class Tally:
    """What ledgers hold. Devices are named with the folder of their ledger in front, where it is below the place."""

    equals: dict[str, Equals] = field(default_factory=dict)
    last: dict[str, Tried] = field(default_factory=dict)
    """Device → its last line in the last round of its ledger."""
    before: dict[str, Tried] = field(default_factory=dict)
    """The same in the round before."""
    waiting: list[str] = field(default_factory=list)
    """Devices that are expected in a round that is not over, and have no line in it."""
    unfinished: list[str] = field(default_factory=list)
    """Folders of such rounds."""
    rounds: int = 0
    receipts: int = 0
    damaged: list[str] = field(default_factory=list)
    """Receipts that are not what the ledger says."""

    def read(self, folder: str, lines: Iterable[Line], check: Callable[[Tried], str] | None = None) -> None:
        """Count a ledger; ``check`` says what is wrong with the file of a receipt."""
        head = f"{folder}/" if folder else ""
        before, current, begun, over = dict[str, Tried](), dict[str, Tried](), list[Begun](), True
        for line in lines:
            if isinstance(line, Tried):
                line.device = head + line.device
                current[line.device] = line
                self._count(line, check)
            elif isinstance(line, Begun):
                begun.append(line)
                before, current, over = current, {}, False
            else:
                over = True
        self.rounds += len(begun)
        self.before |= before
        self.last |= current
        if not over:
            self.unfinished.append(folder or ".")
            self.waiting += [head + name for name in begun[-1].expected if head + name not in current]

    def _count(self, line: Tried, check: Callable[[Tried], str] | None) -> None:
        if line.receipt or line.log:
            self.receipts += 1
            if check and (wrong := check(line)):
                self.damaged.append(wrong)
        for seen in line.seen:
            equals = self.equals.get(seen.group)
            if equals is None:
                equals = self.equals[seen.group] = Equals(seen.backend, seen.model, seen.driver)
            if seen.unit_ns:
                equals.unit_ns[line.device] = seen.unit_ns
            key = line.device, seen.bits
            equals.rows[key] += 1
            if equals.rows[key] > 1 and seen.bits:
                continue  # the same bits, the same errors
            errors = equals.errors.setdefault(line.device, {})
            for name, value in seen.errors.items():
                if value > errors.get(name, 0.0):
                    errors[name] = value
