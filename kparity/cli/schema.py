"""``kparity schema``: the form of what kparity writes and reads, for other programs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from kparity.cli.command import Command

FORMS = {
    "receipt": ("kparity.receipts.record", "Statement"),
    "cutover-receipt": ("kparity.receipts.cutover", "CutoverStatement"),
    "test-result": ("kparity.receipts.results", "ResultStatement"),
    "probe": ("kparity.probe.document", "Document"),
    "check": ("kparity.check.document", "Document"),
    "ladder": ("kparity.ladder.record", "Document"),
    "bisect": ("kparity.bisect.record", "Bisection"),
    "diagnosis": ("kparity.diagnose.document", "Document"),
    "burnin": ("kparity.burnin.stats", "Stats"),
    "burnin-round": ("kparity.burnin.record", "Row"),
    "ppl": ("kparity.burnin.perplexity", "Perplexity"),
    "cutover": ("kparity.burnin.cutover", "Decision"),
    "trace-diff": ("kparity.traces.diff", "TraceDiff"),
    "contract": ("kparity.contracts.form", "schema"),
}
"""Name → the typed record that stands for a document, or what makes its schema."""


def schema_of(form: str) -> dict[str, Any]:
    """The JSON Schema of one of ``FORMS``."""
    import msgspec

    module, name = FORMS[form]
    record = getattr(import_module(module), name)
    schema = msgspec.json.schema(record) if isinstance(record, type) else record()
    parts: list[Any] = [schema]
    while parts:  # a float that JSON cannot hold says itself what stands in its place
        part = parts.pop()
        if isinstance(part, dict) and "anyOf" in part and isinstance(part.get("type"), str):
            del part["type"]
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@click.command(
    cls=Command,
    examples=("kparity schema receipt",),
)
@click.argument("form", type=click.Choice(list(FORMS)), metavar="FORM")
def schema(form: str) -> None:
    """Print the JSON Schema of a FORM: receipt, test-result, contract, or the JSON of a command such as probe."""
    from kparity.host import files

    files.write_json(files.STDIO, schema_of(form))
