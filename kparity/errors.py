"""Every error that kparity raises on purpose.

KparityError                 exit code 2 unless a subclass says otherwise
├── WrongInput               an argument, a shape or a dtype that an op or a backend does not take
│   └── BadModel             a model file that is damaged, hostile or of a kind that cannot be read
├── UnknownName              a backend, op, contract or code that does not exist; names the nearest one
├── Unavailable              a backend that cannot be opened on this machine: reason, remedy, stable code
├── CompileFailed            a kernel that its device's compiler refused: path, line, log
├── DeviceFault              a device that failed while it ran: lost, out of memory, a launch error
└── Refused                  a forced backend that may not serve; nothing was downgraded (exit code 3)
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence


class KparityError(Exception):
    """Base of all deliberate errors; ``str()`` is one sentence for a person."""

    exit_code = 2


class WrongInput(KparityError):
    """What was given, where, and what to give instead."""


class BadModel(WrongInput):
    """A model file that cannot be trusted: truncated, inconsistent or unsupported."""


class UnknownName(KparityError):
    """A name that is not known; the message offers the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
        self.kind, self.name, self.nearest = kind, name, near[0] if near else None


def named(given: Sequence[str], kind: str, known: Collection[str]) -> list[str]:
    """The names in comma-separated lists, in their order; raises UnknownName with the nearest one, WrongInput for an
    empty name and for one that stands twice.
    """
    names = [name.strip() for text in given for name in text.split(",")]
    for name in names:
        if not name:
            raise WrongInput(
                f"an empty name in {','.join(given)!r}; give each {kind} by its name, with commas between them"
            )
        if name not in known:
            raise UnknownName(kind, name, known)
    for name in names:
        if names.count(name) > 1:
            raise WrongInput(f"{kind} {name} is named twice in {','.join(given)}; name each once")
    return names


class Unavailable(KparityError):
    """A backend that cannot be opened here.

    ``code`` is stable and is explained by ``kparity explain CODE`` (for example ``KP-CUDA-NODRIVER``); ``reason``
    says what is missing and where it was looked for; ``remedy`` is what a person can do about it.
    """

    def __init__(self, reason: str, remedy: str, code: str) -> None:
        super().__init__(f"{reason}; {remedy}" if remedy else reason)
        self.reason, self.remedy, self.code = reason, remedy, code


class CompileFailed(KparityError):
    """A kernel text that a device's compiler refused; ``log`` is the compiler's own."""

    def __init__(self, path: str, line: int, log: str) -> None:
        first = next((text for text in log.splitlines() if text.strip()), "no log")
        super().__init__(f"{path}:{line}: {first.strip()}")
        self.path, self.line, self.log = path, line, log


class DeviceFault(KparityError):
    """A device that failed while it ran; ``code`` is stable (``KP-DEVICE-LOST``, ``KP-DEVICE-OOM``, …)."""

    def __init__(self, message: str, code: str = "KP-DEVICE-FAULT") -> None:
        super().__init__(message)
        self.code = code


class Refused(KparityError):
    """Nothing may serve: a forced backend was rejected, or no backend of the list was accepted."""

    exit_code = 3
