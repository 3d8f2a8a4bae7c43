"""What a client is told instead of an answer: OpenAI's form, one sentence, a status of HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Detail(msgspec.Struct, frozen=True):
    """The error itself."""

    message: str
    type: str
    param: str | None
    code: str | None


class Body(msgspec.Struct, frozen=True):
    """The whole answer."""

    error: Detail


class Problem(Exception):
    """Raised where a request cannot be answered; ``param`` is the field that is wrong."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = Body(Detail(message, kind, param, kind if status != 400 else None))

    def encoded(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self.body)


def wrong(message: str, param: str | None = None) -> Problem:
    """A field of the request that cannot be (400)."""
    return Problem(400, message, param=param)
