"""``kparity check`` of somebody's own kernel: what puts it in the place of an op's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kparity.check import own_cuda, own_function, own_library
from kparity.check.document import Text
from kparity.check.own_trial import AnyOwn, Trial, tried
from kparity.check.select import Selected
from kparity.device import registry
from kparity.errors import Refused, Unavailable, WrongInput
from kparity.host.streams import log
from kparity.probe.dispatcher import parse_order


@dataclass(frozen=True)
class Asked:
    """What was typed."""

    target: str | None
    cuda: str | None
    kernel: str | None
    lib: str | None
    symbol: str | None
    map_path: str | None
    options: tuple[str, ...]
    """Switches of the backend."""

    @property
    def what(self) -> str:
        """The kernel, as it was typed."""
        return self.target or (f"--lib {self.lib}" if self.symbol else f"--cuda {self.cuda}")

    @property
    def host(self) -> str:
        """The name under which what is called on the host is judged; empty for a CUDA text."""
        return own_function.NAME if self.target else own_library.NAME if self.symbol else ""

    def refuse_half(self) -> None:
        """Raise WrongInput where one option lacks another, or two name a kernel each."""
        if self.target and (self.cuda or self.kernel or self.symbol or self.map_path):
            raise WrongInput(f"{self.target} is judged by itself: leave out --cuda, --kernel, --symbol and --map")
        if self.symbol and (self.cuda or self.kernel):
            raise WrongInput("--symbol is of a shared library, --cuda and --kernel of a CUDA text: judge one at a time")
        if self.symbol and not self.lib:
            raise WrongInput(f"--symbol {self.symbol}: name its shared library with --lib")
        if self.target or self.symbol:
            return
        if not self.cuda:
            raise WrongInput("--kernel and --map are about a CUDA text: name its file with --cuda")
        if not self.kernel:
            raise WrongInput(f"--cuda {self.cuda}: name the kernel of it that is judged with --kernel")

    def order(self, backends: Sequence[str] | None) -> tuple[list[str], bool]:
        """The backends that are tried, and whether they were named: of a CUDA text a GPU first, and those alone that
        have the switches. What is called on the host has one.
        """
        if self.host:
            if self.options:
                raise WrongInput(f"--{self.options[0]} is for a CUDA text on cuda-ptx, not for {self.what}")
            if backends and list(backends) != [self.host]:
                raise WrongInput(f"{self.what} is called on the host, not by {','.join(backends)}; leave -b out")
            return [self.host], True
        able = [name for name in own_cuda.backends() if {*self.options} <= {*registry.backend_class(name).options}]
        return parse_order(backends or able), bool(backends)

    def judged(self, chosen: Sequence[Selected], names: Sequence[str]) -> AnyOwn:
        """The kernel in the place of the one op that is chosen; raises WrongInput for several, and for bad files."""
        found = list(dict.fromkeys(names or [each.case.op for each in chosen]))
        if len(found) != 1:
            raise WrongInput(
                f"{self.what}: name the one op that {self.kernel or self.symbol or 'it'} computes, as in --op tgemv"
            )
        if self.target:
            return own_function.read(self.target, found[0])
        if self.symbol:
            return own_library.read(self.lib or "", self.symbol, found[0], self.map_path)
        return own_cuda.read(self.cuda or "", self.kernel or "", found[0], self.map_path)

    def found(self, own: AnyOwn, chosen: Sequence[Selected], named: list[str], index: int) -> list[str]:
        """The backends that judge it: those that were named, else the first that opens. The kernel is built there once,
        in a child. Raises WrongInput where it cannot be, and Refused where none opens and none was named.
        """
        case = next((each.case for each in chosen if own.takes(each.case)), None)
        order = named or self.order(None)[0]
        try:
            first = tried(Trial(own, order, index, self.options, case))
        except Unavailable as missing:
            if not named or self.host:
                raise Refused(str(missing)) from missing
            return named
        log(f"{own.path}: {own.kernel} in the place of {own.op}, on {first}")
        return named or [first]

    @staticmethod
    def told(own: AnyOwn) -> Text:
        """The kernel as a document tells it."""
        return Text(path=own.path, kernel=own.kernel, sha256=own.sha256, map=own.map_path or None)
