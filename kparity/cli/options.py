"""Options that several commands share: the same letters, the same values and the same meaning everywhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kparity.cli import names
from kparity.cli.command import File
from kparity.cli.names import completing
from kparity.host import progress

if TYPE_CHECKING:
    from kparity.model import Model
    from kparity.probe.messages import Request

F = TypeVar("F", bound=Callable[..., Any])
FILE, OUT, FOLDER = File(), File(written=True), File(file_okay=False, path_type=Path)
github_option = click.option(
    "--github", is_flag=True, help="Annotations of GitHub on stderr, and a table for $GITHUB_STEP_SUMMARY."
)


class Number(click.FloatRange):
    """A finite number within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Span(click.ParamType):  # type: ignore[type-arg]
    """A span of time such as 30s, 10m or 2h, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from kparity.host.text import seconds

        found = value if isinstance(value, float) else seconds(value)
        if not 0 < found < math.inf:
            self.fail(f"{value!r} is no span of time; give one such as 30s, 10m or 2h", param, ctx)
        return found


SPAN = Span()


class Function(click.ParamType):  # type: ignore[type-arg]
    """A function of a file of Python, FILE.py:FUNCTION."""

    name = "function"

    @staticmethod
    def could_be(word: str) -> bool:
        """Whether a word names one; what it is not may be the file of ``--json``."""
        path, _, name = word.rpartition(":")
        return path.endswith(".py") and name.isidentifier()

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from kparity.errors import WrongInput

        if not self.could_be(value):
            raise WrongInput(f"{value!r} names no function: write FILE.py:FUNCTION, as in my.py:gemv")
        return value


FUNCTION = Function()


class Nonce(click.ParamType):  # type: ignore[type-arg]
    """A word of a verifier: 1 to 128 printable characters."""

    name = "nonce"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from kparity.host.text import printable

        if len(value) > 128 or printable(value) != value:
            self.fail("a nonce has at most 128 printable characters", param, ctx)
        return value


NONCE = Nonce()


def _listed(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    """None where the option was not given, so that each command may choose."""
    return value or None


def _hushed(_ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    """No progress either."""
    if value:
        progress.show(False)
    return value


def backends_option(help: str, **options: Any) -> Callable[[F], F]:
    """``-b/--backends A,B``: the names, unchecked (``parse_order``, ``errors.named``); None where it was not given."""
    return click.option(
        "-b", "--backends", multiple=True, metavar="A,B", callback=_listed, help=f"{help} Repeatable.",
        shell_complete=completing(names.backends), **options,
    )  # fmt: skip


def ops_option(help: str, known: Callable[[], list[str]] = names.ops) -> Callable[[F], F]:
    """``-o/--op A,B``, in the same way; ``known`` is what completes."""
    return click.option(
        "-o", "--op", "op_names", multiple=True, metavar="A,B", callback=_listed, help=f"{help} Repeatable.",
        shell_complete=completing(known),
    )  # fmt: skip


json_option = click.option(
    "--json", "json_path", type=OUT, metavar="[FILE|-]",
    help="Write the result as JSON to FILE; by itself, or as -, to stdout instead of the table.",
)  # fmt: skip
"""``--json [FILE|-]``: a path, ``-``, or None (``kparity.cli.command.Command`` supplies the - of a bare one)."""
junit_option = click.option("--junit", "junit_path", type=OUT, metavar="FILE", help="Write JUnit XML.")
ctrf_option = click.option("--ctrf", "ctrf_path", type=OUT, metavar="FILE", help="Write CTRF, a test report as JSON.")
sarif_option = click.option("--sarif", "sarif_path", type=OUT, metavar="FILE", help="Write SARIF, for code scanning.")
act_option = click.option(
    "--act", type=click.Choice(["token", "block256", "block32"]), default="token", show_default=True,
    help="Activation quantisation: per token (BitNet), per 256 (as llama.cpp beside TQ2_0) or per 32 (beside Q2_0).",
)  # fmt: skip
index_option = click.option(
    "--index", type=click.IntRange(min=0), default=0, show_default=True, help="Device index within each backend."
)
model_option = click.option("--model", type=FILE, metavar="FILE", help="A GGUF file [default: the embedded model].")
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, callback=_hushed, help="Nothing but the exit code, refusals and errors."
)


@dataclass(frozen=True)
class Dispatch:
    """Which backends are tried, and how they are probed."""

    backends: tuple[str, ...] | None
    require: str | None
    require_gpu: bool
    trust_claims: bool
    no_gpu: bool
    model: str | None
    index: int
    depth: str
    cached: bool
    timeout: float | None
    act: str
    kv: str
    places: tuple[str, ...]
    context: int | None

    def order(self) -> tuple[list[str], str]:
        """The backends to try, and why nothing may take the place of the first; empty where something may."""
        from kparity.errors import WrongInput
        from kparity.probe.dispatcher import forced_by, parse_order

        if self.require and (self.backends or self.no_gpu):
            other = "--backends" if self.backends else "--no-gpu"
            raise WrongInput(f"--require and {other} exclude each other: give one of them")
        if self.require_gpu and self.no_gpu:
            raise WrongInput("--require-gpu and --no-gpu exclude each other: give one of them")
        if self.trust_claims and not self.require_gpu:
            raise WrongInput("--trust-claims loosens --require-gpu, which is not given; add it")
        if self.require and "," in self.require:
            raise WrongInput(f"--require {self.require} names several backends; name one, or give --backends")
        order = parse_order([self.require] if self.require else self.backends, self.no_gpu)
        return order, forced_by(self.require, order)

    def fit(self, model: Model) -> None:
        """Raise WrongInput for a context that the model does not have."""
        from kparity.errors import WrongInput

        most = model.hparams.context
        if self.context and self.context > most:
            raise WrongInput(
                f"--context {self.context} is more than the {most} positions of {model.name}; ask for fewer"
            )

    def request(self, positions: int = 72, nonce: str = "") -> Request:
        """What each of them is probed for."""
        from kparity.probe.dispatcher import known_issues
        from kparity.probe.messages import Request

        return Request(
            self.model, self.depth, positions, self.timeout or 0.0, self.require_gpu, self.act, self.kv, self.index,
            known_issues(self.places), self.trust_claims, nonce, self.context or 0,
        )  # fmt: skip


_DISPATCH = (
    backends_option("Backends to try, in this order [default: cuda,hip,wgpu,opencl,cpu]."),
    click.option("--backend", "--require", "require", metavar="B",
                 shell_complete=completing(names.backends),
                 help="This backend or none: never falls back (exit code 3)."),
    click.option("--require-gpu", is_flag=True, help="Refuse what its driver does not confirm to compute on a GPU."),
    click.option("--trust-claims", is_flag=True,
                 help="With --require-gpu: take a backend's word where no driver tells."),
    click.option("--no-gpu", is_flag=True, help="Use CPU backends only."),
    model_option,
    index_option,
    click.option("--depth", type=click.Choice(["bos", "full"]), default="full", show_default=True,
                 help="How much to probe."),
    click.option("--cached", is_flag=True,
                 help="Answer from an earlier probe of the same device, driver, kernels and model."),
    click.option("--timeout", type=Number(min=0.1), metavar="SECONDS",
                 help="Limit of one probe in all [default: none; a probe is ended when it has been silent for a "
                 "minute]."),
    act_option,
    click.option("--kv", type=click.Choice(["f16", "f32"]), default="f16", show_default=True,
                 help="Element type of the KV cache."),
    click.option("--contracts", "places", type=FILE, multiple=True, metavar="DIR_OR_FILE",
                 help="Heed the known issues of these contracts too. Repeatable."),
    click.option("--context", type=click.IntRange(min=1), default=None,
                 help="Positions of the KV cache, all of which are proved [default: the model's, at most 4096]."),
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
