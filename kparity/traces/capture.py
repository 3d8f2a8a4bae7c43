"""Records the trace of an engine while it computes: a layer of a batch in memory, everything else on disk.

Every capture proves that tracing changed no bit: the tokens are scored without tracing first, and again with it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

import msgspec
import numpy as np

from kparity import __version__
from kparity.engines.base import Engine, Sink
from kparity.errors import DeviceFault, WrongInput
from kparity.host import files
from kparity.model.digest import file_sha256
from kparity.ops.spec import Array
from kparity.traces.dumps import Kept, appended
from kparity.traces.files import INDEX, SCHEMA, Begin, End, Recorded, Seal, Told
from kparity.traces.names import UNNAMED, Gatherer, Namer
from kparity.traces.parity import Stats
from kparity.traces.slots import ABSENT, HEAD_NORMS, TABLE, Key

PIECE_BYTES = 16 << 20
"""Logits that an engine hands out at a time."""


@dataclass(frozen=True)
class Wanted:
    """The tensors to be kept beside the statistics, which are always taken: slots by pattern (``ffn_*``), layers and
    positions by number, None for all. No slots keep none.
    """

    slots: Sequence[str] = ()
    layers: Sequence[int] | None = None
    positions: Sequence[int] | None = None

    def __call__(self, key: Key) -> bool:
        inside = self.layers is None or key.layer in self.layers or key.layer == ABSENT
        return inside and any(fnmatchcase(key.slot, pattern) for pattern in self.slots)

    def check(self, tokens: int, layers: int) -> None:
        """Raise WrongInput for what can match nothing."""
        for pattern in self.slots:
            if not any(fnmatchcase(slot, pattern) for slot in TABLE):
                raise WrongInput(f"no slot matches {pattern!r}; there are {', '.join(TABLE)}")
        for what, asked, count in (("layer", self.layers, layers), ("position", self.positions, tokens)):
            for number in asked or ():
                if not 0 <= number < count:
                    raise WrongInput(f"{what} {number} is asked for, and there are {count}, counted from 0")


@dataclass
class Slot:
    """What is known of a tensor so far."""

    names: tuple[str, ...]
    width: int
    kept: Kept | None
    tokens: int = 0
    stats: Stats | None = None
    last: Stats | None = None
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


class Recorder:
    """Takes the rows of every slot as they come: statistics and digests of all, and the wanted rows to their files."""

    def __init__(self, folder: Path, tokens: int, wanted: Wanted) -> None:
        self.folder, self.tokens, self.wanted = folder, tokens, wanted
        self.positions = sorted(set(range(tokens) if wanted.positions is None else wanted.positions))
        self.slots: dict[Key, Slot] = {}

    def take(self, key: Key, rows: Array, names: tuple[str, ...]) -> None:
        """The next rows [rows, width] of a slot; raises WrongInput where they do not follow those before."""
        slot = self.slots.get(key) or self._begun(key, rows, names)
        if rows.shape[1] != slot.width or slot.tokens + len(rows) > self.tokens:
            raise WrongInput(
                f"{key} came as {list(rows.shape)} after {slot.tokens} rows of {slot.width}, of {self.tokens} tokens; "
                "the engine gives it twice, or cuts it"
            )
        stats = Stats.of(rows)
        slot.stats = stats if slot.stats is None else slot.stats.merged(stats)
        slot.digest.update(_bytes(rows))
        if slot.kept:
            first, end = np.searchsorted(self.positions, (slot.tokens, slot.tokens + len(rows)))
            slot.kept.append(rows[np.array(self.positions[first:end], int) - slot.tokens])
        slot.tokens += len(rows)
        if slot.tokens == self.tokens:
            slot.last = Stats.of(rows[-1])

    def _begun(self, key: Key, rows: Array, names: tuple[str, ...]) -> Slot:
        width, kept = rows.shape[1], None
        if self.wanted(key):
            kept = Kept(self.folder / f"{key}.safetensors", str(key), len(self.positions), width)
        self.slots[key] = Slot(names, width, kept)
        return self.slots[key]

    def records(self) -> list[Recorded]:
        """What was recorded, in order of computation; raises WrongInput for a slot that is not whole."""
        return [self._record(key, self.slots[key]) for key in sorted(self.slots, key=lambda key: key.order)]

    def _record(self, key: Key, slot: Slot) -> Recorded:
        if slot.tokens != self.tokens or slot.stats is None or slot.last is None or (slot.kept and slot.kept.left):
            raise WrongInput(f"{key} has {slot.tokens} rows for {self.tokens} tokens; the engine cuts it")
        file, kept = (slot.kept.path.name, slot.kept.digest.hexdigest()) if slot.kept else ("", "")
        return Recorded(
            str(key), TABLE[key.slot].means, list(slot.names), slot.tokens, slot.width, Told.of(slot.stats),
            Told.of(slot.last), slot.digest.hexdigest(), file, kept,
        )  # fmt: skip


def capture(
    engine: Engine, spec: str, tokens: Sequence[int], folder: Path, wanted: Wanted | None = None,
    tick: Callable[[int, str], None] = lambda done, note: None,
) -> End:  # fmt: skip
    """Trace a sequence of tokens into a new folder and return the last record of it.

    ``tick`` is told of tokens that are done, two times each. An engine without traces gives its logits alone.
    Raises WrongInput for a folder that holds something, DeviceFault where tracing changes a bit of the logits: the
    folder is then no trace.
    """
    wanted = wanted or Wanted()
    wanted.check(len(tokens), engine.facts.layers)
    if len(tokens) > engine.facts.context:
        raise WrongInput(
            f"the prompt has {len(tokens)} tokens, and the context of {engine.facts.name} {engine.facts.context} "
            "positions; give a shorter prompt, or a larger --context where the model has one"
        )
    engine.check(tokens, 0)  # a capture that cannot end leaves a folder in which none can begin
    files.refuse_no_folder(folder)
    if any(folder.iterdir()):
        raise WrongInput(f"{folder} holds something already; name a new folder")
    names = _names(engine, tokens[0])
    recorder = begun(folder, engine, spec, tokens, wanted)
    step = max(1, PIECE_BYTES // (4 * engine.facts.vocab))
    pieces = [list(tokens[at : at + step]) for at in range(0, len(tokens), step)]
    untraced = []
    for piece in pieces:
        untraced.append(hashlib.sha256(_bytes(engine.score(piece))).digest())
        tick(len(piece), "without tracing")
    engine.reset()
    whole, gatherer = hashlib.sha256(), Gatherer(recorder.take, lambda key: True)
    for at, piece in enumerate(pieces):
        logits = _traced(engine, piece, _patterns(names), gatherer)
        gatherer.flush()
        if hashlib.sha256(_bytes(logits)).digest() != untraced[at]:
            raise DeviceFault(f"{engine.facts.name}: {_difference(engine, pieces[: at + 1], untraced[at])}")
        whole.update(_bytes(logits))
        tick(len(piece), "traced")
    why = "the engine gives no such tensor" if engine.facts.traces else "the engine gives no traces"
    return ended(folder, recorder, whole.hexdigest(), why, _unmapped(names))


def begun(
    folder: Path, engine: Engine, spec: str, tokens: Sequence[int], wanted: Wanted
) -> Recorder:  # fmt: skip
    """A folder that takes a trace."""
    recorder = Recorder(folder, len(tokens), wanted)
    begin = Begin(
        SCHEMA, __version__, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), spec, engine.facts,
        _sha256(engine.facts.model), list(tokens), list(wanted.slots),
        recorder.positions if wanted.slots else [],
    )  # fmt: skip
    _write(folder, [begin])
    return recorder


def ended(folder: Path, recorder: Recorder, logits_sha256: str, why: str, unmapped: dict[str, int]) -> End:
    """The last records of a trace; ``why`` is said of the slots that did not come and that every model has but
    for its sub-norms.
    """
    records = recorder.records()
    there = {Key.parse(record.key).slot for record in records}
    absent = {slot: why for slot in TABLE if slot not in there and slot not in HEAD_NORMS}
    end = End(len(records), logits_sha256, absent, unmapped)
    _write(folder, [*records, end])
    _write(folder, [Seal.of((folder / INDEX).read_bytes())])
    return end


def _traced(engine: Engine, tokens: Sequence[int], patterns: Sequence[str], sink: Sink) -> Array:
    """A trace, or the logits alone of an engine that gives none."""
    if engine.facts.traces:
        return engine.trace(tokens, patterns, sink)
    logits = engine.score(tokens)
    sink("logits", logits)
    return logits


def _sha256(path: str) -> str:
    """Of a model's file; nothing where it lies elsewhere, behind a server."""
    return file_sha256(Path(path)) if Path(path).is_file() else ""


