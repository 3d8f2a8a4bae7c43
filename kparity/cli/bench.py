"""``kparity bench``: speed, beside proof that the output was right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

LONGEST = 1 << 20


class BenchGroup(click.Group):
    """Runs the benchmark where no command follows; ``compare`` is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The one command."""
        return ["compare"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        if cmd_name != "compare":
            return None
        from kparity.cli.bench_compare import compare

        command: click.Command = compare
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The one command, without importing it."""
        with formatter.section("Commands"):
            formatter.write_dl([("compare", "Hold two benchmark documents against each other.")])


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


@click.group(cls=BenchGroup, invoke_without_command=True)
@click.option(
    "--backends", metavar="A,B,C", help="Backends to measure, in this order [default: cuda,hip,wgpu,opencl,cpu]."
)
@click.option("--model", type=click.Path(dir_okay=False), metavar="FILE", help="A GGUF file [default: embedded].")
@click.option("--shape", metavar="NAME[:LAYERS[:VOCAB]]", help="Random weights of a shape: 2b-4t, 2b-4t:6:32000, tiny.")
@click.option("--pp", "prompts", callback=lengths(1), default="32,128,512", show_default=True, metavar="N,…",
              help="Prompt lengths of the prefill; - is none.")  # fmt: skip
@click.option("--tg", "depths", callback=lengths(0), default="0,512,2048", show_default=True, metavar="N,…",
              help="Depths at which single steps are timed; - is none.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the cpu backend and of llama.cpp.")
@click.option("--isa", metavar="NAME", help="Instruction set of the cpu backend: amx, avx512vnni, avx2, neon, scalar.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True),
              help="Of sampling: all measurements of a model together [default: 30], or each case of --ops "
              "[default: 3].")  # fmt: skip
@click.option("--baseline", "baselines", type=click.Choice(["llama.cpp", "torch"]), multiple=True,
              help="Beside the backends: llama.cpp on the same file; for --ops torch or ggml. Repeatable.")  # fmt: skip
@click.option("--baseline-file", "baseline_files", type=click.Path(dir_okay=False), multiple=True, metavar="FILE",
              help="The same model in another type, for llama.cpp alone. Repeatable.")  # fmt: skip
@click.option("--ops", "ops_expression", is_flag=False, flag_value="", metavar="[EXPR]",
              help="Single ops instead of models, chosen as by kparity check -k.")  # fmt: skip
@click.option("--receipt", type=click.Path(dir_okay=False), metavar="FILE", help="Write a receipt.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the same document; - is stdout.")
@click.option("--no-parity", is_flag=True, help="Time without the probe: nothing counts, and everything says so.")
@click.option("--require-gpu", is_flag=True, help="Refuse CPU and software devices.")
@click.option("--act", type=click.Choice(["token", "block256"]), default="token", show_default=True,
              help="Activation quantisation: per token (BitNet) or per 256 (llama.cpp).")  # fmt: skip
@click.option("--kv", type=click.Choice(["f16", "f32"]), default="f16", show_default=True,
              help="Element type of the KV cache.")  # fmt: skip
@click.option("--index", type=click.IntRange(min=0), default=0, show_default=True, help="Device index.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of tokens and random weights.")
@click.option("--timeout", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Limit of one probe.")
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Measure prefill and decode of a model on every backend, or single ops with --ops.

    Each backend first passes the full probe, then runs in a process of its own; samples are taken in turn, and what
    was timed is held against a reference. A measurement that does not fit or would take too long is listed with the
    reason. Exit codes: 0 pass, 1 a gate failed or a number cannot be, 2 usage, 3 nothing was measured.
    """
    if ctx.invoked_subcommand is not None:
        return
    from kparity.cli.bench_run import run

    ctx.exit(run(options))
