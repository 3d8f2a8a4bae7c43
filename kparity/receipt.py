"""A receipt: what was measured, bound to what it was measured on. Written atomically; its digest covers everything
else in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kparity import fingerprint
from kparity.errors import WrongInput

LIBRARIES = (*fingerprint.LIBRARIES, "gguf", "tokenizers")


def _versions() -> dict[str, str]:
    return {name: version for name in LIBRARIES if (version := fingerprint.version(name))}


def digest(document: dict[str, Any]) -> str:
    """SHA-256 of the receipt without its own digest, keys sorted."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def bind(result: dict[str, Any]) -> dict[str, Any]:
    """Wrap a probe's result with time, host, library versions and kernel digest."""
    document: dict[str, Any] = {
        "schema": "kparity-probe-receipt-v1",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": {
            "system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count(),
            "python": platform.python_version(), "devices_sha256": fingerprint.host(),
        },
        "libraries": _versions(),
        "kernels_sha256": fingerprint.kernels(),
        "result": result,
    }  # fmt: skip
    return {**document, "sha256": digest(document)}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a receipt; raises WrongInput where the folder does not exist or cannot be written."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(bind(result), file, indent=2, ensure_ascii=False)
            file.write("\n")
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise WrongInput(f"the receipt {path} cannot be written: {error.strerror}; name a writable folder") from error
