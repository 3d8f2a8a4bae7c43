"""A trace as a folder: ``trace.jsonl``, a record a line, and a safetensors file for each tensor that was kept.

The first line says of what the trace is, the last one has the SHA-256 of those before it; a capture that did not come
to its end has none, and is refused, as is one whose lines were edited. Dumps of other programs are read too: a folder
of ``.npy`` and ``.safetensors`` files, or one of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from kparity.engines.base import Facts
from kparity.errors import WrongInput
from kparity.host import files
from kparity.traces.dumps import READERS, Rows, safetensors
from kparity.traces.names import Namer, Rule, map_of
from kparity.traces.parity import Layer, Stats, Trace
from kparity.traces.slots import ABSENT, TABLE, Key

SCHEMA: Literal["kparity-trace-v1"] = "kparity-trace-v1"
INDEX = "trace.jsonl"


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``parity.Stats`` as JSON: null is a statistic of too few finite elements."""

    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    nan_count: int
    inf_count: int
    zero_count: int
    count: int

    @classmethod
    def of(cls, stats: Stats) -> Told:
        """Of statistics."""
        return msgspec.convert({name: None if math.isnan(each) else each for name, each in vars(stats).items()}, cls)

    @property
    def stats(self) -> Stats:
        """The statistics."""
        low, high, mean, std = (
            math.nan if each is None else each for each in (self.min, self.max, self.mean, self.std)
        )
        return Stats(low, high, mean, std, self.nan_count, self.inf_count, self.zero_count, self.count)


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="begin"):
    """What is traced, and which rows of which tensors are kept."""

    schema: Literal["kparity-trace-v1"]
    kparity: str
    time: str
    engine: str
    facts: Facts
    model_sha256: str
    tokens: list[int]
    slots: list[str]
    """Patterns of the keys whose tensors are kept."""
    positions: list[int]
    """Rows that are kept of them."""


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tensor"):
    """A slot of a layer. ``sha256`` is of all rows as little-endian f32, ``kept_sha256`` of those in ``file``."""

    key: str
    means: str
    names: list[str]
    """What the engine calls it."""
    tokens: int
    width: int
    all_tokens: Told
    last_token: Told
    sha256: str
    file: str = ""
    kept_sha256: str = ""


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="end"):
    """The capture is whole. ``logits_sha256`` is of the logits of all positions, with and without tracing: both were
    computed, and a capture whose bits differ does not end.
    """

    tensors: int
    logits_sha256: str
    absent: dict[str, str]
    """Slots that the engine's graph does not have, and why."""
    unmapped: dict[str, int]
    """Names of the engine that have no slot, without their numbers, and how many tensors have each."""


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="seal"):
    """SHA-256 of all bytes before this line: a change by hand is seen, one by somebody who means it is not."""

    sha256: str

    @classmethod
    def of(cls, lines: bytes) -> Seal:
        """Of the lines before it."""
        return cls(hashlib.sha256(lines).hexdigest())


DECODER: msgspec.json.Decoder[Begin | Recorded | End | Seal] = msgspec.json.Decoder(Begin | Recorded | End | Seal)


@dataclass(frozen=True)
class Entry:
    """A slot of a layer, read again: statistics, and its rows where they were kept, with their positions."""

    key: Key
    means: str
    all_tokens: Stats
    last_token: Stats
    sha256: str = ""
    rows: Rows | None = None
    positions: Sequence[int] = ()


@dataclass(frozen=True)
class Loaded:
    """A trace or a dump; ``begin`` and ``end`` are of ours alone."""

    path: str
    entries: dict[Key, Entry]
    begin: Begin | None = None
    end: End | None = None
    left_out: list[str] = field(default_factory=list)
    """Of a dump: names that its map leaves out, and folders, of which none is read."""

    def layers(self, count: int) -> Trace:
        """The statistics of all layers, for the gates of ``parity``; a head is a slot of its own."""
        found: list[tuple[dict[str, Stats], dict[str, Stats]]] = [({}, {}) for _ in range(count)]
        for key, entry in self.entries.items():
            if key.layer != ABSENT:
                found[key.layer][0][key.name] = entry.all_tokens
                found[key.layer][1][key.name] = entry.last_token
        return [Layer(*each) for each in found]


def load(path: str | Path, map_path: str | None = None) -> Loaded:
    """A trace of ours, or a dump; raises WrongInput for anything that is not whole, or is of names that nobody maps."""
    folder = Path(path)
    if (folder / INDEX).exists():
        if map_path:
            raise WrongInput(f"{path} is a trace of kparity, whose names need no map; leave out --map")
        return _ours(folder)
    if not folder.exists():
        raise WrongInput(f"{path} is not there; name a trace, or a folder with .npy or .safetensors files")
    rules = map_of(_map(map_path), map_path) if map_path else []
    return _dump(folder, rules)


