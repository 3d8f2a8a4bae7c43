"""The chat template of a model's file, filled in by a process of its own: it comes with the model, and can loop for
ever or make a terabyte.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from kparity.errors import WrongInput
from kparity.host import install
from kparity.host.text import printable
from kparity.process.worker import Worker, WorkerFailed

SECONDS, BYTES = 10.0, 4 << 30
"""What filling in a template may take, of time and of a process's address space."""


class Refusal(Exception):
    """What a template says of messages that it does not take."""


def _refuse(why: str) -> NoReturn:
    raise Refusal(why)


class Template:
    """In the process of its own."""

    def __init__(self, text: str) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        self.made = environment.from_string(text)

    def filled(self, messages: Sequence[Mapping[str, Any]], bos: str, eos: str) -> str:
        """With messages, and the beginning of an answer."""
        return str(self.made.render(messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos))

    def close(self) -> None:
        """Nothing is open."""


class Chat:
    """The template ``text``; ``of`` is what has it, for messages. The process is started with the first chat, and anew
    after one that it did not survive.
    """

    def __init__(self, text: str, of: str, extra: str, purpose: str) -> None:
        install.library("jinja2", extra, purpose)
        self.text, self.of = text, of
        self._worker: Worker | None = None

    def filled(self, messages: Sequence[Mapping[str, Any]], bos: str = "", eos: str = "") -> str:
        """A chat as text; raises WrongInput where that takes more than ``SECONDS``, or the template refuses."""
        try:
            if self._worker is None or self._worker.dead:
                self.close()
                self._worker = Worker("the chat template", "kparity.engines.chat:Template", {"text": self.text})
                self._worker.opened(SECONDS)
            return str(self._worker.call("filled", SECONDS, messages=messages, bos=bos, eos=eos))
        except WorkerFailed as failed:
            why = printable(failed.reason)[:300]
            raise WrongInput(f"the chat template of {self.of} cannot be filled in ({why})") from None

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
