"""What lies in a folder: documents of kparity as typed records, receipts with what was found wrong with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from kparity.bisect.record import Bisection
from kparity.check.document import Document as Check
from kparity.diagnose.document import Document as Diagnosis
from kparity.errors import WrongInput
from kparity.host import files
from kparity.ladder.record import Document as Ladder
from kparity.probe.document import Document as Probe
from kparity.receipts import document, store
from kparity.traces.diff import TraceDiff

WHAT = "a JSON document of kparity"
RECORDS: dict[str, type] = {
    "kparity-ladder-v1": Ladder,
    "kparity-diagnosis-v1": Diagnosis,
    "kparity-bisect-v1": Bisection,
    "kparity-trace-diff-v1": TraceDiff,
    "kparity-probe-v1": Probe,
    "kparity-check-v1": Check,
}
"""Schema → its record, in the order of the page."""


@dataclass
class Folder:
    """What was found: which files were read, file → record, the receipts, why other documents of kparity cannot be
    shown, and which JSON files are none.
    """

    paths: list[Path] = field(default_factory=list)
    documents: dict[str, Any] = field(default_factory=dict)
    receipts: list[store.Stored] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def read(place: Path) -> Folder:
    """What lies below a folder, or in one file; raises WrongInput where nothing there can be shown."""
    alone = not place.is_dir()
    paths, problems = ([place], list[str]()) if alone else files.below(place, "*.json", "a folder of documents", True)
    found, receipts = Folder(paths, unreadable=problems), dict[str, dict[str, Any]]()
    for path in paths:
        name = path.name if alone else str(path.relative_to(place))
        try:
            content = files.read_json(path, WHAT)
            if isinstance(content, dict) and document.is_receipt(content):
                receipts[name] = content
            elif isinstance(content, dict) and stem(content.get("schema")) in map(stem, RECORDS):
                found.documents[name] = _record(content, path)
            else:
                found.others.append(f"{path} is no document that is shown")
        except WrongInput as error:
            found.unreadable.append(str(error))
    found.receipts, refused = store.verified(receipts)
    found.unreadable += refused
    if not found.documents and not found.receipts:
        said = [*found.unreadable, *found.others] or [f"{place} holds no JSON file"]
        more = f" (and {len(said) - 1} other files)" if said[1:] else ""
        raise WrongInput(f"{said[0]}{more}; name {WHAT}, or a folder with some (--json, --receipt)")
    order = [*RECORDS.values()]
    found.documents = dict(sorted(found.documents.items(), key=lambda each: order.index(type(each[1]))))
    return found


def stem(schema: object) -> str:
    """The name of a schema without its version."""
    return str(schema).rpartition("-v")[0]


def _record(content: dict[str, Any], path: Path) -> Any:
    kind = RECORDS.get(content["schema"])
    if kind is None:
        raise WrongInput(f"{path} has the schema {str(content['schema'])[:60]!r}; shown are {', '.join(RECORDS)}")
    try:
        return msgspec.convert(restored(content, inspect.type_info(kind)), kind, strict=kind is not Check)
    except (msgspec.ValidationError, ValueError) as error:
        raise WrongInput(f"{path} is no {content['schema']} of this version: {error}; write it again") from error


def restored(value: Any, kind: inspect.Type) -> Any:
    """The JSON of a record with NaN where a number that is not finite stands as null."""
    if isinstance(kind, inspect.Metadata):
        return restored(value, kind.type)
    if isinstance(kind, inspect.FloatType):
        return math.nan if value is None else value
    if isinstance(kind, inspect.UnionType) and value is not None:
        inner = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        return restored(value, inner[0]) if len(inner) == 1 else value
    if isinstance(kind, (inspect.StructType, inspect.DataclassType)) and isinstance(value, dict):
        known = {each.encode_name: each.type for each in kind.fields}
        return {name: restored(each, known[name]) if name in known else each for name, each in value.items()}
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return {name: restored(each, kind.value_type) for name, each in value.items()}
    if isinstance(kind, (inspect.ListType, inspect.VarTupleType)) and isinstance(value, list):
        return [restored(each, kind.item_type) for each in value]
    if isinstance(kind, inspect.TupleType) and isinstance(value, list) and len(value) == len(kind.item_types):
        return [restored(*both) for both in zip(value, kind.item_types, strict=True)]
    return value
