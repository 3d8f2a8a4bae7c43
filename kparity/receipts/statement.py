"""Makes receipts: what is the same for each (host, libraries, harness, identity, digest), and the atomic write."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec

from kparity import __version__, contracts
from kparity.device import fingerprint, registry
from kparity.errors import WrongInput
from kparity.host.revision import revision
from kparity.receipts.document import PREDICATE, SCHEMA_VERSION, STATEMENT, digest
from kparity.receipts.record import Baseline, Contract, Harness, Host, Model, OpRow, Predicate, Request, Run, Tried

READERS = ("gguf", "tokenizers", "xllamacpp")
"""Libraries that read models."""


def now() -> str:
    """The time, UTC, as receipts hold it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def predicate(
    kind: Literal["bench", "probe"],
    begun: str,
    request: Request,
    model: Model,
    fallback: Sequence[Tried],
    *,
    serving: str | None = None,
    seeds: Mapping[str, int] | None = None,
    runs: Sequence[Run] = (),
    baselines: Sequence[Baseline] = (),
    ops: Sequence[OpRow] = (),
) -> Predicate:
    """What was measured, with what is the same for every receipt of this moment and machine, and without a digest.

    ``begun`` is a time (``now``), ``serving`` the backend that serves, ``seeds`` the bases of made inputs.
    """
    judge = contracts.load(contracts.PROBE)
    return Predicate(
        kind=kind, begun=begun, request=request, model=model, fallback=list(fallback), serving=serving,
        seeds=dict(seeds or {}), runs=list(runs), baselines=list(baselines), ops=list(ops),
        contract=Contract(id=judge.id, version=judge.version), **common(),
    )  # fmt: skip


def common() -> dict[str, Any]:
    """What a receipt of this moment and machine has whatever it is of: fields of ``Predicate``."""
    return {
        "schema_version": SCHEMA_VERSION, "id": str(uuid.uuid4()), "ended": now(), "harness": harness(),
        "host": host(), "libraries": libraries(), "sha256": "",
    }  # fmt: skip


def statement(predicate: Predicate) -> dict[str, Any]:
    """The receipt of a predicate, as plain values with its digest; raises WrongInput for a number that JSON cannot
    hold.
    """
    return redigested({
        "_type": STATEMENT, "predicateType": PREDICATE, "predicate": msgspec.to_builtins(predicate),
        "subject": [{"name": name, "digest": {"sha256": value}} for name, value in predicate.subjects()],
    })  # fmt: skip


def redigested(statement: dict[str, Any]) -> dict[str, Any]:
    """The statement with the digest that fits it; raises WrongInput for a number that JSON cannot hold."""
    try:
        return {**statement, "predicate": {**statement["predicate"], "sha256": digest(statement)}}
    except ValueError as error:
        raise WrongInput(f"a receipt cannot hold a number that is not finite: {error}; write null for it") from error


def harness() -> Harness:
    """This installation: version, commit, changed files, kernels."""
    return Harness(version=__version__, kernels_sha256=fingerprint.kernels(), **revision())


def host() -> Host:
    """This machine: system, processor, cores, memory, interpreter, and the digest of its devices and drivers."""
    return Host(
        system=platform.platform(), machine=platform.machine(), cpu=_cpu(), cpus=os.cpu_count() or 1,
        memory_bytes=_memory(), python=platform.python_version(), devices_sha256=fingerprint.host(),
    )  # fmt: skip


def libraries() -> dict[str, str]:
    """Versions of the installed libraries that drive devices or read models."""
    names = dict.fromkeys(name for each in registry.builtin().values() for name in each.packages)
    return {name: version for name in (*names, *READERS) if (version := fingerprint.version(name))}


def _cpu() -> str:
    found = Path("/proc/cpuinfo")
    lines = found.read_text(errors="replace").splitlines() if found.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def refuse_unwritable(paths: Sequence[Path]) -> None:
    """Raise WrongInput where a folder does not exist: before minutes of measuring, not after them."""
    for path in paths:
        if not path.parent.is_dir():
            raise WrongInput(f"{path} cannot be written: {path.parent} is not a folder; create it first")


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a statement or an envelope: whole or not at all. Raises WrongInput where the folder cannot be written."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file by a text, whole or not at all; raises WrongInput where the folder cannot be written."""
    name = ""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            name = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise WrongInput(f"{path} cannot be written: {error.strerror}; name a writable folder") from error
