"""Verdicts that were measured before, for exactly the same backend, device, driver, kernels, model and contract.

What is remembered is judged again when it is read: the cache holds measures, and the contract has the limits. An entry
is signed with a key that only its user can read, so that what somebody wrote there by hand is no entry.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from kparity import contracts
from kparity.device import fingerprint
from kparity.device.adapter import Device
from kparity.device.declared import Declared
from kparity.device.names import GROUP
from kparity.device.registry import BUILTIN, declared
from kparity.gates.judge import lacking, rejudged
from kparity.gates.verdict import Row
from kparity.host import cachedir
from kparity.model import load_model
from kparity.probe.messages import Request
from kparity.probe.repeat import Kept
from kparity.probe.runner import Found

FLEETING = (
    "KP-PROBE-HANG", "KP-PROBE-OOM", "KP-PROBE-REFERENCE", "KP-VACUOUS", "KP-FALSE-GPU", "KP-NOT-VERIFIED",
)  # fmt: skip
"""Codes that say more about the moment than about the backend: never remembered. Nor is what is unavailable: it costs
next to nothing to ask again, and may be there by then.
"""
KEY_BYTES = 32


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One remembered row; ``kept`` is what the serving process repeats, ``key`` what the row depends on,
    ``loaded`` the files that its process had loaded, with their state.
    """

    key: dict[str, Any]
    row: Row
    kept: Kept | None
    loaded: Mapping[str, str]


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Keys:
    """The parts of a key that every backend of one call shares, taken once."""

    def __init__(self, request: Request) -> None:
        model = load_model(request.model)
        contract = contracts.load(contracts.PROBE)
        self.request = request
        self.shared = {
            "host": fingerprint.host(),
            "kernels": fingerprint.kernels(),
            "model": model.sha256,
            "contract": [contract.id, contract.version, _digest(contract.document)],
            "request": msgspec.json.decode(msgspec.json.encode(replace(request, model=None, timeout=0.0))),
        }
        model.close()

    def of(self, backend: str) -> dict[str, Any]:
        """Everything that a backend's verdict depends on."""
        key = {**self.shared, "backend": backend}
        if backend not in BUILTIN:  # of those of this package everything is in the shared part
            files = fingerprint.distribution(GROUP, backend)
            key |= {"adapter": files, "drivers": fingerprint.drivers(declared(backend) or Declared())}
        return key

    def path(self, backend: str) -> Path:
        """The entry of a backend, another for another key; raises OSError where no folder is this user's alone."""
        return cachedir.folder("verdicts") / f"{backend}-{_digest(self.of(backend))[:32]}.json"


def _secret(home: Path) -> bytes:
    """The key that signs this user's entries, made at its first use."""
    path = home / "key"
    if not path.exists():
        cachedir.write(path, secrets.token_bytes(KEY_BYTES))
    key = cachedir.read(path)
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is no key; remove it")
    return key


def get(keys: Keys, backend: str) -> Found | None:
    """A remembered row, or None; what is damaged, or was not written by ``put``, is a miss, and so is a verdict that
    the contract of now would not give, or whose process had loaded a file that is another one by now.
    """
    try:
        path = keys.path(backend)
        signature, _, body = cachedir.read(path).partition(b"\n")
        if not hmac.compare_digest(signature, _signature(path.parent, body)):
            return None
        entry = msgspec.json.decode(body, type=Entry)
        msgspec.convert(entry.row.device, Device | None)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    row = entry.row
    if entry.key != keys.of(backend) or row.backend != backend or row.depth != keys.request.depth:
        return None
    gates = rejudged(row.gates, row.depth, contracts.load(contracts.PROBE))
    if gates is None or row.flaw or row.accepted == bool(lacking(gates, row.depth)):
        return None
    if not entry.loaded or any(fingerprint.state(path) != state for path, state in entry.loaded.items()):
        return None
    row.gates, row.cached = gates, True
    return Found(row, entry.kept, entry.loaded)


def confirmed(known: Found, now: Found) -> bool:
    """Whether a device that was opened just now is that of a remembered row, loads no file that is not known of it, and
    passes the gate ``open``, whose verdict of now the row gets. A GPU that tells no identity is never the same.
    """
    passed = now.row.accepted and now.row.device == known.row.device
    passed = passed and now.row.device is not None and Device(**now.row.device).identified
    if passed:
        known.row.gates[0] = now.row.gates[0]
    return passed and now.loaded.items() <= known.loaded.items()


def _signature(home: Path, body: bytes) -> bytes:
    return hmac.new(_secret(home), body, hashlib.sha256).hexdigest().encode()


def put(keys: Keys, found: Found) -> None:
    """Remember a row of a device that was opened and not refused, atomically; a cache that cannot be written is no
    error.
    """
    row, kept, loaded = found
    if row.code in FLEETING or row.status == "unavailable" or lacking(row.gates, "open"):
        return
    try:
        path = keys.path(row.backend)
        body = msgspec.json.encode(Entry(keys.of(row.backend), row, kept, loaded))
        cachedir.write(path, _signature(path.parent, body) + b"\n" + body)
    except OSError:
        return
