"""Signatures: a DSSE envelope (https://github.com/secure-systems-lab/dsse) around a statement, signed with Ed25519."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kparity.errors import WrongInput
from kparity.host import files, install
from kparity.receipts.document import canonical, is_envelope, parse
from kparity.receipts.findings import Finding

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MOST = 64
"""Signatures of an envelope that are tried."""
_P = 2**255 - 19
_WEAK = {0, 1, _P - 1} | {
    int.from_bytes(bytes.fromhex(each), "little")
    for each in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
}
"""The y of the points of small order: under such a key one signature fits every message."""


def encoded(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    name = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def keygen(private: Path, public: Path) -> str:
    """Write a new key pair as PEM, the private key readable by its owner only; the key's id.

    Raises WrongInput where a file exists already, cannot be written, or is to hold both.
    """
    serialization, ed25519 = _library()
    if private == public or str(private) == files.STDIO:
        raise WrongInput(f"{private} cannot hold the private key beside {public}; give each a file, as in team.pem")
    files.refuse_unwritable(private, public)
    for path in (private, public):
        if path.exists():
            raise WrongInput(f"{path} exists: a key is never overwritten; name another file")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    files.write(private, secret, 0o600)
    files.write(public, shown)
    return key_id(key.public_key())


def key_id(public: Ed25519PublicKey) -> str:
    """SHA-256 of the 32 bytes of a public key."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def sign(statement: dict[str, Any], private: Path) -> dict[str, Any]:
    """The envelope of a statement, signed with the key in a PEM file; raises WrongInput for another kind of key."""
    key: Ed25519PrivateKey = _loaded(private, "private")
    payload = canonical(statement)
    signature = key.sign(encoded(PAYLOAD_TYPE, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }


def statement_of(document: dict[str, Any]) -> dict[str, Any]:
    """The statement in an envelope, whoever signed it, or the document itself; raises WrongInput for a payload that is
    no JSON object.
    """
    return parse(_decoded(document["payload"]), "the payload of the envelope") if is_envelope(document) else document


def opened(document: dict[str, Any], key: Path | None) -> tuple[dict[str, Any] | None, list[Finding]]:
    """The statement in a document, and why its signature does not count.

    Without a key no signature is looked at. None in place of the statement where the payload is of another type, or
    cannot be read.
    """
    public = _loaded(key, "public") if key else None
    if not is_envelope(document):
        why = "a bare statement, and a signature was asked for"
        return document, [Finding("RCPT-UNSIGNED", "/", why)] if key else []
    if document["payloadType"] != PAYLOAD_TYPE:
        why = f"{document['payloadType']!r} is not {PAYLOAD_TYPE}"
        return None, [Finding("RCPT-PAYLOAD-TYPE", "/payloadType", why)]
    if beside := {"_type", "subject", "predicateType", "predicate"} & {*document}:
        why = f"{', '.join(sorted(beside))} beside a payload: two documents in one"
        return None, [Finding("RCPT-SCHEMA", "/", why)]
    try:
        statement, payload = statement_of(document), _decoded(document["payload"])
    except WrongInput as error:
        return None, [Finding("RCPT-SCHEMA", "/payload", str(error))]
    entries = document["signatures"] if isinstance(document["signatures"], list) else []
    if public is None or any(_fits(entry, encoded(PAYLOAD_TYPE, payload), public) for entry in entries[:MOST]):
        return statement, []
    return statement, [Finding("RCPT-SIGNATURE", "/signatures", f"none fits {key} and the payload")]


def _fits(entry: Any, message: bytes, key: Ed25519PublicKey) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(_decoded(entry["sig"]), message)
    except (InvalidSignature, WrongInput, KeyError, TypeError):
        return False
    return True


def _decoded(text: Any) -> bytes:
    """Of base64 in either alphabet, as DSSE allows; of one content there is one text."""
    try:
        plain = text.replace("-", "+").replace("_", "/")
        content = base64.b64decode(plain, validate=True)
        if base64.b64encode(content).decode() != plain:
            raise ValueError("bits behind the end")
    except (ValueError, TypeError, AttributeError) as error:  # a binascii.Error is a ValueError
        raise WrongInput(f"the envelope is not base64: {error}; give it as it was written") from error
    return content


def _loaded(path: Path, kind: str) -> Any:
    """An Ed25519 key from PEM; raises WrongInput for a file of anything else."""
    serialization, ed25519 = _library()
    try:
        content = files.read(path, "a PEM file", 1 << 16)
        if kind == "private":
            key, wanted = serialization.load_pem_private_key(content, password=None), ed25519.Ed25519PrivateKey
        else:
            key, wanted = serialization.load_pem_public_key(content), ed25519.Ed25519PublicKey
    except WrongInput:
        raise
    except (ValueError, TypeError) as error:
        raise WrongInput(f"{path} is no {kind} key in PEM without a password; make one with receipt keygen") from error
    except Exception as error:  # cryptography's UnsupportedAlgorithm is not a ValueError
        raise WrongInput(f"{path} is a key of an unknown kind: {error}; make one with receipt keygen") from error
    if not isinstance(key, wanted):
        raise WrongInput(f"{path} is a {type(key).__name__}, not Ed25519; make one with receipt keygen")
    if kind == "public" and int.from_bytes(key.public_bytes_raw(), "little") % 2**255 % _P in _WEAK:
        raise WrongInput(f"{path} is a weak key, which anything fits; make one with receipt keygen")
    return key


def _library() -> tuple[Any, Any]:
    of = "cryptography.hazmat.primitives"
    return tuple(
        install.library(f"{of}.{name}", "reports", "a signature") for name in ("serialization", "asymmetric.ed25519")
    )
