"""Makes receipts: what is the same for each of one moment and machine, and the digest."""

from __future__ import annotations

import json
import os
import platform
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec

from kparity import __version__, contracts
from kparity.device import fingerprint, registry
from kparity.errors import WrongInput
from kparity.host import files
from kparity.host.revision import revision
from kparity.receipts import cutover
from kparity.receipts.cutover import Cutover
from kparity.receipts.document import PREDICATE, SCHEMA_VERSION, STATEMENT, digest
from kparity.receipts.record import Baseline, Contract, Harness, Host, Model, Predicate, Request, Row, Run, Tried

READERS = ("gguf", "tokenizers", "xllamacpp")
"""Libraries that read models."""


def now() -> str:
    """The time, UTC, as receipts hold it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def predicate(
    kind: Literal["bench", "probe"],
    begun: str,
    request: Request,
    model: Model | None,
    fallback: Sequence[Tried],
    *,
    serving: str | None = None,
    seeds: Mapping[str, int] | None = None,
    nonce: str = "",
    runs: Sequence[Run] = (),
    baselines: Sequence[Baseline] = (),
    ops: Sequence[Row] = (),
) -> Predicate:
    """What was measured, with what is the same for every receipt of this moment and machine, and without a digest.

    ``begun`` is a time (``now``), ``serving`` the backend that serves, ``seeds`` the bases of made inputs, ``nonce``
    what tokens were drawn from.
    """
    judge = contracts.load(contracts.PROBE)
    return Predicate(
        kind=kind, begun=begun, request=request, model=model, fallback=list(fallback), serving=serving,
        seeds=dict(seeds or {}), nonce=nonce, runs=list(runs), baselines=list(baselines), ops=list(ops),
        contract=Contract(id=judge.id, version=judge.version), **common(),
    )  # fmt: skip


def common() -> dict[str, Any]:
    """What a receipt of this moment and machine has whatever it is of: fields of ``Head``."""
    packages = dict.fromkeys(name for each in registry.builtin().values() for name in each.packages)
    return {
        "schema_version": SCHEMA_VERSION, "id": str(uuid.uuid4()), "ended": now(), "sha256": "",
        "harness": Harness(version=__version__, kernels_sha256=fingerprint.kernels(), **revision()), "host": host(),
        "libraries": {name: found for name in (*packages, *READERS) if (found := fingerprint.version(name))},
    }  # fmt: skip


def host() -> Host:
    """This machine: system, processor, cores, memory, interpreter, and the digest of its devices and drivers."""
    path = Path("/proc/cpuinfo")
    cpu = re.search(r"^model name[ \t]*:[ \t]*(.*\S)", path.read_text(errors="replace") if path.exists() else "", re.M)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        memory = None
    return Host(
        system=platform.platform(), machine=platform.machine(), cpu=" ".join(cpu[1].split()) if cpu else "",
        cpus=os.cpu_count() or 1, memory_bytes=memory, python=platform.python_version(),
        devices_sha256=fingerprint.host(),
    )  # fmt: skip


def statement(predicate: Predicate | Cutover) -> dict[str, Any]:
    """The receipt of a predicate, as plain values with its digest; raises WrongInput for a number that JSON cannot
    hold.
    """
    kind = cutover.PREDICATE if isinstance(predicate, Cutover) else PREDICATE
    return redigested({
        "_type": STATEMENT, "predicateType": kind, "predicate": msgspec.to_builtins(predicate),
        "subject": [{"name": name, "digest": {"sha256": value}} for name, value in predicate.subjects()],
    })  # fmt: skip


def redigested(statement: dict[str, Any]) -> dict[str, Any]:
    """The statement with the digest that fits it; raises WrongInput for a number that JSON cannot hold."""
    try:
        return {**statement, "predicate": {**statement["predicate"], "sha256": digest(statement)}}
    except ValueError as error:
        raise WrongInput(f"a receipt cannot hold a number that is not finite: {error}; write null for it") from error


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a statement or an envelope: whole or not at all. Raises WrongInput where it cannot be written."""
    files.write(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
