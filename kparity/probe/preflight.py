"""What this machine has for each backend: packages, driver libraries, manifests, device nodes, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kparity.device.codes import explain
from kparity.device.declared import Declared
from kparity.device.fingerprint import environment, version
from kparity.device.registry import declared
from kparity.device.remedies import SHELLS, Reason
from kparity.errors import UnknownName
from kparity.gates.verdict import Row
from kparity.host import progress
from kparity.probe import runner
from kparity.probe.messages import Request

USUAL_PATHS = (
    "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/opt/rocm/lib",
)  # fmt: skip


@dataclass
class Availability:
    """One backend on this machine."""

    backend: str
    available: bool
    label: str
    code: str
    reason: str
    device: dict[str, Any] | None
    packages: dict[str, str]
    libraries: dict[str, str]
    manifests: list[str]
    nodes: dict[str, str]
    environment: dict[str, str]
    searched: list[str]
    remedies: dict[str, list[str]]


@lru_cache(maxsize=1)
def search_paths() -> list[str]:
    """Folders in which the dynamic linker looks for libraries, in its order, where they exist."""
    paths = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    for file in (Path("/etc/ld.so.conf"), *sorted(Path("/etc/ld.so.conf.d").glob("*.conf"))):
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        paths += [line.strip() for line in lines if line.strip().startswith("/")]
    return [path for path in dict.fromkeys([*paths, *USUAL_PATHS]) if Path(path).is_dir()]


def _library(name: str) -> str:
    """The path of a library, any version of it, or an empty string."""
    for folder in map(Path, search_paths()):
        for path in (folder / name, *sorted(folder.glob(f"{name}.*"))):
            if path.exists():
                return str(path)
    return ""


def _node(path: str) -> str:
    if not Path(path).exists():
        return "missing"
    return "accessible" if os.access(path, os.R_OK | os.W_OK) else "no permission"


def _manifests(folders: Sequence[str]) -> list[str]:
    return [str(path) for folder in folders for path in sorted(Path(folder).glob("*")) if path.is_file()]


def examine(backends: Sequence[str], timeout: float = 30.0) -> list[Availability]:
    """Open every backend in a process of its own and say what it found, or what it lacks."""
    with progress.task("preflight"), runner.probing(backends, Request(depth="open", timeout=timeout)) as rows:
        return [_availability(row) for row, *_ in rows]


def _availability(row: Row) -> Availability:
    needs = declared(row.backend) or Declared()
    return Availability(
        backend=row.backend, available=row.accepted, label=row.label, code=row.code,
        reason=row.reason.removeprefix("unavailable: "), device=row.device,
        packages={name: version(name) for name in needs.packages},
        libraries={name: _library(name) for name in needs.libraries},
        manifests=_manifests(needs.manifests),
        nodes={path: _node(path) for path in needs.nodes},
        environment=environment(needs.environment),
        searched=search_paths() if needs.libraries else [],
        remedies={} if row.accepted else remedies(row.code),
    )  # fmt: skip


def remedies(code: str) -> dict[str, list[str]]:
    """Lines for sh, fish and pwsh that may make a backend available."""
    try:
        reason = explain(code)
    except UnknownName:
        reason = Reason(code, "", "see the reason")
    return {shell: reason.lines(shell) for shell in SHELLS}