def _difference(engine: Engine, pieces: Sequence[list[int]], untraced: bytes) -> str:
    """Why the logits of the last piece came out otherwise: scored again without tracing, they tell."""
    engine.reset()
    again = [hashlib.sha256(_bytes(engine.score(piece))).digest() for piece in pieces][-1]
    first = sum(map(len, pieces[:-1]))
    where = f"the logits of positions {first} to {first + len(pieces[-1]) - 1}"
    if again != untraced:
        return f"{where} differ from one pass to the next, without tracing too; no trace of it means anything"
    return f"tracing changed {where}: what was traced is not what serves, and there is no trace"


def _names(engine: Engine, token: int) -> list[str]:
    """Every name that the engine gives, in its order, of a pass over one token."""
    found: list[str] = []
    engine.reset()
    _traced(engine, [token], ["*"], lambda name, _values: found.append(name))
    engine.reset()
    return found


def _patterns(names: Sequence[str]) -> list[str]:
    """Of those that have a slot."""
    namer = Namer()
    mapped = [name for name in names if namer(name)]
    return list(dict.fromkeys("node_*:MUL_MAT" if UNNAMED.fullmatch(name) else escape(name) for name in mapped))


def _unmapped(names: Sequence[str]) -> dict[str, int]:
    namer = Namer()
    return dict(Counter(re.sub(r"\d+", "*", name) for name in names if not namer(name)))


def _bytes(values: Array) -> memoryview:
    return np.ascontiguousarray(values, "<f4").data


def _write(folder: Path, records: Sequence[msgspec.Struct]) -> None:
    with appended(folder / INDEX) as file:
        for record in records:
            file.write(msgspec.json.encode(record) + b"\n")
