"""Options that several commands share, and the record of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kparity.probe.messages import Request

FILE = click.Path(dir_okay=False)
github_option = click.option(
    "--github", is_flag=True, help="Annotations of GitHub on stderr, and a table for $GITHUB_STEP_SUMMARY."
)


class Nonce(click.ParamType):  # type: ignore[type-arg]
    """A word of a verifier: 1 to 128 printable characters."""

    name = "nonce"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from kparity.host.text import printable

        if len(value) > 128 or printable(value) != value:
            self.fail("a nonce has at most 128 printable characters", param, ctx)
        return value


NONCE = Nonce()


@dataclass(frozen=True)
class Dispatch:
    """Which backends are tried, and how they are probed."""

    backends: str | None
    require: str | None
    require_gpu: bool
    no_gpu: bool
    model: str | None
    depth: str
    cached: bool
    timeout: float | None
    act: str
    kv: str
    places: tuple[str, ...]

    def order(self) -> tuple[list[str], bool]:
        """The backends to try, and whether the first of them is forced (``--require``, or a list of one)."""
        from kparity.errors import WrongInput
        from kparity.probe.dispatcher import parse_order

        if self.require and (self.backends or self.no_gpu):
            other = "--backends" if self.backends else "--no-gpu"
            raise WrongInput(f"--require and {other} exclude each other: give one of them")
        order = parse_order([self.require] if self.require else self.backends, self.no_gpu)
        return order, len(order) == 1

    def request(self, positions: int = 72, index: int = 0, nonce: str = "") -> Request:
        """What each of them is probed for."""
        from kparity.probe.dispatcher import known_issues
        from kparity.probe.messages import Request

        return Request(
            self.model, self.depth, positions, self.timeout or 0.0, self.require_gpu, self.act, self.kv, index,
            known_issues(self.places), nonce,
        )  # fmt: skip


_DISPATCH = (
    click.option("--backends", metavar="A,B,C",
                 help="Backends to try, in this order [default: cuda,hip,wgpu,opencl,cpu]."),
    click.option("--backend", "--require", "require", metavar="B",
                 help="This backend or none: never falls back (exit code 3)."),
    click.option("--require-gpu", is_flag=True, help="Refuse CPU and software devices."),
    click.option("--no-gpu", is_flag=True, help="Use CPU backends only."),
    click.option("--model", type=FILE, metavar="FILE", help="A GGUF file [default: the embedded model]."),
    click.option("--depth", type=click.Choice(["bos", "full"]), default="full", show_default=True,
                 help="How much to probe."),
    click.option("--cached", is_flag=True,
                 help="Answer from an earlier probe of the same device, driver, kernels and model."),
    click.option("--timeout", type=click.FloatRange(min=0.1), metavar="SECONDS",
                 help="Limit of one probe in all [default: none; a probe is ended when it has been silent for a "
                 "minute]."),
    click.option("--act", type=click.Choice(["token", "block256"]), default="token", show_default=True,
                 help="Activation quantisation: per token (BitNet) or per 256 (llama.cpp)."),
    click.option("--kv", type=click.Choice(["f16", "f32"]), default="f16", show_default=True,
                 help="Element type of the KV cache."),
    click.option("--contracts", "places", multiple=True, metavar="DIR_OR_FILE",
                 help="Heed the known issues of these contracts too. Repeatable."),
)  # fmt: skip


def dispatch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``Dispatch``, which a command gets as ``dispatch``."""

    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> Any:
        dispatch = Dispatch(**{each.name: options.pop(each.name) for each in fields(Dispatch)})
        return function(*arguments, dispatch=dispatch, **options)

    for option in reversed(_DISPATCH):
        command = option(command)
    return command
