"""``kparity bench``: speed, beside proof that the output was right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kparity.cli.command import File, Group
from kparity.cli.options import (
    FILE,
    NONCE,
    OUT,
    Number,
    act_option,
    backends_option,
    index_option,
    json_option,
    model_option,
    quiet_option,
)  # fmt: skip
from kparity.errors import WrongInput
from kparity.host.streams import log

LONGEST = 1 << 20


Lengths = Callable[[click.Context, click.Parameter, str], tuple[int, ...]]


def lengths(least: int) -> Lengths:
    """Reads comma-separated whole numbers from ``least`` on into a sorted tuple; ``-`` is none at all."""

    def read(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, ...]:
        parts = [] if value.strip() == "-" else value.split(",")
        try:
            found = sorted({int(part) for part in parts})
        except ValueError:
            raise click.BadParameter(f"{value!r} is no list of numbers such as 32,128") from None
        if any(not least <= each < LONGEST for each in found):
            raise click.BadParameter(f"{value!r} holds a number below {least} or beyond a million")
        return tuple(found)

    return read


@click.group(
    cls=Group,
    invoke_without_command=True,
    examples=(
        "kparity bench -b cpu --pp 32 --tg 0 --seconds 2 --receipt bench.json",
        "kparity bench -b cpu --ops 'rope[' --seconds 0.1 --json ops.json",
    ),
)
@backends_option("Backends to measure, in this order [default: cuda,hip,wgpu,opencl,cpu].")
@model_option
@click.option("--shape", metavar="NAME[:LAYERS[:VOCAB]]",
              help="Random weights of a shape: 2b-4t, 2b-4t:6:32000, llama3-8b:2, bonsai-8b:2, tiny.")  # fmt: skip
@click.option("--pp", "prompts", callback=lengths(1), default="32,128,512", show_default=True, metavar="N,…",
              help="Prompt lengths of the prefill; - is none.")  # fmt: skip
@click.option("--tg", "depths", callback=lengths(0), default="0,512,2048", show_default=True, metavar="N,…",
              help="Depths at which single steps are timed; - is none.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the cpu backend and of llama.cpp.")
@click.option("--isa", metavar="NAME", help="Instruction set of the cpu backend: amx, avx512vnni, avx2, neon, scalar.")
@click.option("--seconds", type=Number(min=0, min_open=True),
              help="Of sampling: all measurements of a model together [default: 30], or each case of --ops "
              "[default: 3].")  # fmt: skip
@click.option("--baseline", "baselines", type=click.Choice(["llama.cpp", "torch"]), multiple=True,
              help="Beside the backends: llama.cpp on the same file; for --ops torch or ggml. Repeatable.")  # fmt: skip
@click.option("--baseline-file", "baseline_files", type=FILE, multiple=True, metavar="FILE",
              help="The same model in another type, for llama.cpp alone. Repeatable.")  # fmt: skip
@click.option("--ops", "ops_expression", is_flag=False, flag_value="", metavar="[EXPR]",
              help="Single ops instead of models, chosen as by kparity check -k.")  # fmt: skip
@click.option("--receipt", type=OUT, metavar="FILE", help="Write a receipt.")
@click.option("--row", is_flag=True,
              help="Print a row of Markdown per backend, for a table that people share; with --receipt.")  # fmt: skip
@json_option
@quiet_option
@click.option("--no-parity", is_flag=True, help="Time without the probe: nothing counts, and everything says so.")
@click.option("--require-gpu", is_flag=True, help="Refuse what its driver does not confirm to compute on a GPU.")
@click.option("--trust-claims", is_flag=True, help="With --require-gpu: take a backend's word where no driver tells.")
@act_option
@click.option("--kv", type=click.Choice(["f16", "f32"]), default="f16", show_default=True,
              help="Element type of the KV cache.")  # fmt: skip
@index_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of tokens and random weights.")
@click.option("--nonce", type=NONCE, default="", metavar="N",
              help="Draw the tokens from somebody's word, too, which the receipt tells.")  # fmt: skip
@click.option("--timeout", type=Number(min=0.1), metavar="SECONDS", help="Limit of one probe.")
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Measure prefill and decode of a model on every backend, or single ops with --ops.

    Each backend first passes the full probe, then runs in a process of its own; samples are taken in turn, and what
    was timed is held against a reference. A measurement that does not fit or would take too long is listed with the
    reason. Exit codes: 0 pass, 1 a gate failed or a number cannot be, 2 usage, 3 nothing was measured.
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            raise WrongInput(f"options of bench itself are not for {ctx.invoked_subcommand}; put its own behind it")
        return
    from kparity.cli.bench_run import run

    ctx.exit(run(options))


@bench.command(
    short_help="Hold two benchmark documents against each other.",
    examples=("kparity bench compare bench.json bench.json",),
)
@click.argument("a", type=File(path_type=Path))
@click.argument("b", type=File(path_type=Path))
@click.option("--fail-below", type=Number(min=0, min_open=True), metavar="RATIO",
              help="Exit 1 where B's speed over A's lies below this with its whole interval.")  # fmt: skip
@click.option("--across", multiple=True, metavar="FACT[,FACT]",
              help="Compare although these differ: device, driver, model, threads.")  # fmt: skip
@json_option
@click.pass_context
def compare(
    ctx: click.Context, a: Path, b: Path, fail_below: float | None, across: tuple[str, ...], json_path: str | None
) -> None:
    """Compare the measurements that A and B have in common: the speed of B over that of A.

    A and B are receipts of kparity bench, its --json, or files of pytest-benchmark. A ratio has a 95 % interval from
    the raw samples; it is "faster" or "slower" where the interval leaves 1 out. The interval tells of these two runs:
    whatever changed between them besides the code is in it too. Exit codes: 0 compared, 1 an interval lies below
    --fail-below or a number of B does not count, 2 no such documents, or measured on different things, 3 nothing in
    common.
    """
    from kparity.bench import comparison
    from kparity.cli.bench_table import print_compared
    from kparity.errors import named
    from kparity.host import files
    from kparity.receipts import document

    document.spare(json_path)
    allowed = named(across, "fact", tuple(comparison.ADVICE))
    left, right = comparison.read(a), comparison.read(b)
    result = comparison.compare(left, right, allowed)
    if json_path:
        text = json.dumps(comparison.as_json(left, right, result, fail_below), indent=1, ensure_ascii=False) + "\n"
        files.write(json_path, text)
    if json_path != "-":
        print_compared(result.rows)
    for side, names in (("A", result.only_a), ("B", result.only_b)):
        if names:
            log(f"only in {side}: {', '.join(names)}")
    for fact, (one, other) in result.differs.items():
        log(f"compared across {fact}: {one or 'unknown'} and {other or 'unknown'}")
    if not result.rows:
        log("nothing in common")
    ctx.exit(result.exit_code(fail_below))
