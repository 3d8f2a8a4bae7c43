"""A file as far as it can be read: keys, the table of tensors, and the model in it where the engine takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kparity.errors import BadModel, WrongInput
from kparity.host import files
from kparity.host.text import printable
from kparity.model import foreign, types
from kparity.model.architectures import ARCHITECTURES, Architecture
from kparity.model.gguf_file import MAGIC, GgufFile, Listed, TensorInfo, embedded
from kparity.model.gguf_header import StringArray
from kparity.model.model import Model, load_model

_MOST = 1 << 62
"""Bytes of no tensor."""


@dataclass
class Patient:
    """``file`` is None where its header cannot be read, for the reason ``damage``."""

    path: Path
    file: GgufFile | None
    damage: str = ""
    model: Model | None = None
    refused: str = ""
    """Why the engine does not take it."""
    placed: dict[str, TensorInfo] = field(default_factory=dict)
    """Tensors whose type and place are known, readable by the engine or not."""
    strange: dict[str, str] = field(default_factory=dict)
    """Why the type of a tensor is not known, by its name."""

    @property
    def keys(self) -> Mapping[str, Any]:
        """Of the file; none where it cannot be read."""
        return self.file.keys if self.file else {}

    @property
    def listed(self) -> list[Listed]:
        """The table of its tensors."""
        return self.file.listed if self.file else []

    @property
    def arch(self) -> str:
        """The name of its architecture, empty without one."""
        return self.text("general.architecture")

    @property
    def graph(self) -> Architecture | None:
        """What is known of it."""
        return ARCHITECTURES.get(self.arch)

    def text(self, key: str) -> str:
        """A string of the keys, empty where there is none."""
        value = self.keys.get(key)
        return value if isinstance(value, str) else ""

    @property
    def tokens(self) -> list[str]:
        """Its vocabulary, empty where it has none that can be read."""
        found = self.keys.get("tokenizer.ggml.tokens")
        try:
            return list(found) if isinstance(found, StringArray) else []
        except BadModel:
            return []


@contextmanager
def opened(path: str | Path | None) -> Iterator[Patient]:
    """Raises BadModel for what is no GGUF file at all."""
    where = _gguf(path)
    try:
        file = GgufFile.open(where, "table")
    except BadModel as error:
        yield Patient(where, None, _short(error, where))
        return
    with closing(file):
        patient = Patient(where, file)
        _place(patient, file)
        with ExitStack() as stack:
            try:
                model = stack.enter_context(closing(load_model(where)))
                _ = model.tokenizer
                patient.model = model
            except WrongInput as error:
                patient.refused = _short(error, where)
            yield patient


def _gguf(path: str | Path | None) -> Path:
    """The path, where a file is there that begins as one."""
    where = embedded() if path is None else Path(path)
    try:
        with files.opened(where, "a GGUF file") as stream:
            start = stream.read(foreign.SEEN)
    except WrongInput as error:
        raise BadModel(str(error)) from None
    if not start.startswith(MAGIC):
        told = foreign.described(start) if start else "the file is empty"
        raise BadModel(f"{where}: {printable(told)}")
    return where


def _short(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _place(patient: Patient, file: GgufFile) -> None:
    """Give each tensor the type that its size says; where the file goes on, is cut off, or tensors overlap, the only
    one of its id, or the first that ends within the file.
    """
    for each, room, last in file.rooms():
        known = types.claimants(each.type_id)
        sizes = {} if 0 in each.shape else {kind: kind.size(each.shape) for kind in known}
        found = types.fitting(each.shape, each.type_id, room, file.alignment) if sizes else []
        if not found:
            most = _MOST if len(known) == 1 else room if last else -1
            found = [kind for kind, size in sizes.items() if size is not None and size <= most]
        size = sizes[found[0]] if found else None
        if size is None:
            patient.strange.setdefault(each.name, _why(each, known, room))
            continue
        info = TensorInfo(each.name, found[0], each.shape, file.base + each.offset, size)
        patient.placed.setdefault(each.name, info)


def _why(each: Listed, known: tuple[types.TensorType, ...], room: int) -> str:
    if 0 in each.shape:
        return f"its shape is {list(each.shape)}"
    if not known:
        return f"type {each.type_id} is nobody's"
    if any(not kind.block for kind in known):
        return types.reason(each.type_id, known)
    return types.sizes_told(each.shape, known, room)
