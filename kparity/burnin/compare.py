"""Two replies as bytes: the bucket, where they part, and by how much each side preferred its own token there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kparity import contracts
from kparity.burnin.record import Bucket, Side, Tie


class Step(NamedTuple):
    """A token as bytes, with the log-probabilities that the server told of it and of others in its place."""

    token: bytes
    told: dict[bytes, float]


def bucket(v1: Side, v2: Side) -> tuple[Bucket, int]:
    """The bucket of a round, and the bytes that both replies begin with."""
    if not v1.reached:
        return "v1-unreachable" if v2.reached else "both-unreachable", 0
    if not v2.reached:
        return "v2-unreachable", 0
    a, b = v1.reply, v2.reply
    if a == b:
        return "exact", len(a)
    prefix = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return "prefix-only" if prefix == min(len(a), len(b)) else "no-match", prefix


def margins(v1: Sequence[Step], v2: Sequence[Step]) -> tuple[float | None, float | None]:
    """``margin`` and ``noise`` of a row, each None where the tokens do not tell."""
    same = next((at for at, (a, b) in enumerate(zip(v1, v2, strict=False)) if a.token != b.token), None)
    noise = [found for a, b in list(zip(v1, v2, strict=False))[:same] if (found := _noise(a, b)) is not None]
    margin = None
    if same is not None:
        a, b = v1[same], v2[same]
        both = (_margin(a, b.token), _margin(b, a.token))
        margin = max((each for each in both if each is not None), default=None)
    return margin, max(noise, default=None)


def tie(margin: float | None, floor: float | None) -> Tie:
    """What a margin makes of a no-match; ``floor`` is the largest noise of one server against itself, if known."""
    if margin is None:
        return "none"
    if contracts.load(contracts.CUTOVER).threshold("tie_nats").holds(margin):
        return "exact-tie"
    return "near-tie" if floor is not None and margin <= floor else "unexplained"


def _margin(step: Step, other: bytes) -> float | None:
    """By how much a token was preferred to another; to one that is not told of, to the least of those that are."""
    if len(step.told) < 2 or step.token not in step.told:
        return None
    return max(0.0, step.told[step.token] - step.told.get(other, min(step.told.values())))


def _noise(a: Step, b: Step) -> float | None:
    """How differently two sides prefer the token that both took to the one that the first likes next."""
    others = {token: told for token, told in a.told.items() if token != a.token and token in b.told}
    if not others or a.token not in a.told or b.token not in b.told:
        return None
    second = max(others, key=others.__getitem__)
    return abs((a.told[a.token] - a.told[second]) - (b.told[b.token] - b.told[second]))


def around(reply: bytes, at: int, most: int) -> tuple[str, str]:
    """At most so many characters of a reply before the byte ``at``, and from it on; a character in which it lies is of
    the second. Bytes that are no UTF-8 are surrogates.
    """
    for _ in range(3):
        at -= 0 < at < len(reply) and reply[at] & 0xC0 == 0x80
    before, behind = (part.decode("utf-8", "surrogateescape") for part in (reply[:at], reply[at:]))
    return before[-most:], behind[:most]
