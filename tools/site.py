"""Hooks of mkdocs (``mkdocs build --strict``): the reference is made of the code; links that leave the docs are text.

Pages under ``reference/`` are in no folder: each is written when the site is built, from the commands, contracts,
reason codes, schemas and public names as they then are.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import kparity
from kparity.cli.command import EXIT_CODES, Command
from kparity.cli.main import cli
from kparity.cli.schema import FORMS, schema_of
from kparity.contracts import terms
from kparity.device import codes
from kparity.receipts.findings import REFUSALS
from kparity.testing import assert_parity

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
"""A link to a file that is no page: its words stay."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the code."""
    for name, lines in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines()) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page without links to what the site does not have."""
    return OUTSIDE.sub(r"\1", markdown)


def commands() -> Iterator[str]:
    """Every command with its help, options and examples."""
    yield from ("# Commands", "", "Made of the commands themselves.", "", f"Exit codes: {' '.join(EXIT_CODES.split())}")
    yield from _command(cli, click.Context(cli, info_name="kparity"))


def _command(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield from ("", f"## `{ctx.command_path}`", "", "```text")
    yield ctx.command_path + " " + " ".join(command.collect_usage_pieces(ctx))
    yield from ("```", "", inspect.cleandoc(command.help or ""), "")
    rows = [record for record in (param.get_help_record(ctx) for param in command.params) if record]
    if rows:
        yield from ("| option | meaning |", "|---|---|", *(f"| `{_cell(a)}` | {_cell(b)} |" for a, b in rows), "")
    if isinstance(command, Command) and command.examples:
        yield from ("```sh", *command.examples, "```")
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            each = command.get_command(ctx, name)
            assert each is not None
            yield from _command(each, click.Context(each, info_name=name, parent=ctx))


def thresholds() -> Iterator[str]:
    """Every threshold and equation of the contracts, with its basis."""
    yield from ("# Thresholds", "", "Every number by which something is judged, from the contracts, with its basis.")
    contract = ""
    for term in terms.every():
        if term.contract.id != contract:
            contract = term.contract.id
            yield from ("", f"## {contract} {term.contract.version}", "")
        facts = " ".join(f"*{name}*: {_plain(text)}" for name, text in term.facts.items())
        yield f"- **`{term.name}`{term.limit}** {facts}"


def reasons() -> Iterator[str]:
    """Every reason code with its cause and remedy."""
    yield from ("# Reason codes", "", "`kparity explain CODE` prints one of them.", "")
    yield from ("| code | what | cause | remedy |", "|---|---|---|---|")
    for name, reason in {**codes.own(), **REFUSALS}.items():
        yield f"| `{name}` | {' | '.join(map(_cell, (reason.title, reason.cause, reason.remedy)))} |"


def schemas() -> Iterator[str]:
    """Every form of JSON that is written or read."""
    yield from ("# JSON Schemas", "", "`kparity schema FORM` prints one of them.")
    for form in FORMS:
        text = json.dumps(schema_of(form), indent=1, ensure_ascii=False)
        yield from ("", f"## {form}", "", "```json", text, "```")


def python() -> Iterator[str]:
    """The public names of the package."""
    yield from ("# Python", "", "```text", inspect.cleandoc(kparity.__doc__ or ""), "```")
    public = [("kparity", name, getattr(kparity, name)) for name in kparity.__all__ if not name.startswith("__")]
    for module, name, found in [*public, ("kparity.testing", "assert_parity", assert_parity)]:
        yield from ("", f"## `{module}.{name}`", "", "```python", f"{name}{inspect.signature(found)}", "```", "")
        yield from ("```text", inspect.cleandoc(found.__doc__ or ""), "```")


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {
    "cli": commands, "thresholds": thresholds, "codes": reasons, "schemas": schemas, "python": python,
}  # fmt: skip
