"""``kparity check --cuda``: the options that put somebody's own kernel in the place of an op's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kparity.check.document import Text
from kparity.check.own import Own, Trial, backends, read, tried
from kparity.check.select import Selected
from kparity.device import registry
from kparity.errors import Refused, Unavailable, WrongInput
from kparity.host.streams import log


@dataclass(frozen=True)
class Asked:
    """What was typed."""

    cuda: str | None
    kernel: str | None
    map_path: str | None
    options: tuple[str, ...]
    """Switches of the backend."""

    def refuse_half(self) -> None:
        """Raise WrongInput where one option lacks another."""
        if not self.cuda:
            raise WrongInput("--kernel and --map are about a CUDA text: name its file with --cuda")
        if not self.kernel:
            raise WrongInput(f"--cuda {self.cuda}: name the kernel of it that is judged with --kernel")

    def order(self) -> list[str]:
        """The backends that are tried where none was named: a GPU first, and those alone that have the switches."""
        return [name for name in backends() if set(self.options) <= set(registry.backend_class(name).options)]

    def judged(self, chosen: Sequence[Selected], names: Sequence[str]) -> Own:
        """The kernel in the place of the one op that is chosen; raises WrongInput for several, and for bad files."""
        found = list(dict.fromkeys(names or [each.case.op for each in chosen]))
        if len(found) != 1 or not self.cuda or not self.kernel:
            raise WrongInput(f"--cuda {self.cuda}: name the one op that {self.kernel} computes, as in --op tgemv")
        return read(self.cuda, self.kernel, found[0], self.map_path)

    def found(self, own: Own, chosen: Sequence[Selected], named: list[str], index: int) -> list[str]:
        """The backends that judge it: those that were named, else the first that opens. The kernel is built there once,
        in a child. Raises WrongInput where it cannot be, and Refused where none opens and none was named.
        """
        case = next((each.case for each in chosen if own.takes(each.case)), None)
        try:
            first = tried(Trial(own, named or self.order(), index, self.options, case))
        except Unavailable as missing:
            if not named:
                raise Refused(str(missing)) from missing
            return named
        log(f"{own.path}: {own.kernel} in the place of {own.op}, on {first}")
        return named or [first]

    @staticmethod
    def told(own: Own) -> Text:
        """The kernel as a document tells it."""
        return Text(path=own.path, kernel=own.kernel, sha256=own.sha256, map=own.map_path or None)
