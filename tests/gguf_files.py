"""GGUF files for tests: small models, and files that differ from a good one in a key, a tensor or some bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kparity.model import writer
from kparity.model.writer import TINY, Entry, Spec, write, write_file

__all__ = ["ARRAY", "BOOL", "F32", "I32", "STRING", "TINY", "U32", "U64", "Entry", "Spec", "altered", "entry", "write"]

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10


def entry(name: str, shape: tuple[int, ...], type_id: int, raw: bytes) -> Entry:
    """A tensor of given bytes."""
    return Entry(name, shape, type_id, len(raw), lambda: [raw])


def altered(
    folder: Path,
    spec: Spec = TINY,
    keys: Mapping[str, tuple[int, Any] | None] | None = None,
    tensors: Mapping[str, Entry | None] | None = None,
    version: int = 3,
) -> Path:
    """A model with keys and tensors put in place of the usual ones, added, or (None) left out.

    A key whose name begins with a dot is one of the architecture.
    """
    stored = {name: (kind, value) for name, kind, value in writer.keys(spec)}
    stored |= {spec.arch + name if name[0] == "." else name: value for name, value in (keys or {}).items()}
    entries = {each.name: each for each in writer.tensors(spec)} | dict(tensors or {})
    table = [(name, *value) for name, value in stored.items() if value is not None]
    return write_file(folder / "model.gguf", table, [each for each in entries.values() if each is not None], version)
