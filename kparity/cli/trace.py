"""``kparity trace``: record what an engine computes between tokens and logits, compare two recordings, show one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kparity.cli import names
from kparity.cli.command import File, Group
from kparity.cli.names import completing
from kparity.cli.options import FILE, json_option, model_option, quiet_option
from kparity.host.streams import log

if TYPE_CHECKING:
    from collections.abc import Sequence

TRACE = File(path_type=Path)
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Every slot of every layer.")


@click.group(cls=Group)
def trace() -> None:
    """Traces of a forward pass, slot by slot (see docs/traces.md)."""


@trace.command(
    examples=(
        "kparity trace capture -e kparity:cpu --prompt 'The quick brown fox' --tensors -o fox",
        "kparity trace capture -e reference --tokens 0,34,77 --slots 'ffn_*' --layers 0-2 --positions last -o ffn",
    ),
)
@click.option("-e", "--engine", "spec", required=True, metavar="ENGINE", shell_complete=completing(names.engines),
              help="kparity:BACKEND, reference, llama.cpp, llama.cpp:FOLDER (see docs/engines.md).")  # fmt: skip
@model_option
@click.option("--prompt", metavar="TEXT", help="The text to trace, cut by the engine's own tokenizer.")
@click.option("--prompt-file", type=FILE, metavar="FILE", help="The same from a file.")
@click.option("--tokens", metavar="IDS", help="Ids instead of a text: 0,34,77.")
@click.option("-o", "--output", "folder", required=True, type=TRACE, metavar="DIR", help="A new folder.")
@click.option("--tensors", is_flag=True, help="Keep every tensor beside the statistics.")
@click.option("--slots", metavar="A,B", shell_complete=completing(names.slots),
              help="Keep the tensors of these slots: ffn_gate,attn_*.")  # fmt: skip
@click.option("--layers", metavar="N-M", help="Of these layers: 0,2-4.")
@click.option("--positions", metavar="N-M", help="And these positions: 0,8-15,last.")
@click.option("--context", type=click.IntRange(min=1), metavar="N", help="Positions [default: those of the prompt].")
@quiet_option
def capture(
    spec: str, model: str | None, prompt: str | None, prompt_file: str | None, tokens: str | None, folder: Path,
    tensors: bool, slots: str | None, layers: str | None, positions: str | None, context: int | None, quiet: bool,
) -> None:  # fmt: skip
    """Record a trace: statistics of every slot, over all tokens and over the last one, and the tensors that are wanted.

    The tokens are scored without tracing first: where tracing changes a bit of the logits, nothing is recorded.
    """
    from contextlib import closing

    from kparity.engines.remote import open_engine
    from kparity.host import files, progress
    from kparity.traces.capture import Wanted, capture

    given = _one_of(prompt, prompt_file, tokens)
    text = files.read_text(given, "a prompt") if prompt_file else given
    if not text:
        raise click.UsageError("the prompt is empty; give a text, or --tokens with the id of BOS to trace that alone")
    files.refuse_no_folder(folder)
    with closing(open_engine(spec, model=model or "", context=context or 0)) as engine:
        ids = engine.tokenize(text) if tokens is None else _numbers(tokens, "--tokens")
        if not ids:
            raise click.UsageError("the prompt has no token; give a longer one")
        wanted = Wanted(
            slots.split(",") if slots else ["*"] if tensors or layers or positions else [],
            None if layers is None else _numbers(layers, "--layers", engine.facts.layers),
            None if positions is None else _numbers(positions, "--positions", len(ids)),
        )
        with progress.task("trace capture", 2 * len(ids)) as task:

            def tick(done: int, note: str) -> None:
                task.advance(done)
                task.stage(note)

            end = capture(engine, spec, ids, folder, wanted, tick)
    if not quiet:
        from kparity.cli.trace_table import print_captured

        print_captured(folder, len(ids), end)


def _one_of(prompt: str | None, prompt_file: str | None, tokens: str | None) -> str:
    given = [each for each in (prompt, prompt_file, tokens) if each is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --prompt, --prompt-file and --tokens")
    return given[0]


def _numbers(text: str, option: str, count: int = 0) -> list[int]:
    """Numbers and ranges; ``last`` of ``count``."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, end = (
            str(count - 1) if each == "last" and count else each for each in part.strip().partition("-")
        )
        ends = [first, end] if dash else [first]
        if not all(each.isascii() and each.isdecimal() and len(each) < 8 for each in ends):
            raise click.UsageError(f"{option} {text!r}: {part!r} is no number and no range; write for example 0,2-4")
        if int(ends[0]) > int(ends[-1]):
            raise click.UsageError(f"{option} {text!r}: {part!r} ends before it begins; write the smaller one first")
        found += range(int(ends[0]), int(ends[-1]) + 1)
    return found


