"""What failed, kept in a folder: inputs, outputs, truth and limits, the text that was compiled, and what it was.

``<DIR>/<backend>_<case>_<kind>_<seed>/`` holds ``arrays.npz`` (``in_x``, ``got_y``, ``again_y`` of the second run,
``truth_y``, ``limit_y``, empty where every bit counts), ``dump.json`` and, where the backend compiles one, the text. It
appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kparity
from kparity import ops
from kparity.check.facts import facts
from kparity.check.own import Own
from kparity.check.record import Record
from kparity.check.select import Selected
from kparity.device import fingerprint, registry
from kparity.errors import WrongInput, named
from kparity.host import files
from kparity.host.revision import checkout, commit
from kparity.numerics.expected import Expected
from kparity.ops.assemble import Source
from kparity.ops.spec import DTYPES, Arg, Array, Case, Op

SCHEMA = "kparity-dump-v1"
UNREADABLE = (
    OSError, AttributeError, EOFError, LookupError, TypeError, ValueError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What a damaged archive raises, one that is locked or packed in a way of its own too."""
ARRAYS, ABOUT = "arrays.npz", "dump.json"


@dataclass(frozen=True)
class Dump:
    """One failure, read again."""

    record: Record
    op: Op
    case: Case
    inputs: list[Array]

    @property
    def facts(self) -> Expected:
        """Truth and bounds, computed anew from the inputs."""
        return Expected.of(self.op, self.case, self.inputs)


def folder_of(folder: Path, record: Record) -> Path:
    """Where a failure lies."""
    name = f"{record.backend}_{record.case}_{record.kind}_{record.seed}"
    return folder / re.sub(r"[^\w.=,+-]+", "_", name, flags=re.ASCII)


def write(
    folder: Path, record: Record, known: Expected, outputs: Sequence[Sequence[Array]], source: Source | None
) -> None:
    """Keep one failure, in place of an earlier one of the same backend, case, kind and seed."""
    target, made_in = folder_of(folder, record), Path(tempfile.mkdtemp(prefix=".", dir=folder))
    names = [arg.name for arg in known.op.outputs_of(known.case)]
    arrays = {f"in_{arg.name}": a for arg, a in zip(known.op.inputs_of(known.case), known.inputs, strict=True)}
    limits = [np.zeros(0) if bound.limit is None else bound.limit for bound in known.bounds]  # none: every bit
    for word, each in (("truth", known.truth), ("limit", limits), *zip(("got", "again"), outputs, strict=False)):
        arrays.update((f"{word}_{name}", array) for name, array in zip(names, each, strict=True))
    text = f"source{Path(source.path).suffix}" if source else None
    about = {
        "schema": SCHEMA, "kparity": kparity.__version__, "commit": commit(checkout()),
        "kernels_sha256": fingerprint.kernels(), "text": text, "text_sha256": source.sha256 if source else None,
        "bounds": {name: bound.derivation for name, bound in zip(names, known.bounds, strict=True)},
        "rerun": record.rerun, "record": record.as_dict(),
    }  # fmt: skip
    try:
        np.savez(made_in / ARRAYS, **arrays)  # type: ignore[arg-type]
        if source and text:
            (made_in / text).write_text(source.text, encoding="utf-8")
        (made_in / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        made_in.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        made_in.replace(target)
    finally:
        shutil.rmtree(made_in, ignore_errors=True)


def complete(folder: Path, record: Record, replayed: str = "", own: Own | None = None) -> None:
    """Keep a failure that its worker did not keep, because it died: without outputs."""
    with suppress(WrongInput):
        if not record.kind or _record(folder_of(folder, record)).reason == record.reason:
            return
    op, case = ops.get(record.op), Case.make(record.op, **record.params)
    known = load(Path(replayed)).facts if replayed else facts(op, case, record.kind, record.seed)
    source = None
    with suppress(WrongInput):  # its import ends a process
        adapter = own.adapter(record.backend) if own else registry.backend_class(record.backend)
        source = adapter.source(op, case, adapter.constants)
    write(folder, record, known, [], source)


def load(folder: Path) -> Dump:
    """Read one failure; raises WrongInput for what is none, or is not of the op as it is today."""
    record = _record(folder)
    op = ops.get(record.op)
    try:
        case = op.case(**record.params)
        if case.id != record.case or record.kind not in op.kinds(case):
            raise WrongInput(f"{folder}: {record.label} is no case and kind of {op.name}")
        with files.opened(folder / ARRAYS, "what --dump wrote") as stream, zipfile.ZipFile(stream) as arrays:
            inputs = [_input(folder, arrays, arg) for arg in op.inputs_of(case)]
    except UNREADABLE as problem:
        raise WrongInput(f"{folder} cannot be read ({problem})") from problem
    return Dump(record, op, case, inputs)


def _input(folder: Path, arrays: zipfile.ZipFile, arg: Arg) -> Array:
    """One array, of which nothing is unpacked before its header is what the op expects."""
    dtype = np.dtype(DTYPES[arg.dtype])
    with arrays.open(f"in_{arg.name}.npy") as member:
        np.lib.format.read_magic(member)
        shape, by_column, stored = np.lib.format.read_array_header_1_0(member)
        if shape != arg.shape or stored != dtype or by_column:
            message = f"{stored}{list(shape)}, expected {arg.dtype}{list(arg.shape)}"
            raise WrongInput(f"{folder / ARRAYS}: {arg.name} is {message}")
        data = bytearray(member.read(math.prod(shape) * dtype.itemsize))
    return np.frombuffer(data, dtype).reshape(shape)


def chosen(folder: Path, asked: Sequence[str]) -> tuple[list[Selected], list[str], int, list[str]]:
    """What the failure in a folder, or those in its folders, ask to run: cases, backends (those that were asked for,
    else each its own) and the seed of their names, and why some of several cannot be read; raises WrongInput.
    """
    every, unread = files.below(folder, ABOUT, "what --dump wrote", deep=True)
    places = [folder] if folder / ABOUT in every else [each.parent for each in every if each.parent.name[0] != "."]
    selected: list[Selected] = []
    seeds = set()
    for place in places:
        try:
            dump = load(place)
        except WrongInput as problem:
            if len(places) == 1:
                raise
            unread.append(str(problem))
            continue
        seeds.add(dump.record.seed)
        only = "" if asked else dump.record.backend
        selected.append(Selected(dump.case, (dump.record.kind,), str(place.resolve()), only))
    if len(seeds) != 1:
        none = unread[0] if unread else f"no folder with {ABOUT}"
        message = f"they are of seeds {sorted(seeds)}; name one of its folders" if seeds else none
        raise WrongInput(f"--replay {folder}: {message}")
    kept = list(dict.fromkeys(each.backend for each in selected))
    backends = list(asked) or named(kept, "backend", registry.names())
    return selected, backends, seeds.pop(), unread


def _record(folder: Path) -> Record:
    try:
        return Record.from_dict(files.read_json(folder / ABOUT, "what --dump wrote")["record"])
    except (WrongInput, ValueError, KeyError, TypeError) as problem:
        raise WrongInput(f"{folder / ABOUT} is not what kparity check --dump writes") from problem
