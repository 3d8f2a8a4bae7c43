"""Makes receipts: what is the same for each (host, libraries, harness, identity, digest), and the atomic write."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kparity import __version__
from kparity.device import fingerprint, registry
from kparity.errors import WrongInput
from kparity.receipts.document import PREDICATE, SCHEMA_VERSION, STATEMENT, digest

READERS = ("gguf", "tokenizers", "xllamacpp")
"""Libraries that read models."""


def now() -> str:
    """The time, UTC, as receipts hold it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def subjects(predicate: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and SHA-256 of what a predicate speaks of: the model first, then every kernel once."""
    kernels = {kernel["id"]: kernel["sha256"] for run in predicate["runs"] for kernel in run["kernels"]}
    kernels |= {row["kernel"]: row["kernel_sha256"] for row in predicate.get("ops", []) if row.get("kernel")}
    model = predicate["model"]
    return [(model["name"], model["sha256"]), *sorted(kernels.items())]


def build(predicate: dict[str, Any], about: Iterable[tuple[str, str]] | None = None) -> dict[str, Any]:
    """A receipt from its predicate; ``about`` are names and digests of the subjects (default: model and kernels).

    What the predicate leaves out of ``schema_version``, ``id``, ``begun``, ``ended``, ``host``, ``libraries``,
    ``seeds``, ``baselines`` and of the fields of ``harness`` is added; its ``sha256`` is computed. Raises WrongInput
    for a number that JSON cannot hold.
    """
    moment = now()
    filled = {
        "schema_version": SCHEMA_VERSION, "id": str(uuid.uuid4()), "begun": moment, "ended": moment,
        "host": host(), "libraries": libraries(), "seeds": {}, "baselines": [], **predicate,
        "harness": {**harness(), **predicate.get("harness", {})},
    }  # fmt: skip
    pairs = subjects(filled) if about is None else about
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": value}} for name, value in pairs],
        "predicateType": PREDICATE,
        "predicate": filled,
    }
    return redigested(statement)


def redigested(statement: dict[str, Any]) -> dict[str, Any]:
    """The statement with the digest that fits it; raises WrongInput for a number that JSON cannot hold."""
    try:
        return {**statement, "predicate": {**statement["predicate"], "sha256": digest(statement)}}
    except ValueError as error:
        raise WrongInput(f"a receipt cannot hold a number that is not finite: {error}; write null for it") from error


def harness() -> dict[str, Any]:
    """Version and kernels of this installation; the commit is known to whoever asks git for it."""
    return {
        "version": __version__, "commit": "unknown", "dirty": None, "changed": [],
        "kernels_sha256": fingerprint.kernels(),
    }  # fmt: skip


def host() -> dict[str, Any]:
    """This machine: system, processor, cores, memory, interpreter, and the digest of its devices and drivers."""
    return {
        "system": platform.platform(), "machine": platform.machine(), "cpu": _cpu(), "cpus": os.cpu_count() or 1,
        "memory_bytes": _memory(), "python": platform.python_version(), "devices_sha256": fingerprint.host(),
    }  # fmt: skip


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
