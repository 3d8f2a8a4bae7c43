"""``kparity ops``: which ops there are, and what one of them is."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from kparity.cli import names
from kparity.cli.command import Command
from kparity.cli.names import completing
from kparity.cli.options import json_option

if TYPE_CHECKING:
    from kparity.ops.spec import Op

SHOWN = 5
"""Case ids that are shown without ``-v``."""


@click.command(
    cls=Command,
    examples=(
        "kparity ops",
        "kparity ops rope --json",
    ),
)
@click.argument("op_name", metavar="[OP]", required=False, shell_complete=completing(names.ops))
@click.option("-v", "--verbose", is_flag=True, help="Every case id.")
@json_option
def ops(op_name: str | None, verbose: bool, json_path: str | None) -> None:
    """List the ops, or show one: formula, ABI, constants, cases, kinds of input, and the backends that have it."""
    from kparity import ops as known
    from kparity.host import files

    if op_name is not None:
        whole = _whole(known.get(op_name))
        if not json_path:
            _print(whole, verbose)
    else:
        whole = {"ops": [_brief(known.get(name)) for name in known.names()]}
        if not json_path:
            _print_all(whole["ops"])
    if json_path:
        files.write(json_path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def _documented(op: Op) -> str:
    """The docstring of the op's module, if that is about it alone, else that of its class."""
    import inspect
    import sys

    text = inspect.cleandoc(sys.modules[type(op).__module__].__doc__ or "")
    return text if text.startswith(f"{op.name}:") else inspect.cleandoc(type(op).__doc__ or "")


def _brief(op: Op) -> dict[str, Any]:
    from kparity.ops.assemble import TEXTS, missing_text

    what = _documented(op).split("\n\n")[0].replace("\n", " ").removeprefix(f"{op.name}: ")
    return {"op": op.name, "what": what, "dialects": [each for each in TEXTS if missing_text(op, each) is None]}


def _whole(op: Op) -> dict[str, Any]:
    """Everything; the ABI and the constants at the last case of the short list, which is a large one."""
    from kparity.check.select import kinds_of
    from kparity.device import registry
    from kparity.ops.assemble import missing_text

    example, sweep = op.cases()[-1], dict.fromkeys(op.sweep())
    classes = {name: registry.declared(name) for name in registry.names()}
    return {
        **_brief(op),
        "doc": _documented(op),
        "example": example.id,
        "arguments": [
            {"name": arg.name, "role": arg.role, "dtype": arg.dtype, "shape": list(arg.shape)}
            for arg in op.args(example)
        ],
        "parameters": {"required": list(op.required), "options": dict(op.defaults)},
        "defines": op.defines(example),
        "cases": [case.id for case in sweep],
        "quick": len(set(op.cases())),
        "kinds": kinds_of([op.name]),
        "backends": [name for name, each in classes.items() if each and missing_text(op, each.dialect) is None],
    }


def _print_all(every: list[dict[str, Any]]) -> None:
    from kparity.cli.table import Table

    table = Table("", "")
    for each in every:
        table.add(each["op"], f"{each['what']} ({', '.join(each['dialects'])})")
    table.print()


def _print(whole: dict[str, Any], verbose: bool) -> None:
    from kparity.cli.table import Table, say

    for paragraph in whole["doc"].split("\n\n"):
        formula = re.search("^ |  ", paragraph, re.M)  # its lines stand as they are
        for line in paragraph.splitlines() if formula else [paragraph.replace("\n", " ")]:
            say(line, hang=0 if not formula else 2)
        say("")
    say(f"arguments at {whole['example']}, in order:")
    arguments = Table("", "role", "argument", "dtype", "shape", right=("",))
    for at, arg in enumerate(whole["arguments"]):
        arguments.add(at, arg["role"], arg["name"], arg["dtype"], arg["shape"])
    arguments.print()
    say("")
    facts = Table("", "")
    required, options = whole["parameters"].values()
    facts.add("parameters", ", ".join((*required, *(f"{name}={value}" for name, value in options.items()))))
    facts.add("defines", ", ".join(f"{name}={value}" for name, value in whole["defines"].items()))
    facts.add("kinds of input", ", ".join(whole["kinds"]))
    facts.add("backends", ", ".join(whole["backends"]))
    facts.add("dialects", ", ".join(whole["dialects"]))
    ids = whole["cases"]
    facts.add("cases", f"{len(ids)}, {whole['quick']} of them with --quick")
    facts.print()
    for each in ids if verbose else ids[:SHOWN]:
        say(each, indent=2)
    if not verbose and len(ids) > SHOWN:
        say(f"… and {len(ids) - SHOWN} more: -v", indent=2)
