"""A receipt as a file: JSON read with suspicion, its canonical form, and its digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kparity.errors import WrongInput
from kparity.host import files

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://kparity.dev/receipt/v1"
SCHEMA_VERSION = "1.0.0"


def canonical(document: Any) -> bytes:
    """The JSON of a document with sorted keys, without spaces, in UTF-8: the same bytes for the same content.

    Numbers stand as Python's ``repr`` gives them: the shortest digits that read back as the same float. Raises
    ValueError for NaN and infinity.
    """
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def digest(statement: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a whole statement without the field ``predicate.sha256``."""
    predicate = {key: value for key, value in statement["predicate"].items() if key != "sha256"}
    return hashlib.sha256(canonical({**statement, "predicate": predicate})).hexdigest()


def parse(content: bytes, name: str) -> dict[str, Any]:
    """A JSON object, read as ``files.parse_json`` does; raises WrongInput for anything else.

    ``name`` says in the error where the text came from.
    """
    document = files.parse_json(content, name, "a receipt")
    if not isinstance(document, dict):
        raise WrongInput(f"{name} is not a receipt: a JSON {type(document).__name__} where an object must be")
    return document


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file, a statement or an envelope; raises WrongInput for anything else."""
    return parse(files.read(path, "a receipt"), str(path))


def is_envelope(document: dict[str, Any]) -> bool:
    """Whether an object has the fields of a DSSE envelope."""
    return {"payload", "payloadType", "signatures"} <= set(document)


def is_receipt(document: dict[str, Any]) -> bool:
    """Whether an object calls itself a receipt: a statement of our kind, or an envelope around an in-toto statement."""
    return document.get("predicateType") == PREDICATE or is_envelope(document)


def spare(output: str | Path | None, name: str = "--json") -> None:
    """Raise WrongInput where a result would be written over a receipt: ``name`` may have been meant as an input."""
    if output in (None, files.STDIO) or not Path(str(output)).is_file():
        return
    try:
        there = read(Path(str(output)))
    except WrongInput:
        return
    if is_receipt(there):
        raise WrongInput(f"{name} would write over the receipt {output}; name another file")
