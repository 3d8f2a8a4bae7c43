"""``kparity model inspect``: what a model file says about itself."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from kparity.cli.command import Group
from kparity.cli.options import FILE, json_option
from kparity.host.text import number

HIDDEN = ("tokenizer.chat_template",)
"""Keys that take a screen each; ``--json`` has them."""

_WIDEST = 70  # characters of a key's value in the table


@click.group(cls=Group)
def model() -> None:
    """Look into a model file."""


@model.command(
    examples=(
        "kparity model inspect",
        "kparity model inspect --json",
    ),
)
@click.argument("file", required=False, type=FILE, metavar="[FILE]")
@json_option
def inspect(file: str | None, json_path: str | None) -> None:
    """Show keys, tensor types and norm statistics of a GGUF file, by default of the embedded model.

    A norm is SUSPECT where its weights are not finite, all zero, far from 1, or a factor √width away from 1; any other
    tensor where values or scales are not finite, or all zero. This is no gate: the exit code stays 0. A damaged file is
    exit code 2, and kparity probe refuses a model whose values are not finite.
    """
    from kparity.host import progress
    from kparity.model import load_model

    with progress.task("model inspect"), closing(load_model(file)) as opened:
        report = opened.inspect()
    if json_path:
        from kparity.host import files

        files.write_json(json_path, report)
    else:
        print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """The report as tables."""
    from kparity.cli.table import Table, say

    numbers = ("min", "mean", "max", "std", "rms")
    graph, keys, faults = Table("graph", ""), Table("key", "value"), Table("tensor", "verdict", "reason")
    types = Table("type", "tensors", "elements", "bytes", right=("tensors", "elements", "bytes"))
    norms = Table("norm", "verdict", *numbers, "reason", right=numbers)
    for name, value in graph_lines(report):
        graph.add(name, value)
    for name, value in report["keys"].items():
        if name not in HIDDEN:
            keys.add(_short(name), _short(_value(value)))
    for row in report["types"]:
        types.add(row["type"], *(f"{row[column]:,}" for column in ("tensors", "elements", "bytes")))
    for norm in report["norms"]:
        norms.add(norm["name"], norm["verdict"], *(norm[column] for column in numbers), norm["reason"])
    for fault in report["faults"]:
        faults.add(fault["tensor"], "SUSPECT", fault["reason"])
    wrong = sum(norm["verdict"] != "OK" for norm in report["norms"])
    total, others = len(report["norms"]), sum(row["tensors"] for row in report["types"])
    say(f"{report['name']}: {report['bytes']:,} bytes, GGUF {report['version']}, sha256 {report['sha256']}")
    for table in (graph, keys, types, norms, *([faults] if report["faults"] else [])):
        say("")
        table.print()
    say("")
    say(f"norms: {total - wrong} OK, {wrong} SUSPECT")
    suspect = len({fault["tensor"] for fault in report["faults"]})
    say(f"other tensors: {others - total - suspect} OK, {suspect} SUSPECT")


def graph_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What the keys mean for the graph, one line per subject."""
    h, tokenizer = report["hparams"], report["tokenizer"]
    scaling = "" if h["rope_scale"] == 1.0 else f", positions divided by {h['rope_scale']:g}"
    bos = "none" if tokenizer["bos"] is None else f"{tokenizer['bos']} {tokenizer['bos_text']!r}"
    eos = "none" if tokenizer["eos"] is None else f"{tokenizer['eos']} {tokenizer['eos_text']!r}"
    split = f"pre-tokenizer {tokenizer['pre'] or 'default'}"
    front = "put in front of a prompt" if tokenizer["add_bos"] else "not put in front of a prompt"
    return [
        ("arch", f"{h['arch']}, activation {h['act']}"),
        ("layers", f"{h['n_layer']}, width {h['width']}, feed-forward {h['ffn']}"),
        ("heads", f"{h['n_head']} of {h['head_dim']}, {h['n_kv']} for keys and values"),
        ("rope", f"{h['rope_mode']}, {h['rope_dim']} dimensions, theta {h['theta']:g}{scaling}"),
        ("norm eps", f"{h['eps']:g}"),
        ("context", f"{h['context']}"),
        ("embedding", f"{h['vocab']} × {h['width']}, head {report['head']}"),
        ("vocabulary", f"{tokenizer['tokens']} tokens, {tokenizer['kind']}, {split}"),
        ("bos", f"{bos}, {front}"),
        ("eos", eos),
    ]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['length']} elements, first {value['first']}"
    return number(value) if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)


def _short(text: str) -> str:
    """The beginning of a text from a file, which may be a megabyte."""
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
