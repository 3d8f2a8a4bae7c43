"""``kparity model``: what a model file says about itself, and models of transformers made of one and into one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from kparity.cli.command import Group, for_people
from kparity.cli.options import FILE, FOLDER, OUT, json_option
from kparity.host.text import number

HIDDEN = ("tokenizer.chat_template",)
"""Keys that take a screen each; ``--json`` has them."""

_WIDEST = 70  # characters of a key's value in the table


@click.group(cls=Group)
def model() -> None:
    """Look into a model file; write one as a folder of transformers, and such a folder as one."""


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


@model.command(
    examples=(
        "kparity model doctor model.gguf",
        "kparity model doctor model.gguf --fix corrected.gguf --json doctor.json",
    ),
)
@click.argument("file", required=False, type=FILE, metavar="[FILE]")
@click.option("--fix", type=OUT, metavar="OUT", help="Write a copy with corrected keys there; FILE stays as it is.")
@click.option("--tokens", type=click.IntRange(min=0, max=1 << 16), default=256, show_default=True,
              help="Of the built-in text that runs read, to try activation and RoPE; 0: no run.")  # fmt: skip
@json_option
def doctor(file: str | None, fix: str | None, tokens: int, json_path: str | None) -> int:
    """Say of each item of a GGUF file whether it is ok, wrong or doubtful, on which evidence, and what engines do.

    It looks at types by their sizes, tensors, scales, codes, rows, norms, vocabulary, special tokens, template,
    activation, RoPE and constants, by default of the embedded model. What cannot be tried here is told, item by item.
    Exit codes: 0 nothing is wrong, 1 an item is, 2 it is no GGUF file.
    """
    from kparity.doctor import examine
    from kparity.host import files, progress

    with progress.task("model doctor"):
        report = examine(file, tokens, fix or "")
    if json_path:
        files.write_record(json_path, report)
    if for_people():
        from kparity.cli.doctor_table import print_doctor

        print_doctor(report, fix or "")
    return report.exit_code


@model.command(
    examples=(
        "kparity model export -o model.hf",
        "kparity model export model.gguf -o saved",
    ),
)
@click.argument("file", required=False, type=FILE, metavar="[FILE]")
@click.option("-o", "--output", "folder", required=True, type=FOLDER, metavar="DIR", help="A new folder.")
def export(file: str | None, folder: Path) -> None:
    """Write the model of a GGUF file, by default the embedded one, as a folder of transformers, in f32.

    Weights and scales keep their values. Architectures: bitnet, llama and qwen3.
    """
    from kparity.engines import hf_weights
    from kparity.errors import WrongInput
    from kparity.host import files, progress
    from kparity.model.gguf_file import embedded

    files.refuse_no_folder(folder)
    if any(folder.iterdir()):
        raise WrongInput(f"{folder} is not empty; name a new folder")
    with progress.task("model export"):
        hf_weights.save(file or str(embedded()), folder)
    _told(folder, f"transformers:{folder}")


@model.command(
    "import",
    examples=(
        "kparity model import model.hf -o back.gguf",
        "kparity model import model.hf -o back.gguf --type tq2_0",
    ),
)
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("-o", "--output", "file", required=True, type=OUT, metavar="FILE", help="The GGUF file.")
@click.option("--type", "kind", type=click.Choice(["i2_s", "tq1_0", "tq2_0", "f32", "f16"]),
              help="Of the matrices [default: i2_s where they are ternary, else f32].")  # fmt: skip
def import_(folder: Path, file: str, kind: str | None) -> None:
    """Write a folder of transformers as a GGUF file: bitnet, llama and qwen3, with a byte-level BPE as tokenizer.

    Weights keep their values, but for f16; a ternary scale does in i2_s, and is rounded to f16 in tq1_0 and tq2_0,
    which llama.cpp reads. Nothing is downloaded, and no code of the folder runs.
    """
    from kparity.engines import hf_weights
    from kparity.host import files, progress

    with progress.task("model import"):
        files.write(file, b"".join(hf_weights.imported(str(folder), kind or "")))
    _told(file, f"kparity model inspect {file}")


def _told(written: str | Path, then: str) -> None:
    from kparity.host.streams import log

    log(f"{written} is written; {then} reads it")


def print_report(report: dict[str, Any]) -> None:
    """The report as tables."""
    from kparity.cli.table import Table, say

    numbers = ("min", "mean", "max", "std", "rms")
    graph, keys, faults = Table("graph", ""), Table("key", "value"), Table("tensor", "verdict", "reason")
    counts = ("tensors", "elements", "bytes")
    types = Table("type", *counts, "scale per", "-1, 0, +1, +2", right=counts)
    norms = Table("norm", "verdict", *numbers, "reason", right=numbers)
    for name, value in graph_lines(report):
        graph.add(name, value)
    for name, value in report["keys"].items():
        if name not in HIDDEN:
            keys.add(_short(name), _short(_value(value)))
    for row in report["types"]:
        codes = ", ".join(f"{count / sum(row['codes']):.1%}" for count in row["codes"]) if row["codes"] else ""
        types.add(row["type"], *(f"{row[column]:,}" for column in counts), ", ".join(row["spans"]), codes)
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
    pre = tokenizer["pre"] or ("default" if tokenizer["kind"] == "llama" else "default, tokenizer.ggml.pre is missing")
    split = f"pre-tokenizer {pre}"
    front = "put in front of a prompt" if tokenizer["add_bos"] else "not put in front of a prompt"
    key = f"{h['arch']}.hidden_activation"
    by = f"by {key}" if key in report["keys"] else f"by the architecture, {key} is missing"
    table = ", frequencies divided by rope_freqs" if h["rope_factors"] else ""
    return [
        ("arch", f"{h['arch']}, activation {h['act']} ({by})"),
        ("layers", f"{h['n_layer']}, width {h['width']}, feed-forward {h['ffn']}"),
        ("heads", f"{h['n_head']} of {h['head_dim']}, {h['n_kv']} for keys and values"),
        ("rope", f"{h['rope_mode']}, {h['rope_dim']} dimensions, theta {h['theta']:g}{scaling}{table}"),
        ("norm eps", f"{h['eps']:g}"),
        ("context", f"{h['context']}"),
        *([("not ternary", _mixed(report["mixed"]))] if report["mixed"] else []),
        ("embedding", f"{h['vocab']} × {h['width']}, head {report['head']}"),
        ("vocabulary", f"{tokenizer['tokens']} tokens, {tokenizer['kind']}, {split}"),
        ("bos", f"{bos}, {front}"),
        ("eos", eos),
    ]


def _mixed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}: activations are not quantised for these"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['length']} elements, first {value['first']}"
    return number(value) if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)


def _short(text: str) -> str:
    """The beginning of a text from a file, which may be a megabyte."""
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
