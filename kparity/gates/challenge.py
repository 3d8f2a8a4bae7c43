"""What a nonce draws: tokens, positions and vocabulary entries that nobody can have computed before it was named, and
the logits there, by which the output can be computed again elsewhere (docs/receipts.md, "Challenge").
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from kparity.device.adapter import LARGEST
from kparity.ops.spec import Array

POSITIONS, ENTRIES = 8, 16
"""Positions of a probe, and entries of the vocabulary at each position, whose logits are told."""
Whole = Annotated[int, Meta(ge=0, le=LARGEST)]


class Sampled(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Logits at one position of a sequence: those behind ``token``, the ``position``-th from 0 on."""

    position: Whole
    token: Whole
    argmax: Whole
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """Of all logits, f32, little-endian: the same hardware and version give the same."""
    entries: Annotated[list[Whole], Meta(min_length=1, max_length=1024)]
    """Ids of the vocabulary that were drawn."""
    values: Annotated[list[float], Meta(min_length=1, max_length=1024)]
    """Their logits, f32."""


def drawn(nonce: str, purpose: str, seed: int, count: int, below: int) -> list[int]:
    """Whole numbers from 0 to ``below`` - 1: number i is that of the first 8 bytes, big-endian, of the SHA-256 of
    ``kparity-challenge-v1``, the nonce, the purpose, the seed and i, joined by line feeds, modulo ``below``.
    """
    head = hashlib.sha256(f"kparity-challenge-v1\n{nonce}\n{purpose}\n{seed}\n".encode())
    found = []
    for index in range(count):
        each = head.copy()
        each.update(str(index).encode())
        found.append(int.from_bytes(each.digest()[:8], "big") % below)
    return found


def positions(nonce: str, seed: int, length: int) -> list[int]:
    """The positions of a sequence of ``length`` tokens whose logits a probe tells, in order, none twice."""
    return sorted({*drawn(nonce, "positions", seed, POSITIONS, length)})


def entries(nonce: str, seed: int, position: int, vocab: int) -> list[int]:
    """The entries of the vocabulary whose logits are told at a position."""
    return drawn(nonce, f"entries {position}", seed, ENTRIES, vocab)


def sampled(logits: Array, position: int, token: int, nonce: str, seed: int) -> Sampled:
    """Of logits f32 [vocab] behind the token at a position."""
    row = np.ascontiguousarray(logits, "<f4")
    chosen = entries(nonce, seed, position, len(row))
    return Sampled(
        position=position, token=token, argmax=int(np.argmax(row)), sha256=hashlib.sha256(row.tobytes()).hexdigest(),
        entries=chosen, values=[float(row[each]) for each in chosen],
    )  # fmt: skip


def of_steps(steps: Array, tokens: Sequence[int], nonce: str, seed: int) -> list[Sampled]:
    """Of a probe: logits f32 [positions, vocab] step by step, at the positions that are drawn."""
    return [sampled(steps[at], at, tokens[at], nonce, seed) for at in positions(nonce, seed, len(steps))]
