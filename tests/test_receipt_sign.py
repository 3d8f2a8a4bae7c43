"""Signatures: what one key signed verifies with it, and nothing else does; other tools read the envelope."""

from __future__ import annotations

import base64
import copy
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from kparity.errors import WrongInput
from kparity.receipts import sign
from kparity.receipts.verify import verify
from tests.edits import put
from tests.made_receipts import NOW, receipt

pytest.importorskip("cryptography", reason="the extra reports is not installed")

MADE = receipt("cpu")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    sign.keygen(folder / "a.pem", folder / "a.pub")
    return folder / "a.pem", folder / "a.pub"


@pytest.fixture(scope="module")
def envelope(keys: tuple[Path, Path]) -> dict[str, Any]:
    return sign.sign(MADE, keys[0])


def codes(document: dict[str, Any], key: Path | None = None) -> list[str]:
    return [finding.code for finding in verify(document, key=key, now=NOW)]


def test_a_signed_receipt_passes_with_its_key_and_without(envelope: dict[str, Any], keys: tuple[Path, Path]) -> None:
    assert codes(envelope, keys[1]) == [] and codes(envelope) == []
    assert sign.statement_of(envelope) == MADE and sign.statement_of(MADE) == MADE
    assert codes(MADE, keys[1]) == ["RCPT-UNSIGNED"]


def test_the_envelope_is_dsse_as_other_tools_read_it(envelope: dict[str, Any], keys: tuple[Path, Path]) -> None:
    """By the words of the specification, without a line of the module under test."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    body = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    message = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(body)).encode() + b" " + body
    public: Any = load_pem_public_key(keys[1].read_bytes())
    public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), message)
    statement = json.loads(body)
    assert kind == b"application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1" and statement["subject"][0]["digest"]["sha256"]


def test_the_encoding_is_that_of_the_specifications_example() -> None:
    assert sign.encoded("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


BREAKS = {
    "altered payload": (
        lambda e: e.update(payload=encoded(base64.b64decode(e["payload"]).replace(b"made.gguf", b"better"))),
        "RCPT-SIGNATURE",
    ),
    "a space more": (
        lambda e: e.update(payload=encoded(base64.b64decode(e["payload"]) + b" ")), "RCPT-SIGNATURE",
    ),
    "foreign signature": (put("signatures.0.sig", encoded(bytes(64))), "RCPT-SIGNATURE"),
    "short signature": (put("signatures.0.sig", "AAAA"), "RCPT-SIGNATURE"),
    "no signature": (put("signatures", []), "RCPT-SIGNATURE"),
    "signatures of no form": (put("signatures", "yes"), "RCPT-SIGNATURE"),
    "signature without a text": (put("signatures", [{"sig": 3}, 4]), "RCPT-SIGNATURE"),
    "no base64": (put("payload", "!"), "RCPT-SCHEMA"),
    "bits behind the end": (put("payload", "eR=="), "RCPT-SCHEMA"),
    "another statement beside it": (put("predicate", {"kind": "probe"}), "RCPT-SCHEMA"),
    "too many signatures": (put("signatures", [{"sig": ""}] * 100_000), "RCPT-SIGNATURE"),
    "payload of text": (put("payload", encoded(b"hello")), "RCPT-SCHEMA"),
    "another type": (put("payloadType", "application/json"), "RCPT-PAYLOAD-TYPE"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_signature_is_refused(name: str, envelope: dict[str, Any], keys: tuple[Path, Path]) -> None:
    edit, code = BREAKS[name]
    broken = copy.deepcopy(envelope)
    edit(broken)
    assert code in codes(broken, keys[1])


def test_one_of_several_signatures_is_enough_and_another_key_does_not_fit(
    envelope: dict[str, Any], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    several = copy.deepcopy(envelope)
    several["signatures"][0]["sig"] = several["signatures"][0]["sig"].replace("+", "-").replace("/", "_")
    several["signatures"].insert(0, {"keyid": "?", "sig": encoded(bytes(64))})
    assert codes(several, keys[1]) == []
    sign.keygen(tmp_path / "b.pem", tmp_path / "b.pub")
    assert codes(envelope, tmp_path / "b.pub") == ["RCPT-SIGNATURE"]


def test_keys_are_private_and_never_overwritten(keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    before = keys[0].read_bytes()
    with pytest.raises(WrongInput, match="never overwritten"):
        sign.keygen(keys[0], tmp_path / "x.pub")
    assert keys[0].read_bytes() == before and not (tmp_path / "x.pub").exists()


def test_a_file_that_is_no_such_key_is_told(envelope: dict[str, Any], keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    text, other, weak, none = tmp_path / "text", tmp_path / "ec.pub", tmp_path / "weak.pub", tmp_path / "no"
    text.write_text("no key")
    identity = ed25519.Ed25519PublicKey.from_public_bytes(b"\1" + bytes(31))  # whose every signature is 01 00 …
    weak.write_bytes(identity.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    other.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    for key, said in (
        (text, "no public key"),
        (keys[0], "no public key"),
        (other, "not Ed25519"),
        (weak, "weak"),
        (none, "cannot"),
    ):
        with pytest.raises(WrongInput, match=said):
            verify(envelope, key=key, now=NOW)
    with pytest.raises(WrongInput, match="no private key"):
        sign.sign(MADE, keys[1])