@trace.command(
    examples=(
        "kparity trace diff ours.trace plain.trace",
        "kparity trace diff ours.trace plain.trace --last-token --json diff.json",
    ),
)
@click.argument("a", type=TRACE)
@click.argument("b", type=TRACE)
@click.option("--last-token", is_flag=True, help="Compare the last token alone, on both sides.")
@click.option("--map", "map_path", type=FILE, metavar="FILE", help="Names of a dump to slots (see docs/traces.md).")
@click.option("--floor", type=TRACE, metavar="TRACE", help="A third trace: its distance from A is to be expected.")
@json_option
@VERBOSE
@quiet_option
@click.pass_context
def diff(
    ctx: click.Context, a: Path, b: Path, last_token: bool, map_path: str | None, floor: Path | None,
    json_path: str | None, verbose: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compare two traces, or a trace with a dump of .npy or .safetensors files: sample sizes first, then the ratio of
    standard deviations, then which slot is the first whose output does not follow from its inputs.

    Exit codes: 0 nothing differs beyond what follows, 1 something does, 2 a trace cannot be read, 3 the samples differ.
    """
    from kparity.errors import WrongInput
    from kparity.host import files
    from kparity.traces import files as traces
    from kparity.traces.diff import diff
    from kparity.traces.dumps import READERS

    if map_path and all((each / traces.INDEX).exists() for each in (a, b)):
        raise click.UsageError("--map is for dumps, and both are traces of kparity")
    to, sides = Path(json_path or "-"), [each for each in (a, b, floor) if each]
    if (to.name == traces.INDEX or to.suffix in READERS) and any(files.same(to.parent, each) for each in sides):
        raise WrongInput(f"--json would write over {to}, which is of a trace; name another file")
    left, right, *third = (
        traces.load(each, map_path if not (each / traces.INDEX).exists() else None) for each in sides
    )
    found = diff(left, right, last_token=last_token, floor=third[0] if third else None)
    if json_path:
        files.write_record(json_path, found)
    if json_path != "-" and not quiet:
        from kparity.cli.trace_table import print_diff

        print_diff(found, verbose)
    ctx.exit({"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[found.verdict])


@trace.command(
    examples=("kparity trace show ours.trace", "kparity trace show ours.trace --slots output,logits -v"),
)
@click.argument("folder", type=TRACE)
@click.option("--slots", metavar="A,B", shell_complete=completing(names.slots), help="These slots only.")
@VERBOSE
def show(folder: Path, slots: str | None, verbose: bool) -> None:
    """Of what a trace is, and the statistics of its slots; of all tokens, and with -v of the last one too."""
    from kparity.cli.trace_table import print_trace
    from kparity.errors import named
    from kparity.traces import files
    from kparity.traces.slots import TABLE

    chosen: Sequence[str] = named([slots], "trace slot", TABLE) if slots else list(TABLE)
    loaded = files.load(folder)
    if loaded.begin is None:
        log(f"{folder} is a dump: it does not say of which engine, model and tokens")
    print_trace(loaded, chosen, verbose)
