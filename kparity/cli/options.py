"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_DISPATCH = (
    click.option(
        "--backends", metavar="A,B,C", help="Backends to try, in this order [default: cuda,hip,wgpu,opencl,cpu]."
    ),
    click.option(
        "--backend", "--require", "require", metavar="B", help="This backend or none: never falls back (exit code 3)."
    ),
    click.option("--require-gpu", is_flag=True, help="Refuse CPU and software devices."),
    click.option("--no-gpu", is_flag=True, help="Use CPU backends only."),
    click.option(
        "--model", type=click.Path(dir_okay=False), metavar="FILE", help="A GGUF file [default: the embedded model]."
    ),
    click.option(
        "--depth", type=click.Choice(["bos", "full"]), default="full", show_default=True, help="How much to probe."
    ),
    click.option(
        "--cached", is_flag=True, help="Answer from an earlier probe of the same device, driver, kernels and model."
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0.1),
        metavar="SECONDS",
        help="Limit of one probe in all [default: none; a probe is ended when it has been silent for a minute].",
    ),
    click.option(
        "--act",
        type=click.Choice(["token", "block256"]),
        default="token",
        show_default=True,
        help="Activation quantisation: per token (BitNet) or per 256 (llama.cpp).",
    ),
    click.option(
        "--kv",
        type=click.Choice(["f16", "f32"]),
        default="f16",
        show_default=True,
        help="Element type of the KV cache.",
    ),
    click.option(
        "--contracts",
        "places",
        multiple=True,
        metavar="DIR_OR_FILE",
        help="Heed the known issues of these contracts too. Repeatable.",
    ),
)


def dispatch_options(function: F) -> F:
    """The options that say which backends are tried and how they are probed."""
    for option in reversed(_DISPATCH):
        function = option(function)
    return function


def order_of(backends: str | None, require: str | None, no_gpu: bool) -> tuple[list[str], bool]:
    """The backends to try, and whether the first of them is forced (``--require``, or a list of one)."""
    from kparity.errors import WrongInput
    from kparity.probe.dispatcher import parse_order

    if require and backends:
        raise WrongInput("--require and --backends exclude each other: give one of them")
    if require and no_gpu:
        raise WrongInput("--require and --no-gpu exclude each other: give one of them")
    order = parse_order([require] if require else backends, no_gpu)
    return order, len(order) == 1
