"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP, with everything cleaned up where something was begun."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes its time, in which no handler is there yet
import os
from types import FrameType

NUMBERS = [getattr(_signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(_signal, name)]


class Stopped(KeyboardInterrupt):
    """One of them came, as ``number``: the exit code is 128 more.

    Not KeyboardInterrupt itself: where that came up within exec(), which dataclasses use, CPython kills its own process
    at the end, whatever the exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _stop(number: int, frame: FrameType | None) -> None:
    if frame and frame.f_code.co_name == "cb":  # a callback of importlib, in which every exception is lost
        _leave(number, frame)
    raise Stopped(number)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def heed(at_once: bool = False) -> None:
    """Let a signal raise ``Stopped`` or, where nothing is begun or all is done, end the process ``at_once``. One that
    whoever started this told it to ignore (nohup) stays ignored, as does whoever has a handler of their own.
    """
    for number in NUMBERS:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler, _stop, _leave):
            _signal.signal(number, _leave if at_once else _stop)
