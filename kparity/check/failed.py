"""What failed last, kept in the cache for ``kparity check --lf``: backend, case and kind of every failure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

from kparity.check.record import FAIL, PASS, Record
from kparity.check.select import Selected
from kparity.host import cachedir

FILE = "failed.json"
Failed = set[tuple[str, str, str]]
"""Backend, case, kind; without a kind the whole case failed."""


def load() -> Failed:
    """What is known to fail; nothing where nothing is kept, or what is kept cannot be trusted."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(cachedir.read(cachedir.folder("check") / FILE), type=Failed)
    return set()


def keep(records: Sequence[Record]) -> None:
    """Note what failed, and forget what passed; what did not run stays as it was."""
    failed = load()
    failed -= {(each.backend, each.case, kind) for each in records if each.outcome == PASS for kind in (each.kind, "")}
    failed |= {(each.backend, each.case, each.kind) for each in records if each.outcome == FAIL}
    with suppress(OSError):  # a cache that cannot be used is no error
        cachedir.write(cachedir.folder("check") / FILE, msgspec.json.encode(sorted(failed)))


def only(chosen: Sequence[Selected], backends: Sequence[str], failed: Failed) -> list[Selected]:
    """Of what was chosen that which failed last, on the backend on which it did; of no ``backends`` on any."""
    kept = []
    for name in sorted({backend for backend, _, _ in failed if not backends or backend in backends}):
        for each in chosen:
            kinds = tuple(k for k in each.kinds if {(name, each.case.id, k), (name, each.case.id, "")} & failed)
            if kinds and each.backend in ("", name):
                kept.append(replace(each, kinds=kinds, backend=name))
    return kept
