"""``kparity check``: every op, case and backend against fp64 truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kparity.cli.command import Command, File, for_people, outputs
from kparity.cli.options import (
    FILE,
    FOLDER,
    FUNCTION,
    OUT,
    Number,
    backends_option,
    ctrf_option,
    github_option,
    index_option,
    json_option,
    junit_option,
    ops_option,
    quiet_option,
    sarif_option,
)  # fmt: skip
from kparity.host.streams import log

if TYPE_CHECKING:
    from kparity.check.select import Selected
    from kparity.cli.check_own import Asked

SECONDS = Number(min=0, min_open=True)


@click.command(
    cls=Command,
    examples=(
        "kparity check -b cpu -o rope --quick",
        "kparity check -o tgemv -b cpu -k 'K=640, and M=1,' --json check.json",
        "kparity check --list -o add",
        "kparity check my.py:gemv --op tgemv --quick",
        "kparity check --lib ./libmine.so --symbol ternary_gemv --op tgemv --quick",
        "kparity check --cuda my.cu --kernel ternary_gemv --op tgemv --map my.yaml -k 'K=640, and M=1,' --sanitize",
    ),
)
@click.argument("target", type=FUNCTION, required=False, metavar="[FILE.py:FUNCTION]")
@ops_option("These ops only [default: all].")
@backends_option("These backends [default: all that open].")
@index_option
@click.option("-k", "expression", metavar="EXPR",
              help="Cases and kinds by substring: 'K=640, and not (zeros or one_hot)'.")  # fmt: skip
@click.option("--kind", "kind_names", multiple=True, metavar="KIND[,KIND]", help="These kinds of input, by name.")
@click.option("--list", "list_only", is_flag=True, help="Print what would run, one case and kind a line.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Base of every input's seed.")
@click.option("--max-seconds", type=SECONDS, metavar="S", help="Skip what has not run by then.")
@click.option("--case-timeout", type=SECONDS, default=60.0, show_default=True, metavar="S",
              help="A case that takes longer on a backend is a failure.")  # fmt: skip
@click.option("--quick", is_flag=True, help="The short list of cases.")
@click.option("-x", "--fail-fast", is_flag=True, help="Skip what comes after the first failure.")
@click.option("--lf", "--last-failed", "last_failed", is_flag=True,
              help="Only what failed last time; everything where nothing did.")  # fmt: skip
@click.option("--dump", type=FOLDER, metavar="DIR",
              help="Keep inputs, outputs, truth and text of what fails, a folder each.")  # fmt: skip
@click.option("--replay", type=FOLDER, metavar="DIR",
              help="Run what --dump kept once more, on its backend or on those of -b.")  # fmt: skip
@json_option
@quiet_option
@junit_option
@ctrf_option
@sarif_option
@github_option
@click.option("--sanitize", is_flag=True,
              help="cuda-ptx: report races on shared memory and reads of memory that nobody wrote.")  # fmt: skip
@click.option("--perturb", is_flag=True, help="cuda-ptx: approximate instructions err as far as PTX lets them.")
@click.option("--lib", type=File(path_type=Path), metavar="DIR|FILE",
              help="The build of llama.cpp whose ggml is checked [default: $KPARITY_LLAMACPP]; with --symbol, a shared "
              "library.")  # fmt: skip
@click.option(
    "--symbol", metavar="NAME", help="Judge this C function of the library of --lib in the place of the op's."
)
@click.option("--cuda", type=FILE, metavar="FILE", help="Judge a kernel of this CUDA text in the place of the op's.")
@click.option("--kernel", metavar="NAME", help='With --cuda: its name, of extern "C" or as the compiler mangles it.')
@click.option("--map", "map_path", type=FILE, metavar="FILE",
              help="With --cuda and --symbol: what its arguments are, and grid and block, as YAML [default: the op's "
              "ABI].")  # fmt: skip
@click.option("--csv", "csv_path", type=OUT, metavar="FILE", help="Write a line per output.")
def check(
    target: str | None,
    op_names: tuple[str, ...] | None, backends: tuple[str, ...] | None, index: int, expression: str | None,
    kind_names: tuple[str, ...], list_only: bool, seed: int, max_seconds: float | None, case_timeout: float,
    quick: bool, fail_fast: bool, last_failed: bool, github: bool, dump: Path | None, replay: Path | None,
    json_path: str | None, quiet: bool, junit_path: str | None, csv_path: str | None, sanitize: bool, perturb: bool,
    ctrf_path: str | None, sarif_path: str | None,
    lib: Path | None, symbol: str | None,
    cuda: str | None, kernel: str | None, map_path: str | None,
) -> int:  # fmt: skip
    """Hold every op of every backend against fp64 truth, or a function of yours (FILE.py:FUNCTION) in the place of one.

    Each case runs twice on every kind of input, on poisoned outputs between sentinels, in a process of its own; the
    thresholds are those of the contract kernel-parity-v1.
    """
    from kparity import ops
    from kparity.check import select
    from kparity.device import registry
    from kparity.errors import WrongInput, named
    from kparity.host import files
    from kparity.probe.dispatcher import parse_order

    if lib and not symbol:
        if not lib.is_dir():
            raise WrongInput(
                f"--lib {lib} is no folder; name one with the libraries of a build of llama.cpp, or, for a function of "
                "a library of yours, add --symbol"
            )
        os.environ["KPARITY_LLAMACPP"] = str(lib.resolve())  # for the children, which open it
    names = named(op_names or (), "op", ops.names())
    unread: list[str] = []
    options = tuple(name for name, wanted in (("sanitize", sanitize), ("perturb", perturb)) if wanted)
    foreign = _foreign(target, cuda, kernel, str(lib) if lib else None, symbol, map_path, options)
    order, chose = foreign.order(backends) if foreign else (parse_order(backends or registry.usual()), bool(backends))
    asked = order if chose else []
    for name in options:
        if not all(name in registry.backend_class(each).options for each in order):
            raise WrongInput(f"--{name} is for the backend cuda-ptx alone; name it: -b cuda-ptx")
    kinds = named(kind_names, "kind of input", select.kinds_of(names) if kind_names else ())
    if replay:
        from kparity.check.dump import chosen as kept

        if op_names or expression or kind_names or quick or seed:
            raise WrongInput("--replay runs what was kept: leave out -o, -k, --kind, --quick and --seed")
        chosen, asked, seed, unread = kept(replay, asked)
        for problem in unread:
            log(f"left out: {problem}")
    else:
        chosen = select.selected(names, quick, expression, kinds)
    if last_failed:
        if foreign:
            raise WrongInput(
                "--lf remembers what the built-in kernels failed at: leave it out, or use --dump and --replay"
            )
        chosen, asked = _again(chosen, asked)
    if list_only:
        if given := outputs():
            raise WrongInput(f"--list runs nothing: leave {' and '.join(given)} out")
        return _list(chosen)
    if dump:
        files.refuse_no_folder(dump)
    from kparity.check import failed
    from kparity.check.document import Request, to_github
    from kparity.check.runner import Limits
    from kparity.cli.check_run import run

    own = foreign.judged(chosen, names) if foreign else None
    if foreign and own:
        asked = foreign.found(own, chosen, asked, index)
    request = Request(
        backends=asked, ops=names, expression=expression, kinds=kinds, quick=quick, max_seconds=max_seconds,
        replay=str(replay) if replay else None, own=foreign.told(own) if foreign and own else None,
    )  # fmt: skip
    limits = Limits(case_timeout, max_seconds, fail_fast, index, options, own)
    result = run(chosen, request, seed, limits, str(dump.resolve()) if dump else "")
    if not replay and not own:
        failed.keep(result.records)
    from kparity.check import document

    written = (
        (json_path, document.as_json), (junit_path, document.as_junit), (csv_path, document.as_csv),
        (ctrf_path, document.as_ctrf), (sarif_path, document.as_sarif),
    )  # fmt: skip
    for path, form in written:
        if path:
            files.write(path, form(result))
    if github:
        to_github(result)
    if for_people():
        from kparity.cli.check_table import print_result

        print_result(result)
    return result.exit_code or (3 if unread else 0)


def _foreign(
    target: str | None, cuda: str | None, kernel: str | None, lib: str | None, symbol: str | None,
    map_path: str | None, options: tuple[str, ...],
) -> Asked | None:  # fmt: skip
    """What was asked for of somebody's own kernel; None where nothing was."""
    if not (target or cuda or kernel or symbol or map_path):
        return None
    from kparity.cli.check_own import Asked

    asked = Asked(target, cuda, kernel, lib, symbol, map_path, options)
    asked.refuse_half()
    return asked


def _again(chosen: list[Selected], asked: list[str]) -> tuple[list[Selected], list[str]]:
    """What failed last time, with the backends on which it did; everything where none of it was chosen."""
    from kparity.check import failed

    again = failed.only(chosen, asked, failed.load())
    if not again:
        log("nothing of this failed last time: all of it runs")
        return chosen, asked
    log(f"{sum(len(each.kinds) for each in again)} runs failed last time: only these run (--lf)")
    return again, list(dict.fromkeys(each.backend for each in again))


def _list(chosen: list[Selected]) -> int:
    from kparity.cli.table import say

    for each in chosen:
        for kind in each.kinds:
            say(f"{each.case.id} {kind}")
    runs = sum(len(each.kinds) for each in chosen)
    log(f"{len(chosen)} cases, {runs} runs on each backend")
    return 0 if chosen else 3