def _map(path: str) -> dict[str, str | None]:
    table = files.read_json(path, "a map from names to slots")
    try:
        return msgspec.convert(table, dict[str, str | None])
    except msgspec.ValidationError as error:
        raise WrongInput(f"{path} is no map from names to slots: {error}; see docs/traces.md") from None


def _ours(folder: Path) -> Loaded:
    path = folder / INDEX
    try:
        data = files.read(path, "a trace", 1 << 30)
        records = DECODER.decode_lines(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WrongInput(f"{path} is damaged, or was not finished ({error}); capture it again") from None
    tensors = [each for each in records if isinstance(each, Recorded)]
    if not records or not isinstance(begin := records[0], Begin) or len(records) > len(tensors) + 3:
        raise WrongInput(f"{path} does not begin as a trace does, or begins twice; capture it again")
    end, seal = records[-2:] if len(records) > 2 else (None, None)
    if not isinstance(end, End) or not isinstance(seal, Seal) or end.tensors != len(tensors):
        raise WrongInput(f"{folder} is a capture that did not come to its end, or an old one; capture it again")
    if seal != Seal.of(data[: data.rindex(b"\n", 0, -1) + 1]):
        raise WrongInput(f"{path} is not what was captured: a line was changed; capture it again")
    if not tensors:
        raise WrongInput(f"{folder} holds no tensor; capture it again")
    entries = {entry.key: entry for entry in (_entry(folder, each, begin) for each in tensors)}
    if len(entries) != len(tensors):
        raise WrongInput(f"{path} holds a slot twice; capture it again")
    return Loaded(str(folder), entries, begin, end)


def _entry(folder: Path, told: Recorded, begin: Begin) -> Entry:
    key, rows, positions = Key.parse(told.key), None, begin.positions
    if told.file:
        if Path(told.file).name != told.file:
            raise WrongInput(f"{folder}/{INDEX}: {told.file!r} lies outside of the trace; capture it again")
        held = dict(safetensors(folder / told.file))
        rows = held.get(told.key)
        if rows is None or (len(rows), rows.width) != (len(positions), told.width):
            raise WrongInput(f"{folder / told.file} does not hold {told.key} [{len(positions)}, {told.width}]")
        rows = Rows(rows.places, told.kept_sha256)
    stats = told.all_tokens.stats, told.last_token.stats
    return Entry(key, told.means, *stats, told.sha256, rows, positions if rows else ())


def _dump(path: Path, rules: Sequence[Rule]) -> Loaded:
    there = files.below(path, "*", "a dump")[0] if path.is_dir() else [path]
    found = [each for each in there if each.suffix in READERS]
    left_out = [f"folder {each.name}" for each in sorted(path.iterdir()) if each.is_dir()] if path.is_dir() else []
    if not found:
        inside = f", but the {', the '.join(left_out[:4])}, and none is searched; name one" if left_out else ""
        raise WrongInput(f"{path} holds no trace: no {INDEX}, and no file that ends in {' or '.join(READERS)}{inside}")
    namer, parts, unknown = Namer(rules), dict[Key, dict[int, Rows]](), list[str]()
    for file in found:
        for name, rows in READERS[file.suffix](file):
            if any(rule.names.fullmatch(name) and not rule.slot for rule in rules):
                left_out.append(name)
            elif (place := namer(name)) is None:
                unknown.append(name)
            elif parts.setdefault(place[0], {}).setdefault(place[1].part, rows) is not rows:
                raise WrongInput(f"{path}: {name!r} is {place[0]}, and so is another tensor; map one of them to null")
    if unknown:
        raise WrongInput(
            f"{path}: {len(unknown)} of its names are no slots, first {', '.join(map(repr, unknown[:4]))}; "
            "give --map with a slot for each, or null"
        )
    if not parts:
        raise WrongInput(f"{path} holds no tensor that is a slot; nothing could be compared")
    return Loaded(str(path), {key: _measured(key, rows, path) for key, rows in parts.items()}, left_out=left_out)


def _measured(key: Key, parts: dict[int, Rows], path: Path) -> Entry:
    """A tensor of a dump, with the statistics that ours brings along."""
    if len({len(each) for each in parts.values()}) > 1 or (len(parts) > 1 and sorted(parts) != list(range(len(parts)))):
        raise WrongInput(f"{path}: the parts of {key} do not stand side by side; map q, k and v to qkv/0, qkv/1, qkv/2")
    rows, stats = Rows(tuple(place for at in sorted(parts) for place in parts[at].places)), None
    for piece in rows.pieces():
        stats = Stats.of(piece) if stats is None else stats.merged(Stats.of(piece))
    assert stats is not None  # a place has rows
    last = Stats.of(rows.read(len(rows) - 1))
    return Entry(key, TABLE[key.slot].means, stats, last, "", rows, range(len(rows)))
