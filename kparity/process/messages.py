"""What every child may say, beside the messages of its own room: plain typed records, one JSON object a line.

A message of another shape, a field that is not there or one too many is refused where it is read
(``kparity.process.parent``).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kparity import errors

Name = Annotated[str, msgspec.Meta(max_length=300)]
Text = Annotated[str, msgspec.Meta(max_length=20_000)]
Duration = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
"""Milliseconds or seconds: what is told can be added up and rounded."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Stage(Message, frozen=True, tag="stage"):
    """The child begins a part of its work; ``at_ms`` on its own clock."""

    stage: Name
    at_ms: Duration


class Tick(Message, frozen=True, tag="tick"):
    """The child is still at it; ``note`` says how far it is."""

    note: Name = ""


class Failed(Message, frozen=True, tag="failed"):
    """The work ended in an exception: ``status`` is ``unavailable`` or ``rejected``, ``code`` is stable."""

    status: Annotated[str, msgspec.Meta(pattern="^(unavailable|rejected)$")]
    code: Name
    reason: Text
    remedy: Text = ""
    """What a person can do about what is not available."""


class Done(Message, frozen=True, tag="done"):
    """The work came to its end."""


def failure(error: BaseException) -> Failed:
    """What an exception in a child says of its backend."""
    text = " ".join(str(error).split())[:4000] or type(error).__name__
    if isinstance(error, errors.Unavailable):
        return Failed("unavailable", error.code, f"unavailable: {error.reason}", error.remedy)
    if isinstance(error, errors.CompileFailed):
        return Failed("rejected", "KP-COMPILE", f"does not compile: {text}")
    if isinstance(error, errors.DeviceFault):
        return Failed("rejected", error.code, text)
    if isinstance(error, MemoryError):
        return Failed("rejected", "KP-PROBE-OOM", f"out of memory: {text}")
    if isinstance(error, errors.BadModel):
        return Failed("rejected", "KP-MODEL", text)
    if isinstance(error, (errors.WrongInput, errors.UnknownName)):
        return Failed("rejected", "KP-UNSUPPORTED", text)
    if isinstance(error, ImportError):
        return Failed("unavailable", "KP-IMPORT", f"unavailable: cannot be imported: {text}")
    return Failed("rejected", "KP-PROBE-ERROR", f"{type(error).__name__}: {text}")
