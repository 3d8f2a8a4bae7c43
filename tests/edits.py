"""Edits of JSON documents: what stands at a path (keys and indices, by dots) is set, changed or taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Edit = Callable[[dict[str, Any]], Any]


def at(document: Any, path: str) -> Any:
    """What stands at a path, the whole document for an empty one; raises KeyError."""
    for part in filter(None, path.split(".")):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def put(path: str, value: Any) -> Edit:
    """Set what stands at a path."""
    head, _, last = path.rpartition(".")

    def edit(document: dict[str, Any]) -> None:
        parent = at(document, head)
        parent[int(last) if isinstance(parent, list) else last] = value

    return edit


def change(path: str, **values: Any) -> Edit:
    """Set fields of what stands at a path."""
    return lambda document: at(document, path).update(values)


def drop(*paths: str) -> Edit:
    """Take away what stands at paths, in order."""

    def edit(document: dict[str, Any]) -> None:
        for path in paths:
            head, _, last = path.rpartition(".")
            parent = at(document, head)
            del parent[int(last) if isinstance(parent, list) else last]

    return edit


def both(*edits: Edit) -> Edit:
    """Several edits, in order."""
    return lambda document: [edit(document) for edit in edits]


def times(path: str, factor: float) -> Edit:
    """Multiply what stands at a path."""
    return lambda document: put(path, at(document, path) * factor)(document)


def more(path: str, number: float) -> Edit:
    """Add to what stands at a path."""
    return lambda document: put(path, at(document, path) + number)(document)
